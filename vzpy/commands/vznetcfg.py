"""vznetcfg: raises the host's end of a veth, or has EXTERNAL_SCRIPT of vznet.conf do what it will
(config-files 9)."""

from __future__ import annotations

import os
import sys

from vzpy.errors import VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.story import netdevices, vethscript

OPTIONS: tuple[Option, ...] = ()
WORDS = ("init", "veth")
_USAGE = "vznetcfg init veth <dev>"


def main(argv: list[str]) -> int:
    """Run `vznetcfg ARGV...`; returns the exit code, or becomes the script."""
    script = netdevices.external_script(NodePaths.of().etc)
    if script and not _is_this(script):
        try:
            os.execv(script, [script, *argv])
        except OSError as err:
            print(f"Unable to execute {script}: {err.strerror}", file=sys.stderr)
            return 130
    if argv[:2] != ["init", "veth"] and len(argv) > 2:
        print("invalid action")
        return 1
    if len(argv) != 3:
        print(_USAGE, file=sys.stderr)
        return 0 if len(argv) < 3 else 1
    try:
        vethscript.raise_up(argv[2])
    except VzError as err:
        print(err, file=sys.stderr)
        return err.code
    return 0


def _is_this(script: str) -> bool:
    try:
        return os.path.samefile(script, sys.argv[0])
    except OSError:
        return False
