"""Namespaces of a VPS: the launcher that makes them, id maps, and the way into a running one.

A child of a threaded Python process must not clone by itself, so every entry goes through a
launcher: os.fork() first (the interpreter is then single-threaded and consistent), clone3 with
CLONE_PARENT from there. The new task is the child of whoever called, and the launcher exits."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import sys
import time

from vzpy.errors import VzError
from vzpy.kernel import process as p
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
    pidfd   of the init whose pid namespace is entered; -1 when making new ones"""

    keep: tuple[int, ...]
    cgroup: int
    owner: IdRange | None = None
    pidfd: int = -1


def launch(entry: Entry, tell: Callable[[int], None], task: Callable[[], None]) -> int:
    """Fork the launcher; it tells the new task's pid and exits, the task runs `task` and exits.

    Returns the launcher's pid, for the caller to reap. `tell` runs in the launcher, `task` in the
    new namespaces; when anything before the clone fails, `tell` gets the negative errno."""
    _can_wait()
    pid = os.fork()
    if pid:
        return pid
    gc.disable()  # a collection here would only copy pages of the caller
    try:
        new = _enter(entry)
        if new:
            tell(new)
            os._exit(0)
        task()
    except OSError as err:
        tell(-(err.errno or 1))
    finally:
        os._exit(1)


def _can_wait() -> None:
    """Whatever we start is waited for, which no process can that ignores SIGCHLD (wait(2))."""
    if _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN:
        raise VzError(
            "This process ignores SIGCHLD",
            hint="Call signal.signal(signal.SIGCHLD, signal.SIG_DFL) before.",
        )


def _enter(entry: Entry) -> int:
    """clone3 into the cgroup and the namespaces: 0 in the new task."""
    p.prctl(p.PR_SET_DUMPABLE, 0)
    p.close_all_but([*entry.keep, entry.cgroup, entry.pidfd])
    default_priority()
    default_rlimits()
    flags = p.CLONE_PARENT | p.CLONE_INTO_CGROUP
    if entry.owner is None:
        p.setns(entry.pidfd, p.CLONE_NEWPID)
        return p.clone3(flags, 0, entry.cgroup)
    # The owner of a user namespace has its own count of processes, signals and inotify watches:
    # one euid a VPS. Without the securebit the change of euid drops the capabilities that
    # CLONE_INTO_CGROUP asks for.
    p.prctl(p.PR_SET_SECUREBITS, p.SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(-1, entry.owner.base, -1)
    os.setresuid(-1, entry.owner.base, -1)
    return p.clone3(flags | SEVEN, 0, entry.cgroup)


def default_rlimits() -> None:
    """What the kernel gives its first process (G22), as far as CAP_SYS_RESOURCE allows."""
    infinity = resource.RLIM_INFINITY
    for limit, soft, hard in (
        (resource.RLIMIT_NOFILE, 1024, 524288),
        (resource.RLIMIT_CORE, 0, infinity),
        (resource.RLIMIT_STACK, 8 << 20, infinity),
        (resource.RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
        (resource.RLIMIT_MSGQUEUE, 819200, 819200),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
        (resource.RLIMIT_AS, infinity, infinity),
        (resource.RLIMIT_CPU, infinity, infinity),
        (resource.RLIMIT_DATA, infinity, infinity),
        (resource.RLIMIT_FSIZE, infinity, infinity),
        (resource.RLIMIT_RSS, infinity, infinity),
    ):
        try:
            resource.setrlimit(limit, (soft, hard))
        except (ValueError, OSError):
            now = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (soft if 0 <= soft <= now or now == infinity else now, now))


def default_priority() -> None:
    """Niceness, scheduler and OOM score of a kernel's first process. Here, before the namespaces:
    niceness is lowered with CAP_SYS_NICE of the host, the score with CAP_SYS_RESOURCE."""
    for reset in (_plain_scheduler, _nice_0, _oom_score_0):
        try:
            reset()
        except OSError:
            pass  # the host lacks the right itself


def _plain_scheduler() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _nice_0() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def _oom_score_0() -> None:
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
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


def clean_process(keep: list[int]) -> None:
    """Last before exec: the task is as if the machine had just been switched on.

    keep    descriptors to spare: the close-on-exec one that can still tell why exec failed"""
    p.default_signals()
    os.umask(0o022)
    for reset in (p.new_session_keyring, p.reset_ioprio, p.reset_personality):
        try:
            reset()
        except OSError:
            pass  # a kernel without keys or I/O priorities has nothing to reset
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    p.close_all_but(keep)
    os.setsid()


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
