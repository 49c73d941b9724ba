"""vzcpucheck: CPU units handed out, against the power of the machine (beancounters.md 5.3)."""

from __future__ import annotations

import sys

from vzpy import hostfacts, listing
from vzpy.commands import planned
from vzpy.errors import VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.planning import usage

OPTIONS = (Option("verbose", help="a line for the host and each running VPS", short="v"),)
USAGE = "Usage: vzcpucheck [-v]"
_USAGE_CODE = 2
_DEFAULT = 1000


def main(argv: list[str]) -> int:
    """Run `vzcpucheck ARGV...`; returns the exit code."""
    if argv not in ([], ["-v"], ["--verbose"]):
        print(USAGE, file=sys.stderr)
        return _USAGE_CODE
    try:
        node = listing.open_node(NodePaths.of())
    except VzError as err:
        return planned.complain(err)
    host_units = node.config.raw("VE0CPUUNITS") or ""
    units = {0: int(host_units) if host_units.isdecimal() else _DEFAULT}
    units |= {row.ctid: row.cpuunits or _DEFAULT for row in listing.collect(node)[0]}
    units = {ctid: usage.fair_units(count) for ctid, count in units.items()}
    host = hostfacts.facts()
    if argv:
        print("VEID\t\tCPUUNITS\n-------------------------")
        for ctid, count in units.items():
            print(f"{ctid}\t\t{count}")
    print(f"Current CPU utilization: {sum(units.values())}")
    print(f"Power of the node: {usage.power(host)}")
    if usage.overcommitted(units.values(), host):
        print("Warning: hardware node is overcommitted")
    return 0
