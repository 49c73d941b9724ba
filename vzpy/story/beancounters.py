"""What the beancounters of running VPSs stand at: held, maxheld, barrier, limit, failcnt.

Each is read by the group that it comes with, and only when it is asked for: `vzlist -o numproc`
of hundreds of VPSs pays for nothing else. Maxima of what the kernel keeps no peak of are those of
the looks so far; the daemon looks regularly (eventd/counters.py)."""

from __future__ import annotations

import os

from vzpy import cgroupread, cgroupwalk, ubc, usage
from vzpy.amounts import PAGE
from vzpy.cgroupread import flat, number
from vzpy.kernel.proc import memory, slurp
from vzpy.story import applied
from vzpy.story.applied import OTHERS, other
from vzpy.ubcproc import Beancounter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vzpy.identity import Identity
    from vzpy.model import Facts
    from vzpy.ubc import Values

    Count = tuple[int | None, int | None, int | None]  # held, maxheld, failcnt
    Counts = dict[str, Count]

_NOTHING: Count = (None, None, None)


def read(vps: Identity) -> list[Beancounter]:
    """All rows of a running VPS, in the order of ubc.ROWS. Raises NotRunning (31)."""
    return Look(vps.running(), Shared()).rows(vps.config)


def read_all(vpss: Iterable[Identity]) -> dict[int, list[Beancounter]]:
    """The same for all that run, by number."""
    shared = Shared()
    found = {}
    for vps in vpss:
        if facts := vps.facts():
            found[vps.ctid] = Look(facts, shared).rows(vps.config)
    return found


def host() -> list[Beancounter]:
    """Number 0, the host itself: without limits; its processes and threads are all that there
    are, those of VPSs too."""
    ram = memory()[0] // PAGE
    pairs = {"vmguarpages": (0, ubc.UNLIMITED), "oomguarpages": (ram * 3 // 4, ubc.UNLIMITED)}
    tasks = int(slurp("/proc/loadavg").split()[3].partition(b"/")[2])
    rows = []
    for row in ubc.ROWS:
        held = tasks if row.name == "numproc" else None
        pair = pairs.get(row.name, (ubc.UNLIMITED, ubc.UNLIMITED))
        rows.append(Beancounter(row.name, held, held, *pair, None, ubc.N))
    return rows


class Shared:
    """What is read once for all VPSs."""

    def __init__(self) -> None:
        self._locks: dict[int, int] | None = None

    @property
    def locks(self) -> dict[int, int]:
        if self._locks is None:
            self._locks = usage.locks()
        return self._locks


class Look:
    """One look at one VPS: a group of counters is read when the first of it is wanted."""

    def __init__(self, facts: Facts, shared: Shared) -> None:
        self.facts, self.cgroup, self.shared = facts, facts.cgroup, shared
        self._groups: dict[str, Counts] = {}
        self._pids: list[int] | None = None

    @property
    def pids(self) -> list[int]:
        if self._pids is None:
            self._pids = cgroupwalk.tasks(self.cgroup, "cgroup.procs")
        return self._pids

    def rows(self, config: Values) -> list[Beancounter]:
        """All of them, with the limits that hold."""
        asked = applied.of_running(self.facts, config)
        pairs = ubc.pairs(asked)
        found = []
        for name, (barrier, limit) in pairs.items():
            held, maxheld, failcnt = self.count(name)
            verdict = self._verdict(name, asked)
            found.append(Beancounter(name, held, maxheld, barrier, limit, failcnt, verdict))
        return found

    def count(self, name: str) -> Count:
        """Held, maxheld, failcnt of a beancounter; None for what is not counted here."""
        for group in _GROUPS_OF[name]:
            if count := self._group(group).get(name):
                return count
        return _NOTHING

    def sample(self) -> None:
        """Read what is worth a regular look, for what that leaves noted on the cgroup: where the
        kernel keeps no peak, or forgets."""
        for group in _READERS:
            if group != "physpages":
                self._group(group)

    def _group(self, group: str) -> Counts:
        if group not in self._groups:
            self._groups[group] = _READERS[group](self) if group in _READERS else self._other(group)
        return self._groups[group]

    def _other(self, module: str) -> Counts:
        found = other(module).read(self.facts)
        return {key.lower(): count for key, count in found.items()}

    def _verdict(self, name: str, asked: Values) -> str:
        """That of the table, as far as this node and this VPS have what enforces it."""
        if name == "physpages" and not ubc.is_vswap(asked):
            return ubc.A
        if name in _NEEDS:
            there = os.path.exists(f"{self.cgroup}/{_NEEDS[name]}")
            return ubc.BY_NAME[name].verdict if there else ubc.A if name == "numproc" else ubc.N
        if name in _BY_PROGRAM and name not in self._group("counted"):
            return ubc.A
        if name in _OTHER_NAMES:
            return ubc.BY_NAME[name].verdict
        return min(ubc.BY_NAME[name].verdict, ubc.A, key="NAPE".index)


# The file of the cgroup without which a limit is not applied.
_NEEDS = {
    "numproc": "pids.max",
    "physpages": "memory.max",
    "swappages": "memory.swap.max",
    "vmguarpages": "memory.low",
    "oomguarpages": "memory.min",
}


# --- groups ----------------------------------------------------------------------------------


def _numproc(look: Look) -> Counts:
    held = number(look.cgroup, "pids.current")
    forks = cgroupread.fork_refusals(look.cgroup)
    if held is None:
        held = len(cgroupwalk.tasks(look.cgroup, "cgroup.threads"))
        if not held and not os.path.exists(look.cgroup):
            return {}
    kept = _keep(look, {"numproc": held}, forks)
    peak = number(look.cgroup, "pids.peak")
    failcnt = None if forks is None else kept.lost + sum(forks.values())
    return {"numproc": (held, _or(peak, kept.peaks.get("numproc", held)), failcnt)}


def _physpages(look: Look) -> Counts:
    """Refused is what went beyond memory.high, too: that is ours, and slows the VPS down."""
    held = number(look.cgroup, "memory.current")
    if held is None:
        return {}
    peak = number(look.cgroup, "memory.peak")
    local = flat(look.cgroup, "memory.events.local")
    failcnt = local.get("max", 0) + local.get("high", 0)
    return {"physpages": (held // PAGE, _or(peak, held) // PAGE, failcnt)}


def _swappages(look: Look) -> Counts:
    held = number(look.cgroup, "memory.swap.current")
    if held is None:
        return {}
    held //= PAGE
    peak = number(look.cgroup, "memory.swap.peak")
    if peak is None:
        peak = _keep(look, {"swappages": held}).peaks.get("swappages", held) * PAGE
    failcnt = flat(look.cgroup, "memory.swap.events").get("max", 0)
    return {"swappages": (held, peak // PAGE, failcnt)}


def _memory(look: Look) -> Counts:
    """What memory.stat tells apart. Locked anonymous memory is in `anon` already."""
    stat = flat(look.cgroup, "memory.stat")
    if not stat:
        return {}
    kernel = stat.get("kernel")  # Linux 5.18
    if kernel is None:
        kernel = sum(stat.get(name, 0) for name in ("slab", "kernel_stack", "pagetables"))
    swap = number(look.cgroup, "memory.swap.current") or 0
    found = {
        "kmemsize": kernel,
        "lockedpages": stat["unevictable"] // PAGE,
        "shmpages": stat["shmem"] // PAGE,
        "oomguarpages": (stat["anon"] + swap) // PAGE,
        "dcachesize": stat["slab_reclaimable"],
    }
    counts = _with_peaks(look, found)
    held, maxheld, _ = counts["oomguarpages"]
    killed = flat(look.cgroup, "memory.events").get("oom_kill", 0)
    return {**counts, "oomguarpages": (held, maxheld, killed), "vmguarpages": (0, 0, 0)}


def _processes(look: Look) -> Counts:
    return _with_peaks(look, usage.of_processes(look.pids))


def _sockets(look: Look) -> Counts:
    return _with_peaks(look, usage.of_sockets(look.facts.pid))


def _locks(look: Look) -> Counts:
    held = sum(look.shared.locks.get(pid, 0) for pid in look.pids)
    return _refused_by_program(look, "numflock", held)


def _rules(look: Look) -> Counts:
    from vzpy import rulecount

    try:
        return _refused_by_program(look, "numiptent", rulecount.count(look.facts.pid))
    except OSError:
        return {}  # it has ended, or the kernel has no netfilter


def _refused_by_program(look: Look, name: str, held: int) -> Counts:
    """The program knows what it refused, and at most now and then how many there are."""
    _, top, failcnt = look._group("counted").get(name, _NOTHING)
    _, maxheld, _ = _with_peaks(look, {name: held})[name]
    return {name: (held, max(_or(maxheld, 0), _or(top, 0)), failcnt or 0)}


def _with_peaks(look: Look, held: dict[str, int]) -> Counts:
    peaks = _keep(look, held).peaks
    return {name: (value, max(peaks.get(name, 0), value), 0) for name, value in held.items()}


def _keep(
    look: Look, held: dict[str, int], forks: dict[int, int] | None = None
) -> cgroupread.Kept:
    return cgroupread.keep(look.cgroup, forks, held)


def _or(value: int | None, fallback: int) -> int:
    return fallback if value is None else value


_READERS: dict[str, Callable[[Look], Counts]] = {
    "numproc": _numproc,
    "physpages": _physpages,
    "swappages": _swappages,
    "memory": _memory,
    "processes": _processes,
    "sockets": _sockets,
    "locks": _locks,
    "rules": _rules,
}
_NAMES = {
    "numproc": ("numproc",),
    "physpages": ("physpages",),
    "swappages": ("swappages",),
    "memory": ("kmemsize", "lockedpages", "shmpages", "oomguarpages", "dcachesize", "vmguarpages"),
    "processes": ("privvmpages", "numfile", "numsiginfo"),
    "sockets": (
        "numtcpsock", "numothersock", "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf",
    ),
    "locks": ("numflock",),
    "rules": ("numiptent",),
}  # fmt: skip
# What a program of ours refuses where there is one -> the groups that know how many there are,
# none where the program does.
_BY_PROGRAM: dict[str, list[str]] = {
    "numfile": [], "numflock": ["locks"], "numiptent": ["rules"],
}  # fmt: skip
_OTHER_NAMES = {key.lower() for keys in OTHERS.values() for key in keys}
# Beancounter -> the groups that may have it; programs of ours in the kernel know better than /proc.
_GROUPS_OF: dict[str, list[str]] = {
    row.name: _BY_PROGRAM[row.name] if _BY_PROGRAM.get(row.name) else [
        *(module for module, keys in OTHERS.items() if row.key in keys),
        *(group for group, names in _NAMES.items() if row.name in names),
    ]
    for row in ubc.ROWS
}
