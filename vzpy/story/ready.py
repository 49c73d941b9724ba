"""`start --wait`: when a VPS has booted, by the means of its init (vzctl-cli 2.2, row 17).

systemd says it itself, through a socket that the child has made before init was executed (gotcha
G21). The others are looked at from outside: nothing is run inside, and no hook is put into them."""

from __future__ import annotations

import os
import select
import time

from vzpy import inits, state
from vzpy.errors import Exit, VzError
from vzpy.events import StartedFully, WaitFailed, Waiting, WaitTimeout, Warned
from vzpy.kernel import process
from vzpy.story import enter, halt, pump, stop, teardown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

LIMIT = 3600.0  # seconds, as the contract has it
_TICK = 0.05
_ASK_TIMEOUT = 10


def wait(vps: VPS, facts: Facts, notify: int, report: Report) -> None:
    """Return when the VPS has booted.

    notify  descriptor of the socket that systemd writes to, -1 without one; closed here
    Raises VzError 133: it ended, it came up in maintenance, or not within LIMIT."""
    report(Waiting())
    boot = _Boot(facts, notify)
    end = time.monotonic() + LIMIT
    try:
        while not boot.done():
            if not state.alive(facts):
                _bury(vps, facts, report)
                raise _failed(report, "The container has ended before it had booted")
            if time.monotonic() > end:
                report(WaitTimeout())
                text = f"It has not booted in {LIMIT:.0f} s"
                raise VzError(text, Exit.WAIT_FAILED, step="wait")
            boot.pause(min(_TICK, end - time.monotonic()))
        if boot.kind in _LOOKS:
            if boot.kind == "systemd" and boot.is_system_running() == "maintenance":
                raise _failed(report, "systemd has come up in maintenance: see its journal")
        else:
            text = f"Warning: no way is known to tell when an init of kind {boot.kind} has booted"
            report(Warned(text=text))
    finally:
        boot.close()
    report(StartedFully())


def _failed(report: Report, why: str) -> VzError:
    report(WaitFailed())
    return VzError(why, Exit.WAIT_FAILED, step="wait")


def _bury(vps: VPS, facts: Facts, report: Report) -> None:
    if not facts.daemon:
        stop.reap(facts.pid)
        teardown.settle(vps, report)


class _Boot:
    """A booting VPS, seen from outside."""

    def __init__(self, facts: Facts, notify: int) -> None:
        self.facts, self.notify = facts, notify
        self.kind = facts.init
        self.said_ready = False

    def close(self) -> None:
        if self.notify >= 0:
            os.close(self.notify)

    def done(self) -> bool:
        """It has booted, as far as that can be known. A script may become another init by exec."""
        self.kind = inits.kind_of_pid(self.facts.pid, self.facts.init)
        return _LOOKS.get(self.kind, _settled)(self)

    def pause(self, seconds: float) -> None:
        poll = select.poll()
        if self.notify >= 0:
            poll.register(self.notify, select.POLLIN)
        if poll.poll(max(seconds, 0) * 1000):
            self.said_ready |= b"READY=1" in os.read(self.notify, 65536).split(b"\n")

    def is_system_running(self) -> str:
        """What systemctl says, "" when it says nothing."""
        argv = enter.program([b"systemctl", b"is-system-running"])
        try:
            return pump.run(self.facts, argv, timeout=_ASK_TIMEOUT).stdout.decode().strip()
        except (OSError, VzError, UnicodeDecodeError):
            return ""

    def children(self) -> list[str]:
        """Names of the programs that init has started (proc_pid_task_tid_children(5))."""
        pid = self.facts.pid
        names = []
        for child in _read(f"/proc/{pid}/task/{pid}/children").split():
            names.append(_read(f"/proc/{int(child)}/comm").decode(errors="replace").strip())
        return names

    def runs_scripts(self) -> bool:
        """Of start-up: rcS, rc, rc.M, rc.init, openrc; or a child that is about to become one."""
        return any(name.startswith(("rc", "openrc", "init")) for name in self.children())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""  # it has ended


def _systemd(boot: _Boot) -> bool:
    if boot.notify >= 0:
        return boot.said_ready
    return boot.is_system_running() in ("running", "degraded", "maintenance")


def _busybox(boot: _Boot) -> bool:
    """Its main loop is in sigtimedwait(2). Versions before 1.35 set handlers and stay in wait(2),
    as they do while a script of start-up runs."""
    pid = boot.facts.pid
    if inits.in_sigtimedwait(pid):
        return True
    is_old = inits.catches(pid, process.SIGUSR2)
    return is_old and bool(boot.children()) and not boot.runs_scripts()


def _sysvinit(boot: _Boot) -> bool:
    """It shows its runlevel in its title, and runs that of rc by a child."""
    title = _read(f"/proc/{boot.facts.pid}/cmdline")
    return any(b"[%d]" % level in title for level in (2, 3, 4, 5)) and not boot.runs_scripts()


def _openrc(boot: _Boot) -> bool:
    return halt.has(boot.facts, inits.INITS["openrc"].listens)


def _runit(boot: _Boot) -> bool:
    """The end of its second stage is to become runsvdir."""
    return "runsvdir" in boot.children()


def _s6(boot: _Boot) -> bool:
    return not boot.runs_scripts()


def _settled(boot: _Boot) -> bool:
    return time.time() - boot.facts.started > 1


_LOOKS: dict[str, Callable[[_Boot], bool]] = {
    "systemd": _systemd,
    "busybox": _busybox,
    "sysvinit": _sysvinit,
    "openrc": _openrc,
    "runit": _runit,
    "s6": _s6,
}
