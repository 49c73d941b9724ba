"""vzsplit: a sample configuration for one of N equal VPSs (beancounters.md 5.4)."""

from __future__ import annotations

import os
import sys

from vzpy import config, hostfacts
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import ConfigError, VzError
from vzpy.model import Host, NodePaths
from vzpy.option import Option
from vzpy.planning import split
from vzpy.record import replace

OPTIONS = (
    Option("name", "filename", "write the sample of this name, instead of to standard output",
           short="f"),
    Option("count", "number", "number of VPSs", short="n"),
    Option("swap", "number", "swap space in Kbytes, whatever there is", short="s"),
    Option("vswap", "yesno", "with or without VSwap; default yes", short="v"),
    Option("help", help="usage", short="h"),
)
USAGE = """Usage: vzsplit [-f config_name] [-n num_CTs] [-s swap_size] [-v yes|no]
\t-f\t\tconfiguration sample name
\t-n\t\tnumber of containers
\t-s\t\tswap space, Kbytes
\t-v yes|no\tgenerate VSwap config (yes by default)"""
_COUNT_MAX = 2**31 - 1


def main(argv: list[str]) -> int:
    """Run `vzsplit ARGV...`; returns the exit code."""
    try:
        return _run(NodePaths.of(), argv)
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except split.Impossible as err:
        _tell(str(err))
        return FAILED
    except VzError as err:
        return planned.complain(err)


def _run(paths: NodePaths, argv: list[str]) -> int:
    given, words = planned.parse("vzsplit", argv, OPTIONS)
    vswap = planned.yesno("-v", given["vswap"]) if "vswap" in given else True
    path = _sample_path(paths, given["name"]) if "name" in given else ""
    if "swap" in given and given["swap"].startswith("-"):
        raise Usage(FAILED, "Negative value for -s")
    count = _number("-n", given["count"]) if "count" in given else None
    swap = _number("-s", given["swap"]) if "swap" in given else None
    if words:
        raise Usage(FAILED)
    if count is None:
        print("Enter the number of containers: ", end="", flush=True)
        answer = sys.stdin.readline().strip()
        if not (answer.isascii() and answer.isdigit()):
            raise VzError("Invalid value.")
        count = int(answer)
    if not 1 <= count <= _COUNT_MAX:
        raise VzError("Incorrect value for number of containers.")
    host = hostfacts.facts()
    if swap is not None:
        host = replace(host, swap=swap << 10)
    if host.swap > 2 * host.ram:
        _tell(f"The optimal swap space size is {2 * host.ram >> 20} Mb,"
              " twice bigger than the RAM size\n")  # fmt: skip
    split.check(host, count)
    _write(path, _text(host, count, _disk(paths, count), vswap))
    return 0


def _text(host: Host, count: int, disk: tuple[int, int], vswap: bool) -> str:
    made = split.plan(host, count, disk)
    return split.vswap_text(made) if vswap else split.classic_text(made)


def _disk(paths: NodePaths, count: int) -> tuple[int, int]:
    """KiB and inodes of each VPS, by the file system of the private areas."""
    try:
        private = config.load_global(paths.etc).literal("VE_PRIVATE")
    except ConfigError:
        private = None
    if not private:
        _tell(f"WARNING: unable to get VE_PRIVATE value from {paths.etc}/vz.conf.")
        _tell("Default disk space values to be used.\n")
        return split.DEFAULT_DISK
    folder = private.partition("$VEID")[0]
    try:
        there = os.statvfs(folder)
    except OSError as err:
        _tell(f"WARNING: statfs on {folder} failed: {err.strerror}")
        _tell("Default disk space values to be used.\n")
        return split.DEFAULT_DISK
    space = there.f_blocks * there.f_frsize >> 10
    each, fitting, is_small = split.disk(space, there.f_files, count)
    if is_small:
        _tell(f"WARNING: Recommended minimal size of partition holding {folder} is 20 Gb!")
    if each is None:
        _tell(f"WARNING: partition holding {folder} do not have space required for {count}"
              f" containers\nThe maximum allowed value is {fitting}")  # fmt: skip
        _tell("Default disk space values will be used\n")
    return each or split.DEFAULT_DISK


def _sample_path(paths: NodePaths, name: str) -> str:
    """Raises VzError when there is one, or the name is none."""
    if not name or "/" in name:
        raise Usage(FAILED, f"Invalid argument for -f: {name}")
    path = config.sample_path(paths.etc, name)
    if os.path.lexists(path):
        raise VzError(f"File {path} already exist")
    return path


def _write(path: str, text: str) -> None:
    if not path:
        print(text, end="")
        return
    try:
        with open(path, "x") as f:
            f.write(text)
    except FileExistsError:
        raise VzError(f"File {path} already exist") from None
    except OSError as err:
        raise VzError(f"Unable to create {path}: {err.strerror}") from None
    _tell(f"Config {path} was created")


def _number(flag: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Usage(FAILED, f"Invalid argument for {flag}: {text}")
    return int(text)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
