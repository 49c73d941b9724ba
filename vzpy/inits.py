"""Which init a VPS has, and how that init is asked to halt: one table, found by looking.

A process 1 without a handler ignores a signal, whoever sends it, so a wrong guess hangs until the
timeout: before a signal is sent its handler (or signalfd) is looked for in /proc/PID/status."""

from __future__ import annotations

import os
import time

from vzpy.kernel import mount as m
from vzpy.kernel import process as p
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

INIT_PATHS = ("/sbin/init", "/etc/init", "/bin/init")
_RTMIN_3 = p.SIGRTMIN + 3
_RTMIN_5 = p.SIGRTMIN + 5


@record
class Init:
    """One kind of init.

    halt, reboot  ways to try in order: a signal number, or the words of a command run inside
    container     value of container= that this init's scripts know (gotcha G2)
    argv          what follows the path; sysvinit wants room there to show its runlevel
    waits         reads its signals by sigtimedwait(2), blocked since its first instructions: none
                  is lost, and none shows in /proc/PID/status while it waits"""

    halt: tuple[int | tuple[str, ...], ...]
    reboot: tuple[int | tuple[str, ...], ...]
    container: str = "vzpy"
    argv: tuple[bytes, ...] = ()
    waits: bool = False


_ROOM = (b"-z", b"      ")
INITS = {
    "systemd": Init((_RTMIN_3,), (_RTMIN_5,), argv=_ROOM),
    "busybox": Init((p.SIGUSR2,), (p.SIGTERM,), waits=True),
    "openrc": Init(
        (("openrc-shutdown", "-p", "now"), ("halt",)), (("openrc-shutdown", "-r", "now"),), "lxc"
    ),
    "sysvinit": Init((("halt",), ("init", "0"), p.SIGPWR), (("init", "6"), p.SIGINT), argv=_ROOM),
    "runit": Init((("runit-init", "0"), ("halt",)), (("runit-init", "6"),), "lxc"),
    "procd": Init((p.SIGUSR2, p.SIGUSR1), (p.SIGTERM,)),
    "s6": Init((("halt",), p.SIGUSR2, p.SIGTERM), (("reboot",), p.SIGINT)),
    "dinit": Init((("halt",), p.SIGTERM), (("reboot",), p.SIGINT)),
    "shell": Init((("halt",), p.SIGTERM), (("reboot",),)),
    "unknown": Init((("halt",), ("poweroff",), p.SIGPWR, p.SIGTERM), (("reboot",),)),
}

# Base name of the program that runs as process 1 -> kind.
_PROGRAMS = {
    "systemd": "systemd",
    "busybox": "busybox",
    "openrc-init": "openrc",
    "init": "sysvinit",
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
            target = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        kind = kind_of_program(target)
        # A script or a wrapper called init: what it is made for lies beside it.
        return _beside(root, kind) if kind in ("unknown", "sysvinit") else kind
    return "unknown"


def _beside(root: int, kind: str) -> str:
    for path, found in (("/etc/s6-linux-init", "s6"), ("/sbin/procd", "procd")):
        try:
            os.close(m.openat2(root, path, os.O_PATH))
            return found
        except OSError:
            continue
    return kind


def uses_openrc(root: int) -> bool:
    """OpenRC's scripts run, whatever process 1 is; an unknown container= is bare metal to them."""
    try:
        os.close(m.openat2(root, "/sbin/openrc", os.O_PATH))
        return True
    except OSError:
        return False


def kind_of_pid(pid: int, guess: str) -> str:
    """The kind of a running init, by its program; the guess where that says nothing."""
    try:
        kind = kind_of_program(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return guess
    return guess if kind in ("unknown", "sysvinit", "shell") and guess != "unknown" else kind


def hears(pid: int, sig: int) -> bool:
    """Process `pid` has a handler for the signal, or blocks it because it reads a signalfd."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith(("SigBlk:", "SigCgt:")) and int(line[8:], 16) >> sig - 1 & 1:
                    return True
    except OSError:
        pass
    return False


def ask(
    pidfd: int,
    pid: int,
    ways: tuple[int | tuple[str, ...], ...],
    waits: bool,
    run: Callable[[tuple[str, ...]], int],
    gone: Callable[[float], bool],
    tell: Callable[[str], None],
    timeout: float,
) -> bool:
    """Ask an init to halt (or reboot) by each way until one is taken.

    waits  see Init
    run    runs a command inside; its exit status, 127 when there is no such program
    gone   waits so many seconds for the init to end; True when it did
    tell   is told the way that is tried
    Returns True when the init ended within the timeout (seconds)."""
    end = time.monotonic() + timeout
    for way in ways:
        if isinstance(way, int):
            handler_by = min(end, time.monotonic() + _HANDLER_WAIT)
            if not waits and not _wait_for_handler(pid, way, handler_by, gone):
                continue
            tell(f"signal {way}")
            try:
                p.pidfd_send_signal(pidfd, way)
            except ProcessLookupError:
                return True
        else:
            tell(" ".join(way))
            # halt(8) of sysvinit "sometimes returns 1 but still stops"
            if run(way) not in (0, 1):
                continue
        return gone(max(end - time.monotonic(), 0))
    return gone(0)


_HANDLER_WAIT = 10.0


def _wait_for_handler(pid: int, sig: int, end: float, gone: Callable[[float], bool]) -> bool:
    """An init that has just been started sets its handlers soon; a signal before that is lost."""
    while not hears(pid, sig):
        if gone(0.02) or time.monotonic() > end:
            return False
    return True
