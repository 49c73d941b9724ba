"""Namespaces of a VPS: how a task is cloned into them, id maps, and the way into running ones.

A threaded Python process must not clone by itself: the child would wait for ever for the lock of
the interpreter. It forks a launcher first, which is single-threaded and consistent and clones with
CLONE_PARENT. A process of one thread, as the tools and vzeventd are, saves the 1.5 ms of that fork.
Either way the new task is the child of whoever called."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import sys
import time

from vzpy.errors import VzError
from vzpy.kernel import process as p
from vzpy.kernel.proc import slurp
from vzpy.model import IdRange
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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


@record
class Entry:
    """What a launcher needs besides the function that the new task runs.

    keep    descriptors the task still needs; everything else above 2 is closed
    cgroup  descriptor of the cgroup v2 directory the task is born into
    owner   range whose base owns the new user namespace; None when entering an existing one
    pidfd   of the init whose pid namespace is entered; -1 when making new ones
    rlimits (resource, value) instead of the defaults, soft and hard"""

    keep: tuple[int, ...]
    cgroup: int
    owner: IdRange | None = None
    pidfd: int = -1
    rlimits: tuple[tuple[int, int], ...] = ()


def launch(entry: Entry, tell: Callable[[int], None], task: Callable[[], None]) -> int:
    """Clone a task that runs `task` and exits; `tell` is told its pid as soon as that is known, or
    the negative errno of what failed before.

    Returns the pid of the launcher for the caller to reap, 0 where none was needed: then the limits
    of the task are set, with a launcher when that has ended. `tell` runs in the launcher, `task` in
    the new namespaces."""
    _can_wait()
    if _is_single_threaded():
        _launch(entry, tell, task)
        return 0
    pid = os.fork()
    if pid:
        return pid
    try:
        _launch(entry, tell, task, p.CLONE_PARENT)
    finally:
        os._exit(0)


def _launch(
    entry: Entry, tell: Callable[[int], None], task: Callable[[], None], flags: int = 0
) -> None:
    """Undisturbed by signals, since we are half somewhere else meanwhile."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        try:
            if entry.owner:
                new = _own(entry, entry.owner, flags, tell)
            else:
                new = _enter(entry, flags, tell)
        except OSError as err:
            tell(-(err.errno or 1))
        else:
            if not new:
                _begin(entry, tell, task)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _begin(entry: Entry, tell: Callable[[int], None], task: Callable[[], None]) -> None:
    """In the new task, with all signals blocked until clean_process()."""
    try:
        gc.disable()  # a collection here would only copy pages of the caller
        p.prctl(p.PR_SET_DUMPABLE, 0)
        p.close_all_but([*entry.keep, entry.pidfd])
        _switched_on()
        if not entry.owner:
            as_by_default(0, entry.rlimits)
        task()
    except OSError as err:
        tell(-(err.errno or 1))
    finally:
        os._exit(1)


def _is_single_threaded() -> bool:
    """Threads that Python does not know count too: one may hold the lock of malloc(3)."""
    return os.stat("/proc/self/task").st_nlink == 3


def _can_wait() -> None:
    """Whatever we start is waited for, which no process can that ignores SIGCHLD (wait(2))."""
    if _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN:
        raise VzError(
            "This process ignores SIGCHLD",
            hint="Call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before.",
        )


def _enter(entry: Entry, flags: int, tell: Callable[[int], None]) -> int:
    """clone3 into a running VPS's pid namespace: 0 in the new task."""
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        p.setns(entry.pidfd, p.CLONE_NEWPID)
        new = -1
        try:
            new = p.clone3(flags | p.CLONE_INTO_CGROUP, cgroup=entry.cgroup)
            if new:
                tell(new)
            return new
        finally:
            if new:
                p.setns(home, p.CLONE_NEWPID)
    finally:
        os.close(home)


def _own(entry: Entry, owner: IdRange, flags: int, tell: Callable[[int], None]) -> int:
    """clone3 into new namespaces: 0 in the new task.

    The owner of a user namespace has its own count of processes, signals and inotify watches: one
    euid a VPS. Without the securebit the change of euid drops the capabilities that
    CLONE_INTO_CGROUP asks for. While we are the owner we may set the limits of the task too; those
    that bound the whole user namespace are ours at that moment, our soft ones."""
    groups, uid, gid = os.getgroups(), os.geteuid(), os.getegid()
    bits, dumpable = p.prctl(p.PR_GET_SECUREBITS), p.prctl(p.PR_GET_DUMPABLE)
    p.prctl(p.PR_SET_SECUREBITS, bits | p.SECBIT_NO_SETUID_FIXUP)
    ours = [(which, p.prlimit(0, which)) for which, _ in entry.rlimits]
    new = -1
    try:
        for (which, value), (_, (_, hard)) in zip(entry.rlimits, ours):
            _set_rlimit(0, which, value, hard if hard == _INFINITY else max(value, hard))
        os.setgroups([])
        os.setresgid(-1, owner.base, -1)
        os.setresuid(-1, owner.base, -1)
        new = p.clone3(flags | SEVEN | p.CLONE_INTO_CGROUP, cgroup=entry.cgroup)
        if new:
            tell(new)  # whoever writes the id maps need not wait for us
            as_by_default(new, entry.rlimits)
        return new
    finally:
        if new:
            os.setresuid(-1, uid, -1)
            os.setresgid(-1, gid, -1)
            os.setgroups(groups)
            for which, pair in ours:
                p.prlimit(0, which, pair)
            p.prctl(p.PR_SET_SECUREBITS, bits)
            if dumpable == 1:
                p.prctl(p.PR_SET_DUMPABLE, 1)


def as_by_default(pid: int, rlimits: tuple[tuple[int, int], ...]) -> None:
    """Limits, niceness, scheduler and OOM score of a kernel's first process (G22), for a task (0:
    our own) as far as the host's rights go: CAP_SYS_RESOURCE and CAP_SYS_NICE.

    rlimits  (resource, value) instead of the defaults"""
    for limit, soft, hard in (*RLIMITS, *((which, value, value) for which, value in rlimits)):
        _set_rlimit(pid, limit, soft, hard)
    for reset in (_plain_scheduler, _nice_0, _oom_score_0):
        try:
            reset(pid)
        except OSError:
            pass


_INFINITY = p.RLIM_INFINITY
MEMLOCK, SIGPENDING, DATA = p.RLIMIT_MEMLOCK, p.RLIMIT_SIGPENDING, p.RLIMIT_DATA
RLIMITS = (
    # limit, soft, hard
    (p.RLIMIT_NOFILE, 1024, 524288),
    (p.RLIMIT_CORE, 0, _INFINITY),
    (p.RLIMIT_STACK, 8 << 20, _INFINITY),
    (p.RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (p.RLIMIT_MSGQUEUE, 819200, 819200),
    (p.RLIMIT_NICE, 0, 0),
    (p.RLIMIT_RTPRIO, 0, 0),
    (p.RLIMIT_AS, _INFINITY, _INFINITY),
    (p.RLIMIT_CPU, _INFINITY, _INFINITY),
    (p.RLIMIT_DATA, _INFINITY, _INFINITY),
    (p.RLIMIT_FSIZE, _INFINITY, _INFINITY),
    (p.RLIMIT_RSS, _INFINITY, _INFINITY),
)


def _set_rlimit(pid: int, limit: int, soft: int, hard: int) -> None:
    """As near to it as a hard limit allows that we have no right to raise."""
    try:
        p.prlimit(pid, limit, (soft, hard))
    except OSError:
        now = p.prlimit(pid, limit)[1]
        at_most = soft if 0 <= soft <= now or now == _INFINITY else now
        p.prlimit(pid, limit, (at_most, now))


def bounds_of(pid: int) -> tuple[tuple[int, int], ...]:
    """The rlimits of a VPS's init that may be a VPS's own, for what is executed beside it.

    Read from /proc, since prlimit(2) asks for CAP_SYS_RESOURCE. Raises OSError."""
    text = slurp(f"/proc/{pid}/limits").decode()
    names = {"Max data": DATA, "Max lock": MEMLOCK, "Max pend": SIGPENDING}
    rows = (line for line in text.split("\n") if line[:8] in names)
    hard = ((names[row[:8]], row[26:].split()[1]) for row in rows)
    return tuple((which, _INFINITY if x == "unlimited" else int(x)) for which, x in hard)


def early(rlimits: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Those that a task is born with: all but what bound_data() sets."""
    return tuple(item for item in rlimits if item[0] != DATA)


def bound_data(rlimits: tuple[tuple[int, int], ...]) -> None:
    """The last before exec: what runs here may be larger than what is executed."""
    for which, value in rlimits:
        if which == DATA:
            p.prlimit(0, DATA, (value, value))


def _plain_scheduler(pid: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def _nice_0(pid: int) -> None:
    os.setpriority(os.PRIO_PROCESS, pid, 0)


def _oom_score_0(pid: int) -> None:
    fd = os.open(f"/proc/{pid or 'self'}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


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


def enter_time() -> None:
    """A time namespace that begins now: uptime(1) starts at zero inside.

    Both clocks move, since programs rely on boot time never being behind monotonic time. The
    offsets file belongs to the host's root while the task is not dumpable."""
    p.unshare(p.CLONE_NEWTIME)
    p.prctl(p.PR_SET_DUMPABLE, 1)
    fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
    for name, clock in ((b"monotonic", time.CLOCK_MONOTONIC), (b"boottime", time.CLOCK_BOOTTIME)):
        os.write(fd, b"%s %d 0\n" % (name, -int(time.clock_gettime(clock))))
    os.close(fd)
    p.prctl(p.PR_SET_DUMPABLE, 0)
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    p.setns(fd, p.CLONE_NEWTIME)
    os.close(fd)


def idmap_userns(text: bytes) -> int:
    """A descriptor of a user namespace with the given uid and gid map, for mount_setattr(2)."""
    _can_wait()
    pid = p.zombie(p.CLONE_NEWUSER)
    try:
        write_maps(pid, text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.waitpid(pid, 0)


def _switched_on() -> None:
    """The task as if the machine had just been switched on; where /proc still is the host's, and
    while the parent writes the id maps."""
    p.default_signals()
    os.umask(0o022)
    for reset in (p.reset_ioprio, p.reset_personality):
        try:
            reset()
        except OSError:
            pass  # a kernel without I/O priorities has nothing to reset
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def clean_process(keep: list[int]) -> None:
    """Last before exec: no keys, no terminal, no descriptor, no signal blocked.

    keep    descriptors to spare: the close-on-exec one that can still tell why exec failed"""
    try:
        p.new_session_keyring()
    except OSError:
        pass  # a kernel without keys
    p.close_all_but(keep)
    os.setsid()
    p.unblock_signals()


def try_execve(path: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """execve; returns when there is no such file, so that the next candidate is tried.

    Raises OSError for every other failure."""
    try:
        os.execve(path, argv, env)
    except ValueError as err:  # an empty first word, a NUL in one
        raise OSError(22, str(err), os.fsdecode(path)) from None
    except OSError as err:
        if err.errno not in (2, 20):  # ENOENT, ENOTDIR
            raise OSError(err.errno, err.strerror, os.fsdecode(path)) from None


def poison_imports() -> None:
    """From here on an import fails instead of reading the guest's files."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []
