"""Planning: whether a configuration holds together, how much of the machine it takes, how the
machine is shared out (beancounters.md 4, 5). Pure functions of values.

    validate  one configuration: rules, and what repairs it      vzcfgvalidate
    usage     used and promised, of one VPS and of all           vzcalc, vzmemcheck, vzcpucheck
    split     a sample for one of N equal VPSs                   vzsplit
    scale     a configuration, larger or smaller                 vzcfgscale
    oversell  RAM and swap handed out, against what there is     vzoversell"""

from __future__ import annotations

import os

from vzpy.model import UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    # Parameter -> barrier, limit, in its own unit
    Pairs = Mapping[str, tuple[int, int]]

PAGE = os.sysconf("SC_PAGE_SIZE")
_INT_MAX = 2**31 - 1  # what a 32-bit kernel called unlimited


def is_vswap(pairs: Pairs) -> bool:
    """PHYSPAGES has a limit: RAM and swap are limited together (beancounters.md 6)."""
    pair = pairs.get("PHYSPAGES")
    return pair is not None and pair[1] not in (UNLIMITED, _INT_MAX)
