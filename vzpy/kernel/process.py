"""Processes: clone3, setns, unshare, prctl, pidfds (clone(2), namespaces(7), prctl(2))."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select

from vzpy.kernel.libc import libc, oserror, syscall
from vzpy.kernel.numbers import NR
from vzpy.kernel.proc import slurp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGUSR1, SIGUSR2 = 1, 2, 3, 9, 10, 12
SIGPIPE, SIGTERM, SIGCHLD, SIGCONT, SIGSTOP, SIGWINCH, SIGPWR = 13, 15, 17, 18, 19, 28, 30
SIGRTMIN = 34  # as user space counts: glibc keeps 32 and 33

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECBIT_NO_SETUID_FIXUP = 1 << 2

# Of asm-generic/resource.h, which all architectures of libc.py have. `resource` is a library to
# load, on every exec.
RLIM_INFINITY = -1
RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS = range(6)
RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_AS = 7, 8, 9
RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO = 11, 12, 13, 14

_STACK = 16384
REBOOT_MAGIC, LINUX_REBOOT_CMD_POWER_OFF = (0xFEE1DEAD, 672274793), 0x4321FEDC


def clone3(flags: int, cgroup: int = -1) -> int:
    """clone3(2) without a stack or shared memory: returns twice, like fork, and the end of the
    child is told by SIGCHLD.

    cgroup       descriptor of a cgroup v2 directory for CLONE_INTO_CGROUP

    Only from a single-threaded process: the child of a threaded one waits for ever for the
    interpreter lock that another thread holds."""
    import _struct as struct  # 60 us, which `vzctl stop` does without

    args = struct.pack("=11Q", flags, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, max(cgroup, 0))
    return syscall(NR["clone3"], args, len(args))


def zombie(flags: int) -> int:
    """A child that ends at once, by clone(2) of libc's _exit on a stack of its own: the pid.

    Its zombie keeps the new user namespace (CLONE_NEWUSER) reachable under /proc/PID until it is
    reaped. It shares our memory and runs one system call, so that it costs a tenth of a fork, and
    may be made from a threaded process."""
    from _ctypes import addressof

    from vzpy.kernel.foreign import c_char, c_void_p

    stack = (c_char * _STACK)()
    top = (addressof(stack) + _STACK) & ~15
    pid: int = libc.clone(libc._exit, c_void_p(top), flags | CLONE_VM | SIGCHLD, None)
    if pid < 0:
        raise oserror()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the stack is in use until then
    return pid


def setns(fd: int, nstype: int = 0) -> None:
    if libc.setns(fd, nstype) < 0:
        raise oserror()


def in_netns(netns: int, make: Callable[[], T]) -> T:
    """What is made, a socket, in another network namespace: it stays there. The calling thread is
    there meanwhile, and only it."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns, CLONE_NEWNET)
        try:
            return make()
        finally:
            setns(ours, CLONE_NEWNET)
    finally:
        os.close(ours)


def unshare(flags: int) -> None:
    if libc.unshare(flags) < 0:
        raise oserror()


def set_fs_user(number: int) -> None:
    """setfsuid(2), setfsgid(2) of this thread: whose the files are that it makes.

    Other than 0 it has no right over files that their owner has not, until it is 0 again."""
    libc.setfsgid(number)
    libc.setfsuid(number)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    result: int = libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise oserror()
    return result


def limits(pid: int = 0) -> list[tuple[int, int]]:
    """Soft and hard limits of a process (0: our own), by their numbers, as /proc tells them."""
    rows = slurp(f"/proc/{pid or 'self'}/limits").decode().split("\n")[1:-1]
    pairs = (row[26:].split()[:2] for row in rows)
    return [(_limit(soft), _limit(hard)) for soft, hard in pairs]


def _limit(text: str) -> int:
    return RLIM_INFINITY if text == "unlimited" else int(text)


def pidfd_send_signal(pidfd: int, sig: int) -> None:
    _signal.pidfd_send_signal(pidfd, sig)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A descriptor of ours for what a descriptor of another process refers to."""
    return syscall(NR["pidfd_getfd"], pidfd, fd, 0)


def ended(pidfd: int, seconds: float) -> bool:
    """Wait so long for a process to end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(seconds, 0) * 1000))


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    syscall(NR["close_range"], first, last, 0)


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    first = 3
    for fd in sorted(set(keep)):
        if fd >= first:
            if fd > first:
                close_range(first, fd - 1)
            first = fd + 1
    close_range(first)


def sethostname(name: bytes) -> None:
    if libc.sethostname(name, len(name)) < 0:
        raise oserror()


_SIG_SETMASK = 2
_SIG_DFL = bytes(32)  # struct sigaction of the kernel: handler, flags, restorer, mask
_SIGSET_SIZE = 8


def default_signals() -> None:
    """Every signal to SIG_DFL (signal(7)): only those that are ignored outlive exec.

    rt_sigaction(2) itself, since the C library keeps 32 and 33 to itself, and a program of another
    C library that started us may ignore them."""
    _, _, ignored = slurp("/proc/self/status").partition(b"\nSigIgn:\t")
    mask = int(ignored[:16], 16)
    for sig in range(1, 65):
        if mask >> sig - 1 & 1:
            syscall(NR["rt_sigaction"], sig, _SIG_DFL, None, _SIGSET_SIZE)


def unblock_signals() -> None:
    libc.sigprocmask(_SIG_SETMASK, bytes(128), None)
