"""From the parameters of N.conf to what a cgroup takes. Pure (beancounters.md 2, 6, 7)."""

from __future__ import annotations

import os

from vzpy.model import NO_LIMIT, Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Values(Protocol):
        """A configuration: value(KEY) as the parameter table parses it, None when unset."""

        def value(self, key: str) -> Any: ...


UNLIMITED = 2**63 - 1
# Beyond this a count of pages is as good as none: LONG_MAX pages do not fit into bytes.
_NO_LIMIT_PAGES = UNLIMITED // 4096
PAGE = os.sysconf("SC_PAGE_SIZE")
DEFAULT_CPUUNITS = 1000


def is_vswap(config: Values) -> bool:
    """PHYSPAGES has a limit: RAM and swap are limited together (beancounters.md 6)."""
    pair = config.value("PHYSPAGES")
    return bool(pair) and pair[1] < _NO_LIMIT_PAGES


def limits(config: Values) -> Limits:
    """What is written before the first process; a VPS without VSwap has no memory limit, since
    classic physpages only counts."""
    vswap = is_vswap(config)
    numproc = config.value("NUMPROC")
    return Limits(
        memory_max=_bytes(config.value("PHYSPAGES")) if vswap else NO_LIMIT,
        swap_max=_bytes(config.value("SWAPPAGES")) if vswap else NO_LIMIT,
        pids_max=_count(numproc),
        cpu_weight=weight(config.value("CPUUNITS") or DEFAULT_CPUUNITS),
        cpu_max=cpu_max(config.value("CPULIMIT") or 0, config.value("CPUS") or 0),
    )


def _bytes(pair: tuple[int, int] | None) -> int:
    return NO_LIMIT if pair is None or pair[1] >= _NO_LIMIT_PAGES else pair[1] * PAGE


def _count(pair: tuple[int, int] | None) -> int:
    return NO_LIMIT if pair is None or pair[1] == UNLIMITED else pair[1]


def weight(cpuunits: int) -> int:
    """cpu.weight of CPUUNITS: 1000 is 100, the ratios stay."""
    return max(1, min(10000, round(cpuunits / 10)))


def cpu_max(cpulimit: int, cpus: int) -> int:
    """Microseconds per 100 ms: CPULIMIT is per cent of one CPU, CPUS caps at whole ones."""
    percents = [p for p in (cpulimit, cpus * 100) if p]
    return max(1000, min(percents) * 1000) if percents else NO_LIMIT


# What a configuration without VSwap must say (vzctl-cli 2.2, step 7).
REQUIRED = (
    "KMEMSIZE LOCKEDPAGES PRIVVMPAGES SHMPAGES NUMPROC PHYSPAGES VMGUARPAGES OOMGUARPAGES"
    " NUMTCPSOCK NUMFLOCK NUMPTY NUMSIGINFO TCPSNDBUF TCPRCVBUF OTHERSOCKBUF DGRAMRCVBUF"
    " NUMOTHERSOCK NUMFILE DCACHESIZE NUMIPTENT"
).split()

# cgroup file -> what the user calls it.
_NAMES = {
    "memory.max": "physpages",
    "memory.swap.max": "swappages",
    "pids.max": "numproc",
    "cpu.weight": "cpuunits",
    "cpu.max": "cpulimit",
}


def explain(refused: list[str], wanted: Limits) -> list[str]:
    """The parameters behind knobs that could not be written, without those that ask for nothing."""
    harmless = {
        "memory.max": wanted.memory_max == NO_LIMIT,
        "memory.swap.max": wanted.swap_max == NO_LIMIT,
        "pids.max": wanted.pids_max == NO_LIMIT,
        "cpu.max": wanted.cpu_max == NO_LIMIT,
        "cpu.weight": wanted.cpu_weight == weight(DEFAULT_CPUUNITS),
    }
    return [_NAMES[name] for name in refused if not harmless[name]]
