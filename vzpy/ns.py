"""Namespaces of a VPS, their id maps, and the limits of its first process (tasks.py clones it)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

from vzpy.errors import VzError
from vzpy.kernel import process as p

# The time namespace is made later: clone3 would enter it at once, and its offsets can only be
# written while nobody is in it (EACCES).
SEVEN = (
    p.CLONE_NEWUSER
    | p.CLONE_NEWNS
    | p.CLONE_NEWPID
    | p.CLONE_NEWNET
    | p.CLONE_NEWIPC
    | p.CLONE_NEWUTS
    | p.CLONE_NEWCGROUP
)
EIGHT = SEVEN | p.CLONE_NEWTIME

MEMLOCK, SIGPENDING, DATA = p.RLIMIT_MEMLOCK, p.RLIMIT_SIGPENDING, p.RLIMIT_DATA


def bounds_of(pid: int) -> tuple[tuple[int, int], ...]:
    """The rlimits of a VPS's init that may be a VPS's own, for what is executed beside it.

    Read from /proc, since prlimit(2) asks for CAP_SYS_RESOURCE. Raises OSError."""
    limits = p.limits(pid)
    return tuple((which, limits[which][1]) for which in (DATA, MEMLOCK, SIGPENDING))


def write_maps(pid: int, text: bytes) -> None:
    """uid_map and gid_map, the same, of a new user namespace (user_namespaces(7))."""
    for kind in ("uid_map", "gid_map"):
        fd = os.open(f"/proc/{pid}/{kind}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)


def become_root() -> None:
    """uid and gid 0 of the user namespace just made or entered, no supplementary groups."""
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)


def can_wait() -> None:
    """Whatever we start is waited for, which no process can that ignores SIGCHLD (wait(2))."""
    if _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN:
        raise VzError(
            "This process ignores SIGCHLD",
            hint="Call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before.",
        )


def idmap_userns(text: bytes) -> int:
    """A descriptor of a user namespace with the given uid and gid map, for mount_setattr(2)."""
    can_wait()
    pid = p.zombie(p.CLONE_NEWUSER)
    try:
        write_maps(pid, text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.waitpid(pid, 0)


def poison_imports() -> None:
    """From here on an import fails instead of reading the guest's files."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []
