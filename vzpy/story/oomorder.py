"""Whom the kernel kills first when the whole host is short of memory: oomguarpages (beancounters.md
2). Processes of a VPS that has more than its barrier are put before those of others, by
oom_score_adj (proc(5)), and back when it has less.

What holds stands in an attribute of vz/N. Looked at by vzeventd every now and then; a host that
runs out of memory in a moment finds the order of the last look."""

from __future__ import annotations

import os

from vzpy import cgroupread, cgroups, ubc
from vzpy.kernel.proc import slurp
from vzpy.story.applied import Applied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import Facts
    from vzpy.story.beancounters import Look

# As if each process had 30 % of the host's RAM and swap more than it has.
STEP = 300
_MARK = "trusted.vz.oom"


def settle(facts: Facts, look: Look) -> None:
    """Put the processes of a running VPS where they belong."""
    asked = Applied(cgroupread.applied(facts.cgroup) or {})
    barrier = ubc.pairs(asked)["oomguarpages"][0]
    held = look.count("oomguarpages")[0]
    put(facts.cgroup, held is not None and held > barrier)


def put(cgroup: str, first: bool) -> None:
    """The processes of vz/N before all others, or back."""
    was_first = _is_marked(cgroup)
    if not first and not was_first:
        return
    try:
        if not was_first:
            os.setxattr(cgroup, _MARK, b"1")  # at once: what is half done is taken back, too
        for pid in cgroups.tasks(cgroup, "cgroup.procs"):
            _put(pid, cgroup, first)
        if not first:
            os.removexattr(cgroup, _MARK)
    except OSError:
        pass  # the VPS has ended


def _is_marked(cgroup: str) -> bool:
    try:
        return bool(os.getxattr(cgroup, _MARK))
    except OSError:
        return False


def _put(pid: int, cgroup: str, first: bool) -> None:
    """What comes by an exec is put before the others with the next look; what those that are there
    fork has their place."""
    inside = os.fsencode(cgroup.removeprefix(cgroups.mountpoint())) + b"/"
    try:
        process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it has ended
    try:
        where = f"/proc/self/fd/{process}"  # the same one, though another gets its number
        score = int(slurp(f"{where}/oom_score_adj"))
        if inside not in slurp(f"{where}/cgroup"):
            return
        if first and score < STEP:
            _write(f"{where}/oom_score_adj", score + STEP)
        elif not first and score >= STEP:
            _write(f"{where}/oom_score_adj", score - STEP)
    except OSError:
        pass  # it has ended
    finally:
        os.close(process)


def _write(path: str, value: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)
