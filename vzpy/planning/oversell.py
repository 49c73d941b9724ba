"""RAM and swap of running VPSs against what the machine has (beancounters.md 5.5, vzoversell)."""

from __future__ import annotations

from vzpy.model import UNLIMITED
from vzpy.planning import PAGE
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vzpy.model import Host

    # Beancounter in lower case -> held, maxheld, barrier, limit, failcnt
    Row = tuple[int, int, int, int, int]
    Block = Mapping[str, Row]

_NONE = (0, UNLIMITED, 2**31 - 1)  # no limit, as kernels of both word sizes call it
_HELD, _PEAK, _LIMIT, _FAILS = 0, 1, 3, 4
HEAD = (
    "           --------- RAM ---------  -------- Swap ---------  Flags\n"
    "            used  peak limit fails   used  peak limit fails"
)
RULE = "           ----- ----- ----- -----  ----- ----- ----- -----"
FLAGS = {
    "R": "non-VSwap container, RAM limit guessed based on privvmpages",
    "U": "unlimited RAM, not counted into total RAM limit",
    "S": "unlimited swap (ok for non-vswap), not counted into total swap limit",
    "f": "RAM failcnt > 0 (swap used), use vzubc to check details",
    "F": "beancounter failcnt > 0, use vzubc to check details",
}


@record
class Line:
    """One VPS, or all of them: pages of RAM and swap used, at most, allowed; failures; flags."""

    ram: tuple[int, int, int, int]
    swap: tuple[int, int, int, int]
    flags: str = ""

    def __str__(self) -> str:
        cells = [f"{_pages(v):>5}" for v in self.ram[:3]] + [f"{human(self.ram[3]):>5}"]
        swap = [f"{_pages(v):>5}" for v in self.swap[:3]] + [f"{human(self.swap[3]):>5}"]
        return f"{' '.join(cells)}  {' '.join(swap)}"


def line(block: Block) -> Line:
    """One VPS by its beancounters."""
    nothing = (0, 0, 0, 0, 0)
    ram, swap, private = (
        block.get(name, nothing) for name in ("physpages", "swappages", "privvmpages")
    )
    flags = ""
    ram_limit, swap_limit = ram[_LIMIT], swap[_LIMIT]
    if ram_limit in _NONE:
        # Private memory is touched by half, as a rule.
        flags, ram_limit = "R", private[_LIMIT] // 2
        if private[_LIMIT] in _NONE:
            flags, ram_limit = "U", 0
    if swap_limit in _NONE[1:]:
        flags, swap_limit = flags + "S", 0
    fails = sum(row[_FAILS] for row in block.values())
    if fails:
        flags += "f" if fails == ram[_FAILS] else "F"
    return Line(
        (ram[_HELD], ram[_PEAK], ram_limit, ram[_FAILS]),
        (swap[_HELD], swap[_PEAK], swap_limit, swap[_FAILS]),
        flags,
    )


def total(lines: Iterable[Line]) -> Line:
    found = list(lines)

    def summed(part: Iterable[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
        held, peak, limit, fails = ([*column] for column in zip((0, 0, 0, 0), *part))
        return sum(held), sum(peak), sum(limit), sum(fails)

    flags = {flag for one in found for flag in one.flags}
    return Line(
        summed(one.ram for one in found),
        summed(one.swap for one in found),
        "".join(flag for flag in FLAGS if flag in flags),
    )


def levels(everything: Line, host: Host) -> Iterator[str]:
    """The lines that say how much more was handed out than there is."""
    ram, swap = host.ram // PAGE, host.swap // PAGE
    ram_limit, swap_limit = everything.ram[2], everything.swap[2]
    for name, there, given in (
        ("RAM", ram, ram_limit),
        ("Swap", swap, swap_limit),
        ("RAM+Swap", ram + swap, ram_limit + swap_limit),
    ):
        yield (
            f"{name:<10} available: {_pages(there):>5}  allocated: {_pages(given):>5}"
            f"  oversell: {_percent(given, there)}"
        )


def human(value: float) -> str:
    """`1.5K`; a dash where there is nothing, or no limit."""
    if value in _NONE:
        return "- "
    unit = 0
    while value >= 1024:
        value /= 1024
        unit += 1
    number = f"{value:.3g}" if value < 100 else str(int(value))
    return number + " KMGTPE"[unit]


def _pages(count: int) -> str:
    return human(count if count in _NONE else count * PAGE)


def _percent(part: int, whole: int) -> str:
    if not whole:
        return "- "
    value = round(part / whole * 100, 1)
    text = f"{value:.1g}" if value < 10 else str(int(value))
    return "- " if text == "0" else f"{text}%"
