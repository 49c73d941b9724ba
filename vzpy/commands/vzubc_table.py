"""The table of vzubc: one line a beancounter, in human units, with what is near its limit marked
(beancounters.md 5.5)."""

from __future__ import annotations

from vzpy.record import record
from vzpy.ubc import PAGE, UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vzpy.ubcproc import Beancounter

FINE, NEAR, HIT = 0, 1, 2
_INT_MAX = 2**31 - 1  # what 32-bit kernels had for no limit
_COLORS = ("\033[0;39m", "\033[1;33m", "\033[1;31m")
_BRIGHT, _NORMAL = "\033[1;32m", "\033[0;39m"
_UNITS = " KMGTPEZY"


@record
class Look:
    """How the table is to look.

    held, maxheld   shares of the barrier from which a row is near its limit
    quiet           only rows that are near or beyond, or that changed
    verbose         rows without a limit, too
    failcnt_before  (ctid, name) -> what it was; None for absolute numbers
    held_before     the same of held: a column with the difference"""

    held: float = 0.5
    maxheld: float = 0.8
    quiet: bool = False
    verbose: bool = False
    color: bool = False
    failcnt_before: Mapping[tuple[int, str], int] | None = None
    held_before: Mapping[tuple[int, str], int] | None = None


def render(all_of: Mapping[int, Sequence[Beancounter]], look: Look) -> str:
    """Blocks of VPSs by their numbers; one without a row to show is left out."""
    blocks = [block for ctid, rows in all_of.items() if (block := _block(ctid, rows, look))]
    if not blocks:
        return ""
    return "\n\n".join(blocks) + f"\n{_rule(look)}\n"


def _rule(look: Look) -> str:
    return "-" * (67 + 7 * (look.held_before is not None))


def _block(ctid: int, rows: Sequence[Beancounter], look: Look) -> str:
    lines = [line for row in rows if (line := _line(ctid, row, look))]
    if not lines:
        return ""
    more = look.held_before is not None
    fail = " FAIL" if look.failcnt_before is None else "+FAIL"
    held = f"HELD{'  +/-  ' * more}  Bar%  Lim%"
    head = [
        _rule(look),
        f"CT {ctid:<10}| {held}| MAXH  Bar%  Lim%| BAR | LIM |{fail}",
        f"-------------+{'-' * 7 * more}-----------------+-----------------+-----+-----+-----",
    ]
    if look.color:
        head[0], head[-1] = _BRIGHT + head[0], head[-1] + _NORMAL
    return "\n".join(head + lines)


def _line(ctid: int, row: Beancounter, look: Look) -> str:
    """"" for one that is not to be shown."""
    held, maxheld, failcnt = row.held or 0, row.maxheld or 0, row.failcnt or 0
    if look.failcnt_before is not None:
        before = look.failcnt_before.get((ctid, row.name), 0)
        failcnt = failcnt - before if failcnt >= before else failcnt  # it has begun anew
    change, moved = "", 0
    if look.held_before is not None:
        moved = held - look.held_before.get((ctid, row.name), held)
        change = f"{'-' if moved < 0 else '+'}{human(row.name, abs(moved))}" if moved else ""
        change = f"{change:>7}"
    level = importance(row, failcnt, look)
    hidden = (look.quiet and not level) or (not look.verbose and is_unlimited(row.barrier))
    if hidden and not moved:
        return ""
    text = (
        f"{row.name:>13}|{human(row.name, held):>5}{change}"
        f" {_share(held, row.barrier):>5} {_share(held, row.limit):>5}"
        f"|{human(row.name, maxheld):>5}"
        f" {_share(maxheld, row.barrier):>5} {_share(maxheld, row.limit):>5}"
        f"|{human(row.name, row.barrier):>5}|{human(row.name, row.limit):>5}"
        f"| {human('', failcnt):>5}"
    )
    return f"{_COLORS[level]}{text}{_NORMAL}" if look.color else text


def is_unlimited(value: int) -> bool:
    return value in (UNLIMITED, _INT_MAX)


def importance(row: Beancounter, failcnt: int, look: Look) -> int:
    """FINE, NEAR its limit, or HIT."""
    barrier, held = row.barrier or row.limit, row.held or 0
    if failcnt > 0 or held > barrier:
        return HIT
    near = held > barrier * look.held or (row.maxheld or 0) > barrier * look.maxheld
    return NEAR if near else FINE


def human(name: str, value: float) -> str:
    """Three digits and a unit, bytes for pages; `- ` for zero and for no limit."""
    if not value or is_unlimited(int(value)):
        return "- "
    if name.endswith("pages"):
        value *= PAGE
    unit = 0
    while value >= 1024:
        value /= 1024
        unit += 1
    return f"{value:.3g}{_UNITS[unit]}" if value < 100 else f"{int(value)}{_UNITS[unit]}"


def _share(value: int, of: int) -> str:
    if not of or is_unlimited(of):
        return "- "
    percent = round(value / of * 100, 2)
    if not percent:
        return "- "
    return f"{percent:.2g}%" if percent < 10 else f"{int(percent)}%"
