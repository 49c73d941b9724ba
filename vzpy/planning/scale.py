"""A configuration, larger or smaller by a factor (beancounters.md 5.5)."""

from __future__ import annotations

from vzpy.model import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.planning import Pairs

_CPUUNITS_LEAST, _CPUUNITS_MOST = 8, 500000
DISK = ("DISKSPACE", "DISKINODES")


def scaled(pairs: Pairs, keys: Iterable[str], factor: float) -> dict[str, tuple[int, int]]:
    """Those of `keys` that are there, multiplied; unlimited stays unlimited."""
    found = {}
    for key in keys:
        if key in pairs:
            barrier, limit = pairs[key]
            found[key] = _times(barrier, factor), _times(limit, factor)
    return found


def scaled_units(cpuunits: int, factor: float) -> int:
    """CPU units, within what they may be."""
    return max(_CPUUNITS_LEAST, min(_times(cpuunits, factor), _CPUUNITS_MOST))


def _times(value: int, factor: float) -> int:
    if value == UNLIMITED:
        return value
    top, bottom = factor.as_integer_ratio()  # a product of floats loses the digits of large ones
    return min(value * top // bottom, UNLIMITED)
