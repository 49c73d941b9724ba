"""Which init a VPS has, and how that init is asked to halt: one table, found by looking.

A process 1 without a handler ignores a signal, whoever sends it, so a wrong guess hangs until the
timeout: before a signal is sent its handler (or signalfd) is looked for in /proc/PID/status. A
command may do nothing when init is not ready for it (runit ignores it in its first stage), a
signal may be blocked for a moment only (by posix_spawn(3), say): both are given again."""

from __future__ import annotations

import _stat as stat
import os
import time

from vzpy.kernel import mount as m
from vzpy.kernel import process as p
from vzpy.kernel.numbers import NR
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    Way = int | tuple[str, ...]

    class Halting(Protocol):
        """What ask() may do to a running VPS."""

        def kind(self) -> str:
            """Of its init, now: a script may have become another by exec."""

        def age(self) -> float:
            """Seconds since the start of its init."""

        def catches(self, sig: int) -> bool:
            """Init has a handler for the signal."""

        def reads(self, sig: int) -> bool:
            """Init blocks the signal, or waits for signals: it may be about to read it."""

        def signal(self, sig: int) -> None:
            """To init."""

        def has(self, path: str) -> bool:
            """There is something at that path inside."""

        def run(self, words: tuple[str, ...]) -> int:
            """A command inside; its exit status, 127 when there is no such program."""

        def by_hand(self, seconds: float) -> None:
            """End all its processes but init, within that time, then the VPS."""

        def gone(self, seconds: float) -> bool:
            """Wait so long for init to end; True when it did."""

        def tell(self, kind: str, how: str) -> None:
            """The way that is tried."""


INIT_PATHS = ("/sbin/init", "/etc/init", "/bin/init")


@record
class Init:
    """One kind of init.

    halt       ways to try in order until one is taken: a signal, or the words of a command inside
    container  value of container= that this init's scripts know (gotcha G2)
    argv       what follows the path; sysvinit wants room there to show its runlevel
    reads      reads its signals instead of catching them; a shell blocks them for other reasons
    listens    a file inside without which no command is given: init makes it when it listens
    patience   seconds until what may have been lost is given for the second time
    settles    seconds from its start until it takes whatever it will ever take"""

    halt: tuple[Way, ...]
    container: str = "vzpy"
    argv: tuple[bytes, ...] = ()
    reads: bool = True
    listens: str = ""
    patience: float = 2
    settles: float = 5


_ROOM = (b"-z", b"      ")
INITS = {
    "systemd": Init((p.SIGRTMIN + 3,), argv=_ROOM, settles=60),
    "busybox": Init((p.SIGUSR2,)),
    # openrc-shutdown succeeds without the fifo too; a second one would cut short the 3 seconds
    # between openrc-init's SIGTERM and SIGKILL
    "openrc": Init(
        (("openrc-shutdown", "-p", "now"),),
        container="lxc",
        listens="/run/openrc/init.ctl",
        patience=10,
        settles=30,
    ),
    # not halt(8): in runlevel 0, and without utmp in any, it halts at once, without the scripts
    "sysvinit": Init((("init", "0"), ("shutdown", "-h", "now")), argv=_ROOM),
    "runit": Init((("init", "0"), ("runit-init", "0")), container="lxc"),
    "procd": Init((p.SIGUSR2, p.SIGUSR1)),
    "s6": Init((("halt",), ("poweroff",), p.SIGTERM)),
    "dinit": Init((("halt",), p.SIGTERM)),
    "shell": Init((p.SIGTERM,), reads=False),
    # to be asked twice makes some programs end in a hurry
    "unknown": Init((("halt",), ("poweroff",), p.SIGPWR, p.SIGTERM), patience=30),
}

# Base name of the program that runs as process 1 -> kind. sysvinit's is init, as anybody's.
_PROGRAMS = {
    "systemd": "systemd",
    "busybox": "busybox",
    "openrc-init": "openrc",
    "runit": "runit",
    "runit-init": "runit",
    "procd": "procd",
    "s6-svscan": "s6",
    "s6-linux-init": "s6",
    "dinit": "dinit",
    "sh": "shell",
    "dash": "shell",
    "bash": "shell",
}
_APPLETS = {"init": "busybox", "linuxrc": "busybox", "sh": "shell", "ash": "shell"}
# What lies beside an init of no telling name: a script, or sysvinit.
_BESIDE = {"/etc/s6-linux-init": "s6", "/sbin/procd": "procd", "/sbin/telinit": "sysvinit"}


def kind_of_program(path: str) -> str:
    return _PROGRAMS.get(os.path.basename(path), "unknown")


def kind_in_tree(root: int) -> str:
    """The kind of init a root directory (a descriptor) will start, by where /sbin/init leads."""
    for path in INIT_PATHS:
        try:
            fd = m.openat2(root, path, os.O_PATH)
        except OSError:
            continue
        try:
            kind = kind_of_program(os.readlink(f"/proc/self/fd/{fd}"))
            script = _is_script(fd)
        finally:
            os.close(fd)
        if kind == "unknown":
            beside = (found for name, found in _BESIDE.items() if has(root, name))
            kind = next(beside, "shell" if script else "unknown")
        return kind
    return "unknown"


def _is_script(fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 2) == b"#!"
    finally:
        os.close(file)


def has(root: int, path: str) -> bool:
    """The tree of a VPS (by descriptor) has something at that path."""
    try:
        os.close(m.openat2(root, path, os.O_PATH))
        return True
    except OSError:
        return False


def uses_openrc(root: int) -> bool:
    """OpenRC's scripts run, whatever process 1 is: an unknown container= is bare metal to them."""
    return has(root, "/sbin/openrc")


def kind_of_pid(pid: int, in_tree: str) -> str:
    """The kind of a running init, by its program; what the tree said where that tells nothing."""
    try:
        kind = kind_of_program(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
        if kind == "busybox":
            kind = _APPLETS.get(_applet(pid), "unknown")
    except OSError:
        return in_tree
    if kind == "shell":
        return kind if in_tree == "unknown" else in_tree
    if kind == "unknown":
        return kind if in_tree == "shell" else in_tree
    return kind


def _applet(pid: int) -> str:
    """Which of its programs a busybox is: by the name it was called, a script's interpreter's."""
    with open(f"/proc/{pid}/cmdline", errors="replace") as f:
        return os.path.basename(f.read().partition("\0")[0]).strip("-{}")


def catches(pid: int, sig: int) -> bool:
    """A process has a handler for the signal."""
    return _in_mask(pid, "SigCgt:", sig)


def reads(pid: int, sig: int) -> bool:
    """A process blocks the signal, as for a signalfd, or waits in sigtimedwait(2): meanwhile those
    that it waits for show as if they were not blocked."""
    return _in_mask(pid, "SigBlk:", sig) or in_sigtimedwait(pid)


def _in_mask(pid: int, mask: str, sig: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as f:
            line = next(line for line in f if line.startswith(mask))
    except (OSError, StopIteration):
        return False
    return bool(int(line[8:], 16) >> sig - 1 & 1)


def in_sigtimedwait(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/syscall") as f:
            return f.read().split()[0] == str(NR["rt_sigtimedwait"])
    except OSError:
        return False


def ask(vps: Halting, timeout: float) -> bool:
    """Ask an init to halt until it does; True when it ended within the timeout (seconds).

    A signal that is caught is not lost, so nothing more is done then. Whatever else is taken is
    given again, ever less often. An init that has settled and takes nothing never will: its work
    is done for it."""
    end = time.monotonic() + timeout
    pause, asked = 0.02, 0
    while True:
        kind = vps.kind()
        known = INITS[kind]
        taken = _try(vps, kind, known)
        left = end - time.monotonic()
        if taken == _SURELY:
            return vps.gone(left)
        if taken or asked:
            wait = known.patience * 2**asked
            asked += 1
        elif vps.age() > known.settles:
            vps.tell(kind, "SIGTERM to all its processes and reboot(2)")
            vps.by_hand(min(left, _BY_HAND))
            return vps.gone(end - time.monotonic())
        else:
            wait, pause = pause, min(pause * 2, 0.5)
        if vps.gone(min(wait, left)):
            return True
        if wait >= left:
            return False


_BY_HAND = 5.0
_PERHAPS, _SURELY = 1, 2


def _try(vps: Halting, kind: str, known: Init) -> int:
    """Ask in the first way that is taken: 0 when there is none, _PERHAPS, _SURELY."""
    for way in known.halt:
        if isinstance(way, int):
            sure = vps.catches(way)
            if sure or (known.reads and vps.reads(way)):
                vps.tell(kind, f"signal {way}")
                vps.signal(way)
                return _SURELY if sure else _PERHAPS
        # halt(8) and others "sometimes return 1 but still stop"
        elif (not known.listens or vps.has(known.listens)) and vps.run(way) in (0, 1):
            vps.tell(kind, " ".join(way))
            return _PERHAPS
    return 0
