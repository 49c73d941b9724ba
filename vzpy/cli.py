"""The entry of every tool: a table tool -> module, imported when that tool is run."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs an enum
import gc
import os
import sys

# Each module has main(argv) -> exit code.
TOOLS = {
    "vz": "vzpy.commands.vz",
    "vz-fdkeep": "vzpy.eventd.fdkeep",
    "vzcalc": "vzpy.commands.vzcalc",
    "vzcfgscale": "vzpy.commands.vzcfgscale",
    "vzcfgvalidate": "vzpy.commands.vzcfgvalidate",
    "vzcpucheck": "vzpy.commands.vzcpucheck",
    "vzctl": "vzpy.commands.vzctl",
    "vzdqcheck": "vzpy.commands.vzdqcheck",
    "vzdqdump": "vzpy.commands.vzdqdump",
    "vzdqload": "vzpy.commands.vzdqload",
    "vzdump": "vzpy.commands.vzdump",
    "vzeventd": "vzpy.eventd.main",
    "vzlist": "vzpy.commands.vzlist",
    "vzmemcheck": "vzpy.commands.vzmemcheck",
    "vznetaddbr": "vzpy.commands.vznetaddbr",
    "vznetcfg": "vzpy.commands.vznetcfg",
    "vznetstat": "vzpy.commands.vznetstat",
    "vzoversell": "vzpy.commands.vzoversell",
    "vzpid": "vzpy.commands.vzpid",
    "vzpkg": "vzpy.commands.vzpkg",
    "vzquota": "vzpy.commands.vzquota",
    "vzrestore": "vzpy.commands.vzrestore",
    "vzsplit": "vzpy.commands.vzsplit",
    "vzubc": "vzpy.commands.vzubc",
}
DAEMONS = ("vz-fdkeep", "vzeventd")


def main(tool: str, argv: list[str]) -> int:
    """Run a tool with the words after its name; returns the exit code."""
    if tool not in DAEMONS:
        gc.disable()  # it ends soon, and makes no cycles worth a tenth of its time
    try:
        module = __import__(TOOLS[tool], fromlist=["main"])
        code: int = module.main(argv)
        _flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vzlist | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:  # a mistake of ours; what users do wrong is a VzError, told by the tool
        import traceback

        traceback.print_exc()
        return 3
    return code


def run() -> None:
    """The console script of whatever tool this process was started as."""
    # Who ignores SIGCHLD hands that down, and then wait(2) finds no child.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    code = main(sys.argv[0].rpartition("/")[2], sys.argv[1:])
    _flush()
    os._exit(code)  # nothing is left to do that the kernel does not do faster


def _flush() -> None:
    if sys.stdout:  # None when the tool was started without one
        sys.stdout.flush()
