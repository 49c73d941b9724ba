"""vzcalc: what one VPS takes of the machine (beancounters.md 5.1)."""

from __future__ import annotations

import os

from vzpy import hostfacts, planning
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import VzError
from vzpy.model import CTID_MAX, NodePaths
from vzpy.node import Node
from vzpy.option import Option
from vzpy.planning import usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.planning.usage import Share

OPTIONS = (
    Option("verbose", help="show every resource, not only the greatest", short="v"),
    Option("help", help="usage", short="h"),
)
USAGE = "Usage: vzcalc [-v] <ctid>"
_NONE = "n/a"
_RULE = "-" * 44


def main(argv: list[str]) -> int:
    """Run `vzcalc ARGV...`; returns the exit code."""
    try:
        given, words = planned.parse("vzcalc", argv, OPTIONS)
        if not words:
            raise Usage(FAILED)
        rows, runs = _examine(words[0])
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except VzError as err:
        return planned.complain(err)
    print("Resource     Current(%)  Promised(%)  Max(%)")
    if "verbose" in given:
        for row in rows:
            print(_line(row.name, row.current if runs else None, row.promised, row.maximum))
        print(_RULE)
    current = max(row.current for row in rows) if runs else None
    promised = max(row.promised or 0 for row in rows)
    print(_line("Memory", current, promised, max(row.maximum or 0 for row in rows)))
    return 0


def _examine(word: str) -> tuple[list[Share], bool]:
    """The rows of a VPS, and whether it runs. Raises VzError."""
    if not (word.isascii() and word.isdigit() and len(word) < 20 and int(word) <= CTID_MAX):
        raise VzError(f"Invalid CT ID: {word}")
    ctid = int(word)
    path = f"{NodePaths.of().conf}/{ctid}.conf"
    if not os.path.exists(path):
        raise VzError(f"Container configuration file: {path} not found")
    node = Node()
    pairs = planned.pairs_of(node.vps(ctid).config)
    if not planning.is_vswap(pairs):
        missing = [key for key in usage.REQUIRED if key not in pairs]
        if missing:
            raise VzError("\n".join(f"Error: parameter {key} not found" for key in missing))
    running = planned.blocks(node).get(ctid)
    held = planned.held_of(running[1]) if running else {}
    return usage.shares(pairs, held, hostfacts.facts()), running is not None


def _line(name: str, *parts: float | None) -> str:
    cells = (_NONE if part is None else f"{part * 100:.2f}" for part in parts)
    return f"{name:<10} " + " ".join(f"{cell:>10}" for cell in cells)


