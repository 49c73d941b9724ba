"""How much of a machine VPSs use, and how much of it they were promised (beancounters.md 5.1-5.3).

`kernel memory` here is what the tools call low memory: kmemsize and the four kinds of socket
buffers. Of low memory 40 % are there to be handed out."""

from __future__ import annotations

from vzpy.model import UNLIMITED
from vzpy.planning import PAGE, is_vswap
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vzpy.model import Host
    from vzpy.planning import Pairs

    # Parameter -> held, in its own unit
    Held = Mapping[str, int]

_KERNEL = ("KMEMSIZE", "TCPRCVBUF", "TCPSNDBUF", "DGRAMRCVBUF", "OTHERSOCKBUF")
# What a configuration without VSwap must say before its promises can be counted.
REQUIRED = ("NUMPROC", "VMGUARPAGES", "KMEMSIZE", "TCPSNDBUF", "TCPRCVBUF", "OTHERSOCKBUF",
            "DGRAMRCVBUF", "PRIVVMPAGES")  # fmt: skip


@record
class Capacity:
    """What there is to be handed out, in bytes."""

    low: int
    ram: int
    swap: int  # RAM and swap together

    @classmethod
    def of(cls, host: Host) -> Capacity:
        return cls(host.low * 2 // 5, host.ram, host.ram + (host.swap or 1))


@record
class Taken:
    """What a VPS holds, in bytes."""

    low: int
    ram: int
    swap: int  # RAM and swap together
    alloc: int

    @classmethod
    def of(cls, held: Held) -> Taken:
        kernel = sum(held.get(key, 0) for key in _KERNEL)

        def with_pages(key: str) -> int:
            return held.get(key, 0) * PAGE + kernel

        return cls(kernel, with_pages("PHYSPAGES"), with_pages("OOMGUARPAGES"),
                   with_pages("PRIVVMPAGES"))


@record
class Promised:
    """What a VPS may count on, and the most that it may allocate, in bytes."""

    low: int
    swap: int  # RAM and swap together
    alloc: int
    alloc_limit: int

    @classmethod
    def of(cls, pairs: Pairs) -> Promised:
        pairs = derived(pairs)
        kernel = sum(pairs.get(key, (0, 0))[1] for key in _KERNEL)

        def with_pages(key: str, which: int) -> int:
            return pairs.get(key, (0, 0))[which] * PAGE + kernel

        return cls(kernel, with_pages("OOMGUARPAGES", 0), with_pages("VMGUARPAGES", 0),
                   with_pages("PRIVVMPAGES", 1))


def derived(pairs: Pairs) -> Pairs:
    """With VSwap the guarantees are RAM and swap, within which kernel memory and buffers lie
    (beancounters.md 6)."""
    if not is_vswap(pairs):
        return pairs
    ram = pairs["PHYSPAGES"][1]
    swap = pairs.get("SWAPPAGES", (0, 0))[1]
    both = ram if swap == UNLIMITED else ram + swap
    return {
        **pairs,
        **dict.fromkeys(_KERNEL, (0, 0)),
        "OOMGUARPAGES": (ram, UNLIMITED),
        "VMGUARPAGES": (both, UNLIMITED),
        "PRIVVMPAGES": (both, both),
    }


@record
class Share:
    """A row of vzcalc: parts of the whole, None where there is no such figure."""

    name: str
    current: float
    promised: float | None
    maximum: float | None


def shares(pairs: Pairs, held: Held, host: Host) -> list[Share]:
    """What one VPS takes of the machine; pairs has REQUIRED, or VSwap's two."""
    there, taken, promised = Capacity.of(host), Taken.of(held), Promised.of(pairs)
    numproc = pairs.get("NUMPROC", (UNLIMITED, UNLIMITED))[0]
    # Who may have any number of processes may have all that the kernel has.
    processes = host.threads if numproc == UNLIMITED else numproc
    low = promised.low / there.low
    return [
        Share("Low Mem", taken.low / there.low, low, low),
        Share("Total RAM", taken.ram / there.ram, None, None),
        Share("Mem + Swap", taken.swap / there.swap, promised.swap / there.swap, None),
        Share("Alloc. Mem", taken.alloc / there.swap, promised.alloc / there.swap,
              promised.alloc_limit / there.swap),
        Share("Num. Proc", held.get("NUMPROC", 0) / host.threads, None,
              processes / host.threads),
    ]  # fmt: skip


def columns(taken: Taken, promised: Promised) -> list[int]:
    """The eight figures of vzmemcheck, in bytes."""
    return [taken.low, promised.low, taken.ram, taken.swap, promised.swap, taken.alloc,
            promised.alloc, promised.alloc_limit]  # fmt: skip


def capacities(host: Host) -> list[int]:
    """What there is of each of them."""
    there = Capacity.of(host)
    return [there.low, there.low, there.ram, *[there.swap] * 5]


# CPU

_WEIGHTS = 500000
_POWER = 25  # CPU units of one bogomips


def fair_units(cpuunits: int) -> int:
    """CPU units as the scheduler's weight, a whole number, gives them back."""
    weight = _WEIGHTS // cpuunits if cpuunits else 0
    return _WEIGHTS // weight if weight else _WEIGHTS


def overcommitted(units: Iterable[int], host: Host) -> bool:
    return sum(units) > host.bogomips * _POWER


def power(host: Host) -> int:
    return int(host.bogomips * _POWER)
