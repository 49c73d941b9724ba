"""`vz rescue`: a VPS that swaps in and out without getting anywhere is brought back to work.

    freeze    it no longer touches what is reclaimed
    reclaim   page cache and idle pages go
    raise     room for what dies to end, and for the rest to get going
    kill      its biggest process, if RAM does not hold all that it has in memory and swap, and
              its processes really wait for memory most of the time
    thaw
    restore   its own limits again"""

from __future__ import annotations

import os
import select
import time

from vzpy import cgroups, limitlog, ubc
from vzpy.cgroupread import number
from vzpy.errors import Exit, VzError
from vzpy.events import (
    BiggestKilled,
    Frozen,
    MemoryRaised,
    MemoryRestored,
    NoneToKill,
    NotFrozen,
    NoThrashing,
    Reclaimed,
    Thawed,
)
from vzpy.fault import fault
from vzpy.kernel import process
from vzpy.limitlog import RESCUE, Hit
from vzpy.model import NO_LIMIT, Limits
from vzpy.story import applied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

_FREEZE, _RECLAIM, _DEATH, _RESTORE = 5.0, 10.0, 5.0, 10.0  # seconds at most
_PIECE = 16 << 20  # bytes reclaimed between two looks at the clock
STEPS = ("rescue-frozen", "rescue-reclaimed", "rescue-raised", "rescue-killed")
_MIB = 1 << 20
_THRASHING = 10.0  # per cent


def rescue(vps: VPS, report: Report) -> None:
    """Raises NotRunning (31); VzError 1 when it has no memory limit to come out of."""
    facts = vps.running()
    limits = ubc.limits(applied.of_running(facts, vps.config))
    used = number(facts.cgroup, "memory.current")
    if used is None or limits.memory_max in (None, NO_LIMIT):
        raise VzError(
            "Unable to rescue: the container has no memory limit",
            Exit.SETUBC,
            hint="`vzctl set --ram` gives it one; `vzctl stop --fast` ends it.",
        )
    assert limits.memory_max is not None
    pressure = _pressure(facts.cgroup)
    done = []
    try:
        report(Frozen() if cgroups.freeze(facts.cgroup, True, _FREEZE) else NotFrozen())
        fault("rescue-frozen")
        freed = _reclaim(facts.cgroup, used, limits.memory_max, report)
        done.append(f"reclaimed {freed // _MIB} MiB")
        fault("rescue-reclaimed")
        if not _does_not_fit(facts.cgroup, limits.memory_max):
            pass
        elif pressure < _THRASHING:
            report(NoThrashing(percent=pressure))
        else:
            _raise(facts.cgroup, limits.memory_max, report)
            fault("rescue-raised")
            done.append(_kill_biggest(facts, report))
            fault("rescue-killed")
    except OSError as err:
        raise VzError.of("Unable to rescue", err, Exit.SETUBC) from err
    finally:
        _go_on(facts.cgroup, limits, report)
    hit = Hit(time.time(), vps.ctid, RESCUE, start=facts.starttime, text=", ".join(done))
    limitlog.append(limitlog.path_of(vps.node.paths.state), hit)


def _reclaim(cgroup: str, used: int, limit: int, report: Report) -> int:
    """Give back all that the kernel finds idle; the bytes that came free."""
    end = time.monotonic() + _RECLAIM
    left = used
    while left and time.monotonic() < end:
        try:
            cgroups.write(cgroup, "memory.reclaim", str(min(_PIECE, left)))
        except OSError:
            break  # EAGAIN: no more to be had; before Linux 5.19 there is no such file
        left -= min(_PIECE, left)
    now, swapped = _used(cgroup)
    freed = max(used - now, 0)
    report(Reclaimed(mib=freed // _MIB, used=now // _MIB, limit=limit // _MIB,
                     swapped=swapped // _MIB))  # fmt: skip
    return freed


def _used(cgroup: str) -> tuple[int, int]:
    """Bytes in memory, and in swap."""
    return number(cgroup, "memory.current") or 0, number(cgroup, "memory.swap.current") or 0


def _does_not_fit(cgroup: str, limit: int) -> bool:
    """What is idle is reclaimed; the rest, in memory and swap, is what it works with."""
    return sum(_used(cgroup)) > limit * 9 // 10


def _pressure(cgroup: str) -> float:
    """Per cent of the last ten seconds in which all of its processes waited for memory; 100 where
    the kernel does not count that (Documentation/accounting/psi.rst)."""
    try:
        full = cgroups.read(cgroup, "memory.pressure").splitlines()[1]
        return float(full.split()[1].removeprefix("avg10="))
    except (OSError, IndexError, ValueError):
        return 100.0


def _raise(cgroup: str, limit: int, report: Report) -> None:
    room = limit + max(limit // 4, 16 * _MIB)
    cgroups.limit(cgroup, Limits(memory_max=room, memory_high=NO_LIMIT))
    report(MemoryRaised(mib=room // _MIB))


def _kill_biggest(facts: Facts, report: Report) -> str:
    """The one with the most memory and swap of its own, but not init; what was done, in words."""
    sizes = {pid: _size(pid) for pid in cgroups.tasks(facts.cgroup) if pid != facts.pid}
    for pid in sorted(sizes, key=lambda pid: -sizes[pid]):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at after the pidfd was had: it is the same process that is killed.
            if pid not in cgroups.tasks(facts.cgroup):
                continue
            comm = _comm(pid)
            process.pidfd_send_signal(pidfd, process.SIGKILL)
            select.select([pidfd], [], [], _DEATH)
        except OSError:
            continue  # it has just ended
        finally:
            os.close(pidfd)
        report(BiggestKilled(pid=pid, comm=comm, mib=sizes[pid] // _MIB))
        return f"killed process {pid} ({comm}) of {sizes[pid] // _MIB} MiB"
    report(NoneToKill())
    return "found no process to kill"


def _size(pid: int) -> int:
    """Bytes of memory and swap; 0 when it has gone."""
    found = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            for line in f:
                if line.startswith((b"RssAnon:", b"RssShmem:", b"VmSwap:")):
                    found += int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    return found


def _comm(pid: int) -> str:
    """Its name as it may be shown: a guest chooses it."""
    with open(f"/proc/{pid}/comm", errors="replace") as f:
        return "".join(c if c.isprintable() else "?" for c in f.read().rstrip("\n"))


def _go_on(cgroup: str, limits: Limits, report: Report) -> None:
    """However it went: it runs, within its own limits. Each is tried whatever came before."""
    try:
        cgroups.freeze(cgroup, False)
        report(Thawed())
        _settle(cgroup, limits.memory_max or 0)
        old = number(cgroup, "memory.max")
        cgroups.limit(cgroup, Limits(memory_max=limits.memory_max, memory_high=limits.memory_high))
        if old != number(cgroup, "memory.max"):
            report(MemoryRestored(mib=(limits.memory_max or 0) // _MIB))
    except FileNotFoundError:
        pass  # it has ended


def _settle(cgroup: str, limit: int) -> None:
    """Wait for what was killed to be gone, and reclaim: a limit that is set below what is in use
    has more processes killed."""
    end = time.monotonic() + _RESTORE
    while (over := _used(cgroup)[0] - limit) > 0 and time.monotonic() < end:
        try:
            cgroups.write(cgroup, "memory.reclaim", str(over))
        except OSError:
            time.sleep(0.1)
