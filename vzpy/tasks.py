"""What a task of a VPS does between clone and exec, as calls of a program (kernel/program.py).

Each function adds calls; their order is the caller's. Host values are looked up here, before."""

from __future__ import annotations

import os
import time

from vzpy.kernel import caps
from vzpy.kernel import process as p
from vzpy.kernel.program import OWN, Blank, Calls, Number, Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BORN = b"BORN\0\0\0\0"
WARN = b"WARN"
_AT_FDCWD = -100
_ENOENT, _EINVAL = 2, 22
_O_PLAIN = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_MSG_NOSIGNAL, _MSG_CMSG_CLOEXEC, _SOL_SOCKET, _SCM_RIGHTS = 0x4000, 0x40000000, 1, 1
_CONTROL = 16 + 4 * 254  # bytes of SCM_MAX_FD descriptors beside a message
_F_SETFD, _FD_CLOEXEC = 2, 1
_IGNORED_BY_SPAWN = (32, 33)  # see elf.start()
_SIG_DFL = bytes(32)  # struct sigaction of the kernel
_SIG_SETMASK, _SIGSET_SIZE = 2, 8
_JOIN_SESSION_KEYRING = 1
_IOPRIO_WHO_PROCESS = 1
_TIOCSPTLCK, _TIOCGPTPEER, _TIOCSCTTY = 0x40045431, 0x5441, 0x540E
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_INSTRUCTION = 8
_AF_UNIX, _AF_INET, _AF_NETLINK = 1, 2, 16
_CLOEXEC = os.O_CLOEXEC  # of sockets too
_SOCK_DGRAM, _SOCK_RAW, _NETLINK_NETFILTER = 2 | _CLOEXEC, 3 | _CLOEXEC, 12
_SIOCSIFFLAGS = 0x8914
_CAPABILITY_VERSION_3 = 0x20080522
_CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
_CLOCK_DIGITS = 12
_LAST_CPU_WORD = (1 << 64) - 1


def clone(
    calls: Program, flags: int, cgroup: int, last: Callable[[int], None] | None = None
) -> None:
    """clone3(2) into a cgroup; its pid is told (BORN), and this process ends. What follows is the
    task's, a child of who started the program.

    last  adds what this process does before its end, by the address of the pid"""
    born = calls.room(BORN + bytes(8))
    arguments = calls.words(
        flags | p.CLONE_PARENT | p.CLONE_INTO_CGROUP, 0, 0, 0, 0, 0, 0, 0, 0, 0, cgroup
    )
    calls.call("clone3", arguments, 88, kept=born + len(BORN), zero="task")
    calls.call("sendto", calls.tell, born, 16, _MSG_NOSIGNAL, 0, 0)
    if last:
        last(born + len(BORN))
    calls.call("exit_group", 0)
    calls.label("task")
    calls.call("prctl", p.PR_SET_DUMPABLE, 0, 0, 0, 0)
    calls.call("fcntl", calls.tell, _F_SETFD, _FD_CLOEXEC)


def own_namespaces(calls: Calls, owner: int | Number) -> None:
    """Before clone(): the user namespace that is made then belongs to this uid of the host.

    The owner of a user namespace has its own count of processes, signals and inotify watches: one
    euid a VPS. Without the securebit the change of euid drops the capabilities that
    CLONE_INTO_CGROUP asks for."""
    calls.call("prctl", p.PR_SET_SECUREBITS, p.SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    calls.call("setgroups", 0, 0)
    calls.call("setresgid", -1, owner, -1)
    calls.call("setresuid", -1, owner, -1)


def wait(calls: Calls) -> None:
    """For the next word of the other end; when that has gone, so does the task."""
    room = calls.room(bytes(63))
    calls.call("recvfrom", calls.tell, room, 64, 0, 0, 0, zero="failed")


def begin(calls: Program, memory: int, free: int) -> None:
    """The second list will stand in `memory`; of descriptors there are those below `free`."""
    calls.map_later(memory)
    for fd in range(3):
        calls.call("dup3", calls.tell, fd, 0)
    calls.call("close_range", free, 0xFFFFFFFF, 0)


def wait_for_more(calls: Program, free: int) -> None:
    """For the word that the second list has been written. Descriptors that come with it get the
    numbers from `free` on; of the program's own those above OWN stay."""
    calls.call("close_range", free, OWN, 0)
    word = calls.words(calls.room(bytes(63)), 64)  # struct iovec
    message = calls.words(0, 0, word, 1, calls.room(bytes(_CONTROL)), _CONTROL, 0)
    calls.go_on("recvmsg", calls.tell, message, _MSG_CMSG_CLOEXEC)


def say(calls: Calls, *words: bytes) -> None:
    text = b"\0".join(words)
    calls.call("sendto", calls.tell, text, len(text), _MSG_NOSIGNAL, 0, 0)


def new_time(calls: Calls) -> None:
    """A time namespace that begins now: uptime(1) starts at zero inside. While /proc is the host's.

    clone3 would enter it at once, and its offsets can only be written while nobody is in it. Both
    clocks move, since programs rely on boot time never being behind monotonic time. The file
    belongs to the host's root while the task is not dumpable."""
    calls.call("unshare", p.CLONE_NEWTIME, error="no time")
    calls.call("prctl", p.PR_SET_DUMPABLE, 1, 0, 0, 0)
    offsets, mine = b"/proc/self/timens_offsets", b"/proc/self/ns/time_for_children"
    calls.descriptor(OWN, "openat", _AT_FDCWD, offsets, os.O_WRONLY, 0, about=offsets)
    for name in _CLOCKS:
        line = Blank(name, _CLOCK_DIGITS, f"{name} -".encode(), b" 0\n")
        calls.call("write", OWN, line, len(line))
    calls.call("prctl", p.PR_SET_DUMPABLE, 0, 0, 0, 0)
    calls.descriptor(OWN, "openat", _AT_FDCWD, mine, os.O_RDONLY, 0, about=mine)
    calls.call("setns", OWN, p.CLONE_NEWTIME, zero="time")
    calls.label("no time")
    say(calls, WARN, b"no time namespace; uptime inside is the host's")
    calls.label("time")


def clocks() -> dict[str, bytes]:
    """What they show now, for the blanks of new_time()."""
    return {
        name: b"%0*d" % (_CLOCK_DIGITS, time.clock_gettime(clock))
        for name, clock in _CLOCKS.items()
    }


def gather(calls: Calls, sock: int, *parts: tuple[int, int]) -> None:
    """Send one datagram, whatever comes of it; of each part address and length (struct iovec)."""
    words = calls.words(*(number for part in parts for number in part))
    calls.may_fail("sendmsg", sock, calls.words(0, 0, words, len(parts), 0, 0, 0), 0)


def loopback_up(calls: Calls) -> None:
    """`ip link set lo up`: inits that are no systemd expect it (netdevice(7), SIOCSIFFLAGS)."""
    calls.call("socket", _AF_INET, _SOCK_DGRAM, 0, result=0)
    calls.call("ioctl", 0, _SIOCSIFFLAGS, calls.data(b"lo" + bytes(14) + b"\1" + bytes(15)))


def keep_table(calls: Calls, word: bytes, transaction: bytes) -> None:
    """Ask for a table of netfilter, which lasts as long as the socket that is handed over: what is
    answered can be read there (netfilter.confirm())."""
    calls.descriptor(OWN, "socket", _AF_NETLINK, _SOCK_RAW, _NETLINK_NETFILTER)
    calls.call("bind", OWN, calls.data(_AF_NETLINK.to_bytes(2, "little") + bytes(10)), 12)
    calls.call("sendto", OWN, transaction, len(transaction), 0, 0, 0)
    hand_over(calls, word, OWN)


def notify_socket(calls: Calls, word: bytes, path: bytes) -> None:
    """Where init says that it has booted, handed over: init would hang on one nobody reads."""
    calls.descriptor(OWN, "socket", _AF_UNIX, _SOCK_DGRAM, 0)
    address = _AF_UNIX.to_bytes(2, "little") + path + b"\0"
    calls.call("bind", OWN, address, len(address))
    hand_over(calls, word, OWN)


def close_all_but(calls: Calls, keep: list[int]) -> None:
    """Every descriptor above 2 that is not in `keep`."""
    first = 3
    for fd in sorted({fd for fd in keep if fd >= 3}):
        if fd > first:
            calls.call("close_range", first, fd - 1, 0)
        first = fd + 1
    calls.call("close_range", first, 0xFFFFFFFF, 0)


_INFINITY = p.RLIM_INFINITY
# Of a kernel's first process (G22).
_RLIMITS = (
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


def switch_on(
    calls: Calls, rlimits: tuple[tuple[int, int], ...], own: tuple[int, ...]
) -> None:
    """The task as if the machine had just been switched on: signals, umask, CPUs; limits,
    priorities and OOM score as far as we may. While /proc is the host's.

    rlimits  (resource, value) instead of the defaults, soft and hard
    own      hard_limits()"""
    for signal in _IGNORED_BY_SPAWN:
        calls.call("rt_sigaction", signal, _SIG_DFL, 0, _SIGSET_SIZE)
    calls.call("umask", 0o022)
    calls.may_fail("ioprio_set", _IOPRIO_WHO_PROCESS, 0, 0)
    calls.may_fail("personality", 0)
    full, rest = divmod(os.cpu_count() or 1, 64)
    cpus = calls.words(*[_LAST_CPU_WORD] * full, (1 << rest) - 1)
    calls.call("sched_setaffinity", 0, 8 * (full + 1), cpus)
    for number, (which, soft, hard) in enumerate((*_RLIMITS, *((w, x, x) for w, x in rlimits))):
        _limit(calls, f"limit {number}", which, soft, hard, own[which])
    calls.may_fail("sched_setscheduler", 0, os.SCHED_OTHER, calls.words(0))
    calls.may_fail("setpriority", os.PRIO_PROCESS, 0, 0)
    score = b"/proc/self/oom_score_adj"
    calls.descriptor(OWN, "openat", _AT_FDCWD, score, os.O_WRONLY, 0, error="no score")
    calls.may_fail("write", OWN, b"0", 1)
    calls.label("no score")


def hard_limits() -> tuple[int, ...]:
    """Ours, by number."""
    return tuple(hard for _, hard in p.limits())


def _limit(calls: Calls, done: str, which: int, soft: int, hard: int, own: int) -> None:
    """As near to it as our own hard limit allows, if we have no right to raise it. Where vzeventd,
    who runs the list, has a lower one the limit stays as it is."""
    at_most = soft if 0 <= soft <= own or own == _INFINITY else own
    raises = own != _INFINITY and not 0 <= hard <= own  # what may be refused
    calls.call(
        "prlimit64", 0, which, calls.words(soft, hard), 0, zero=done if raises else "", error=""
    )
    if raises:
        calls.may_fail("prlimit64", 0, which, calls.words(at_most, own), 0)
        calls.label(done)


def become_root(calls: Calls) -> None:
    """uid and gid 0 of the user namespace just made or entered, no supplementary groups."""
    calls.call("setresgid", 0, 0, 0)
    calls.call("setgroups", 0, 0)
    calls.call("setresuid", 0, 0, 0)


def hand_over(calls: Calls, word: bytes, fd: int) -> None:
    """Say a word, with a descriptor beside it (unix(7), SCM_RIGHTS)."""
    control = calls.words(20, _SOL_SOCKET | _SCM_RIGHTS << 32, fd)
    message = calls.words(0, 0, calls.words(word, len(word)), 1, control, 24, 0)
    calls.call("sendmsg", calls.tell, message, _MSG_NOSIGNAL)


def new_pty(calls: Calls, master: int) -> None:
    """A pty from the VPS's devpts; its slave is the first argument of the next call.

    The guest may have put anything at that path: who gets the master has to look."""
    path = b"/dev/pts/ptmx"
    calls.descriptor(master, "openat", _AT_FDCWD, path, _O_PLAIN, 0, about=path)
    calls.call("ioctl", master, _TIOCSPTLCK, calls.words(0), about=path)
    calls.call("ioctl", master, _TIOCGPTPEER, _O_PLAIN, result=0, about=path)


def own_pty(calls: Calls, word: bytes) -> None:
    """A pty of the VPS becomes 0, 1 and 2; its master is handed over."""
    master, slave = OWN, OWN + 1
    new_pty(calls, master)
    calls.call("dup3", 0, slave, os.O_CLOEXEC)
    hand_over(calls, word, master)
    stdio(calls, (slave, slave, slave))


def stdio(calls: Calls, fds: tuple[int, int, int]) -> None:
    for target, fd in enumerate(fds):
        if fd != target:
            calls.call("dup3", fd, target, 0)


def take_terminal(calls: Calls) -> None:
    """0 becomes the controlling terminal of the session that the task leads."""
    calls.call("ioctl", 0, _TIOCSCTTY, 0)


def new_session(calls: Calls) -> None:
    """No keys and no terminal of the caller."""
    calls.may_fail("keyctl", _JOIN_SESSION_KEYRING, 0)  # a kernel without keys
    calls.call("setsid")


def filter_calls(calls: Calls, programs: tuple[bytes, ...]) -> None:
    """Needs CAP_SYS_ADMIN in the user namespace: no_new_privs stays off, setuid programs work."""
    for program in programs:
        calls.call("seccomp", _SET_MODE_FILTER, 0, _sock_fprog(calls, program))


def broker(calls: Calls, program: bytes, word: bytes) -> None:
    """A filter that hands calls over, and who hears them given away: a task must not keep its own.
    """
    fprog = _sock_fprog(calls, program)
    calls.descriptor(OWN, "seccomp", _SET_MODE_FILTER, _NEW_LISTENER, fprog)
    hand_over(calls, word, OWN)


def _sock_fprog(calls: Calls, program: bytes) -> int:
    return calls.words(len(program) // _INSTRUCTION, program)


def limit_capabilities(calls: Calls, bounding: int) -> None:
    """See caps.limit()."""
    for number in range(64):
        if not bounding >> number & 1:
            known = number < len(caps.NAMES)
            calls.call(
                "prctl", p.PR_CAPBSET_DROP, number, 0, 0, 0, error="failed" if known else ""
            )
    calls.call("prctl", p.PR_CAP_AMBIENT, p.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    low, high = caps.halves(bounding)
    # struct __user_cap_data_struct twice: effective, permitted, inheritable
    sets = calls.words(low | low << 32, high << 32, high)
    calls.call("capset", calls.words(_CAPABILITY_VERSION_3), sets)


def execute(
    calls: Calls,
    candidates: tuple[tuple[bytes, tuple[bytes, ...]], ...],
    env: tuple[tuple[bytes, bytes] | Blank, ...],
    about: bytes = b"",
) -> None:
    """No signal blocked any more, then the first candidate that exists: path and argv.

    about  the path that is told of when there is none, else that of the last one

    Raises OSError EINVAL for words that no program can be given."""
    words = [word for path, argv in candidates for word in (path, *argv)]
    pairs = [pair if isinstance(pair, Blank) else b"%b=%b" % pair for pair in env]
    is_empty = not all(argv[0] for _, argv in candidates)
    if is_empty or any(
        b"\0" in word for word in (*words, *pairs) if isinstance(word, bytes)
    ):
        text = "no word may be empty or hold a NUL"
        raise OSError(_EINVAL, text, os.fsdecode(candidates[-1][0]))
    calls.call("rt_sigprocmask", _SIG_SETMASK, calls.words(0), 0, _SIGSET_SIZE)
    environment = calls.pointers(pairs)
    for path, argv in candidates:
        missing = f"no {os.fsdecode(path)}"
        calls.call("faccessat", _AT_FDCWD, path, os.F_OK, error=missing)
        calls.call("execve", path, calls.pointers(list(argv)), environment, about=path)
        calls.label(missing)
    calls.fail(_ENOENT, about or path)
