"""vzpid: the VPS of a process (beancounters 5.5)."""

from __future__ import annotations

import sys

from vzpy import options, pids
from vzpy.errors import UsageError
from vzpy.model import NodePaths
from vzpy.option import Option

OPTIONS = (
    Option("pid", help="show also the pid inside the VPS", short="p"),
    Option("help", help="usage", short="h"),
)
_USAGE = "Usage: vzpid [-p] pid ... | -"


def main(argv: list[str]) -> int:
    """Run `vzpid ARGV...`; returns the exit code."""
    try:
        pairs, words = options.getopt("vzpid", argv, OPTIONS, 1)
    except UsageError as err:
        print(f"{err}\n{_USAGE}", file=sys.stderr)
        return err.code
    given = {option.name for _, option, _ in pairs}
    if "help" in given:
        print(_USAGE)
        return 0
    if not words:
        print(_USAGE, file=sys.stderr)
        return 1
    if words == ["-"]:
        words = sys.stdin.read().split()
    inner = "pid" in given
    print("Pid\tCT/Pid\tCTID\tName" if inner else "Pid\tCTID\tName")
    cgroup = NodePaths.of().cgroup
    for word in words:
        found = pids.find(cgroup, int(word)) if word.isascii() and word.isdigit() else None
        if found:
            middle = f"{found.inner}\t" if inner else ""
            print(f"{found.pid}\t{middle}{found.ctid}\t{found.name}")
    return 0
