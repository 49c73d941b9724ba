"""The entry of every tool: a table tool -> module, imported when that tool is run."""

from __future__ import annotations

import sys

# Each module has main(argv) -> exit code.
TOOLS = {
    "vz": "vzpy.commands.vz",
    "vz-fdkeep": "vzpy.eventd.fdkeep",
    "vzctl": "vzpy.commands.vzctl",
    "vzeventd": "vzpy.eventd.main",
    "vzlist": "vzpy.commands.vzlist",
    "vzpid": "vzpy.commands.vzpid",
    "vzpkg": "vzpy.commands.vzpkg",
}


def main(tool: str, argv: list[str]) -> int:
    """Run a tool with the words after its name; returns the exit code."""
    module = __import__(TOOLS[tool], fromlist=["main"])
    try:
        code: int = module.main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vzlist | head`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def run() -> int:
    """The console script of whatever tool this process was started as."""
    return main(sys.argv[0].rpartition("/")[2], sys.argv[1:])
