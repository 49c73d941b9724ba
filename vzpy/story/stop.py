"""The story of a stop: start's list upside down (vzctl-cli 2.3; how init is asked is halt.py)."""

from __future__ import annotations

import os

from vzpy import cgroups
from vzpy.errors import Exit, VzError
from vzpy.events import Killing, NotRunningToStop, Stopped, Stopping
from vzpy.fault import fault
from vzpy.kernel.process import ended
from vzpy.story import ctscript

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

STEPS = ("stop-script", "halt", "kill", "reap")


def stop(
    vps: VPS, report: Report, fast: bool = False, umount: bool = True, patience: float = 0.0
) -> None:
    """Halt a VPS, kill what does not; unmount its root.

    patience  seconds that init has for it, 0 for STOP_TIMEOUT
    Raises VzError: 79 N.stop failed and it keeps running, 33 it does not die, 51, 79."""
    facts = vps.facts()
    try:
        init = os.pidfd_open(facts.pid) if facts else -1
    except ProcessLookupError:
        facts = None  # it has ended this moment
    if facts is None:
        _teardown().settle(vps, report)
        report(NotRunningToStop())
        return
    try:
        cgroups.freeze(facts.cgroup, False)  # the frozen run no script, and hear only SIGKILL
        fault("stop-script")
        ctscript.run(vps, facts, "stop")
        if not fast:
            from vzpy.story import halt

            fault("halt")
            report(Stopping())
            halt.ask(facts, init, report, patience or vps.stop_timeout)
        if fast or not ended(init, 0):
            fault("kill")
            report(Killing())
            kill(facts, init, vps.stop_timeout / 2)
        fault("reap")
        reap(facts.pid)
    finally:
        os.close(init)
    teardown = _teardown()
    teardown.remove_cgroup(facts.cgroup)
    report(Stopped())
    teardown.put_away(vps, facts, report, umount)


def kill(facts: Facts, init: int, timeout: float) -> None:
    cgroups.kill(facts.cgroup)
    _teardown()
    if not ended(init, timeout):
        raise VzError("Unable to stop container: operation timed out", Exit.STOP)


def _teardown() -> ModuleType:
    """The rest of the way: loaded while the kernel kills, which takes a millisecond or two."""
    from vzpy.kernel import foreign  # noqa: F401  # umount(2) goes by it
    from vzpy.story import teardown

    return teardown


def reap(pid: int) -> None:
    """Where init is our own child its zombie would keep the pid, and its cgroup populated."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
