"""vzcfgvalidate: does a configuration file hold together, and repair it (beancounters.md 4)."""

from __future__ import annotations

import sys

from vzpy import config, hostfacts, planning, values
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.params import BY_KEY
from vzpy.planning.validate import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vzpy.planning.validate import Finding

OPTIONS = (
    Option("repair", help="repair the file", short="r"),
    Option("interactive", help="ask before each repair", short="i"),
    Option("vswap", "yesno", "the rules with or without VSwap, whatever the file says", short="v"),
    Option("help", help="usage", short="h"),
)
USAGE = """Usage: vzcfgvalidate [-r|-i] [-v yes|no] <configfile>
\t-r\t\trepair mode
\t-i\t\tinteractive repair mode
\t-v yes|no\tforce VSwap/non-VSwap mode (auto-detect by default)"""
INVALID = 2
_DISK = ("DISKSPACE", "DISKINODES")


def main(argv: list[str]) -> int:
    """Run `vzcfgvalidate ARGV...`; returns the exit code."""
    try:
        given, words = planned.parse("vzcfgvalidate", argv, OPTIONS)
        vswap = planned.yesno("-v", given["vswap"]) if "vswap" in given else None
        if not words:
            raise Usage(FAILED)
        if "interactive" in given:
            repair: Callable[[], bool] | None = _is_yes
        else:
            repair = (lambda: True) if "repair" in given else None
        return _run(words[0], vswap, repair)
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except VzError as err:
        return planned.complain(err)


def _run(path: str, vswap: bool | None, repair: Callable[[], bool] | None) -> int:
    """repair: None to change nothing, else whether a suggestion is taken up."""
    found = planned.file_config(NodePaths.of(), path)
    pairs = planned.pairs_of(found)
    before = dict(pairs)
    with_disk = found.value("DISK_QUOTA") is True
    if with_disk:
        pairs |= {key: pair for key in _DISK if (pair := found.value(key))}
    valid = check(pairs, vswap, with_disk, repair)
    if not valid:
        return INVALID
    changed = {key: pair for key, pair in pairs.items() if before.get(key) != pair}
    texts = {key: values.text(BY_KEY[key].kind, pair) for key, pair in changed.items()}
    if repair and texts:
        config.save(path, texts)
    print("Validation completed: success", file=sys.stderr)
    return 0


def check(
    pairs: dict[str, tuple[int, int]],
    vswap: bool | None,
    with_disk: bool,
    repair: Callable[[], bool] | None,
) -> bool:
    """Tell of every broken rule, taking up what is repaired; True when nothing stays wrong."""
    rules = Rules(pairs)
    if vswap is None:
        vswap = planning.is_vswap(pairs)
    findings: Iterator[Finding] = (
        rules.vswap(hostfacts.facts()) if vswap else rules.classic(with_disk)
    )
    valid = True
    for finding in findings:
        print(finding, file=sys.stderr)
        repaired = False
        if finding.key and repair:
            print(f"set to {finding.remedy}", flush=True)
            if repaired := repair():
                pairs[finding.key] = finding.pair
        valid &= repaired or not finding.is_invalid
    return valid


def _is_yes() -> bool:
    """An empty line means yes; the end of the input, no."""
    while True:
        print(" (y/n) [y] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if answer[:1] in ("y", "\n"):
            return True
        if answer[:1] in ("n", ""):
            return False
