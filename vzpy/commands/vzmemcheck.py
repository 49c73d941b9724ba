"""vzmemcheck: memory that all running VPSs use and were promised (beancounters.md 5.2)."""

from __future__ import annotations

from vzpy import hostfacts
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import VzError
from vzpy.node import Node
from vzpy.option import Option
from vzpy.planning.usage import Promised, Taken, capacities, columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

OPTIONS = (
    Option("verbose", help="a line for each VPS", short="v"),
    Option("absolute", help="Mbytes instead of per cent", short="A"),
    Option("help", help="usage", short="h"),
)
USAGE = "Usage: vzmemcheck [-v] [-A]"
_HEAD = (
    " LowMem  LowMem     RAM MemSwap MemSwap   Alloc   Alloc   Alloc",
    "   util  commit    util    util  commit    util  commit   limit",
)
_MIB = 1 << 20


def main(argv: list[str]) -> int:
    """Run `vzmemcheck ARGV...`; returns the exit code."""
    try:
        given, words = planned.parse("vzmemcheck", argv, OPTIONS)
        if words:
            raise Usage(FAILED)
        found = planned.blocks(Node())
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except VzError as err:
        return planned.complain(err)
    bytes_of = {
        ctid: columns(Taken.of(planned.held_of(block)), Promised.of(planned.pairs_of(conf)))
        for ctid, (conf, block) in sorted(found.items())
    }
    there = capacities(hostfacts.facts())
    absolute, verbose = "absolute" in given, "verbose" in given
    # Shares of the whole in per cent; or Mbytes
    units = [_MIB if absolute else whole / 100 for whole in there]
    print("Output values in Mbytes" if absolute else "Output values in %")
    for title, head in zip(("CTID", ""), _HEAD):
        print(f"{title:<11}{head}" if verbose else head)
    if verbose:
        for ctid, row in bytes_of.items():
            print(f"{ctid:<10} {_cells(value / unit for value, unit in zip(row, units))}")
        print("-" * 74)
    sums = [sum(column) for column in zip(*bytes_of.values())] or [0] * len(there)
    title = f"{'Summary:':<11}" if verbose else ""
    print(title + _cells(value / unit for value, unit in zip(sums, units)))
    if absolute:
        print(" " * len(title) + _cells(whole // _MIB for whole in there))
    return 0


def _cells(values: Iterable[float]) -> str:
    return " ".join(f"{value:7.2f}" for value in values)
