"""vznetaddbr: puts the host's end of a veth on the bridge that N.conf names, as EXTERNAL_SCRIPT of
vznet.conf (config-files 9)."""

from __future__ import annotations

import os
import sys

from vzpy.errors import Exit, VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.story import vethscript

OPTIONS: tuple[Option, ...] = ()
WORDS = ("init", "veth")
_USAGE = "Usage: VEID=CTID vznetaddbr init veth <dev>"


def main(argv: list[str]) -> int:
    """Run `vznetaddbr ARGV...` with the number of a VPS in VEID; returns the exit code."""
    veid = os.environ.get("VEID", "")
    if len(argv) != 3 or not (veid.isascii() and veid.isdigit()):
        print(_USAGE, file=sys.stderr)
        return Exit.INVALID_PARAMETER_SYNTAX
    device = argv[2]
    try:
        bridge = vethscript.bridge_of(NodePaths.of(), int(veid), device)
        if bridge:
            print(f"Adding interface {device} to bridge {bridge} on CT0 for CT{veid}", flush=True)
            vethscript.join(device, bridge)
    except VzError as err:
        print(err, file=sys.stderr)
        return err.code
    return 0
