"""Load averages of a VPS, as the kernel counts those of a machine (kernel/sched/loadavg.c): tasks
that run, want to run, or wait for a disk, damped over 1, 5 and 15 minutes.

The kernel has none for a cgroup, so somebody looks now and then; what came of it lies on the
cgroup."""

from __future__ import annotations

import os
import time

from vzpy import cgroups
from vzpy.kernel.proc import slurp

_KEPT = "trusted.vz.load"  # three averages, and when it was (CLOCK_BOOTTIME)
_MINUTES = (1, 5, 15)


def read(cgroup: str) -> tuple[float, ...] | None:
    """Of 1, 5 and 15 minutes; None before the first look."""
    kept = _kept(cgroup)
    return kept[:3] if kept else None


def sample(cgroup: str) -> None:
    """A look: how many tasks there are now counts for the time since the last one."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    *before, then = _kept(cgroup) or (0.0, 0.0, 0.0, now)
    after = damped(before, _active(cgroup), now - then)
    try:
        os.setxattr(cgroup, _KEPT, b" ".join(b"%.4f" % x for x in (*after, now)))
    except OSError:
        pass  # it has ended


def damped(averages: list[float], active: int, seconds: float) -> list[float]:
    keep = [2.718281828459045 ** (-seconds / (60 * minutes)) for minutes in _MINUTES]
    return [active + (old - active) * k for old, k in zip(averages, keep)]


def _kept(cgroup: str) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, os.getxattr(cgroup, _KEPT).split()))
    except OSError:
        return None


def _active(cgroup: str) -> int:
    return sum(map(_counts, cgroups.tasks(cgroup, "cgroup.threads")))


def _counts(tid: int) -> bool:
    """Field 3 of /proc/TID/stat: R runs or could, D waits for a disk."""
    try:
        return slurp(f"/proc/{tid}/stat").rpartition(b")")[2][1:2] in (b"R", b"D")
    except OSError:
        return False
