"""vzoversell: RAM and swap handed out, against what the machine has (beancounters.md 5.5)."""

from __future__ import annotations

from vzpy import hostfacts, ubcproc
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import VzError
from vzpy.node import Node
from vzpy.option import Option
from vzpy.planning import oversell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.planning.oversell import Block

OPTIONS = (Option("help", help="usage", short="h"),)
USAGE = "Usage: vzoversell [file]"


def main(argv: list[str]) -> int:
    """Run `vzoversell ARGV...`; returns the exit code."""
    try:
        _, words = planned.parse("vzoversell", argv, OPTIONS)
        if len(words) > 1:
            raise Usage(FAILED)
        found = _read(words[0]) if words else _running()
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except VzError as err:
        return planned.complain(err)
    lines = {ctid: oversell.line(block) for ctid, block in found.items() if ctid > 0}
    print(oversell.HEAD)
    for ctid, line in lines.items():
        print(f"{ctid:10d} {line}  {line.flags}")
    everything = oversell.total(lines.values())
    print(oversell.RULE)
    print(f" TOTAL     {everything}\n")
    for level in oversell.levels(everything, hostfacts.facts()):
        print(level)
    if everything.flags:
        print("\nFlags:")
        for flag in everything.flags:
            print(f"  {flag}: {oversell.FLAGS[flag]}")
    return 0


def _running() -> dict[int, Block]:
    found = planned.blocks(Node())
    return {ctid: block for ctid, (_, block) in sorted(found.items())}


def _read(path: str) -> dict[int, Block]:
    """Raises VzError."""
    try:
        with open(path, errors="surrogateescape") as f:
            found = ubcproc.parse(f.read())
    except OSError as err:
        raise VzError.of("Unable to open", err) from None
    except ValueError as err:
        raise VzError(f"Error: {path}: {err}") from None
    return {ctid: planned.block(rows) for ctid, rows in found.items()}
