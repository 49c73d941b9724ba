"""The story of a stop: start's list upside down (vzctl-cli 2.3; the table of inits is inits.py)."""

from __future__ import annotations

import os
import select

from vzpy import cgroups, inits, rootfs
from vzpy.errors import Exit, VzError
from vzpy.events import HaltBy, Killing, NotRunningToStop, Stopped, Stopping
from vzpy.fault import fault
from vzpy.story import enter, pump, teardown
from vzpy.story.mount import umount_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

STEPS = ("stop-script", "halt", "kill", "reap")
# A command that only asks init to halt answers at once; one that hangs must not eat the timeout.
_ASK_TIMEOUT = 20


def stop(vps: VPS, report: Report, fast: bool = False, umount: bool = True) -> None:
    """Halt a VPS, kill what does not; unmount its root.

    Raises VzError: 79 N.stop failed and it keeps running, 33 it does not die, 51, 79."""
    facts = vps.facts()
    if facts is None:
        teardown.settle(vps, report)
        report(NotRunningToStop())
        return
    init = os.pidfd_open(facts.pid)
    try:
        fault("stop-script")
        enter.run_script(vps, facts, "stop")
        if not fast:
            fault("halt")
            report(Stopping())
            cgroups.freeze(facts.cgroup, False)  # the frozen hear no signal but SIGKILL
            halt(vps, facts, init, report)
        if fast or not ended(init, 0):
            fault("kill")
            report(Killing())
            kill(facts, init, vps.stop_timeout / 2)
        fault("reap")
        reap(facts.pid)
    finally:
        os.close(init)
    teardown.tear_down(vps.node.paths, vps.ctid, facts.cgroup)
    report(Stopped())
    if umount and rootfs.is_mounted(facts.root):
        umount_root(vps, facts.root, report)


def halt(vps: VPS, facts: Facts, init: int, report: Report, reboot: bool = False) -> bool:
    """Ask the init in its own way; True when it ended in time."""
    kind = inits.kind_of_pid(facts.pid, facts.init)
    known = inits.INITS[kind]

    def run(words: tuple[str, ...]) -> int:
        argv = enter.program([word.encode() for word in words])
        try:
            return pump.run(facts, argv, timeout=_ASK_TIMEOUT).returncode
        except OSError:
            return enter.NO_PROGRAM
        except VzError:
            return 0  # it hangs, or init has gone under it: either way it was asked

    return inits.ask(
        init,
        facts.pid,
        known.reboot if reboot else known.halt,
        known.waits,
        run,
        lambda seconds: ended(init, seconds),
        lambda how: report(HaltBy(kind=kind, how=how, seconds=vps.stop_timeout)),
        vps.stop_timeout,
    )


def kill(facts: Facts, init: int, timeout: float) -> None:
    cgroups.kill(facts.cgroup)
    if not ended(init, timeout):
        raise VzError("Unable to stop container: operation timed out", Exit.STOP)


def ended(init: int, seconds: float) -> bool:
    """Wait so long for a process (by pidfd) to end."""
    poll = select.poll()
    poll.register(init, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def reap(pid: int) -> None:
    """Where init is our own child its zombie would keep the pid, and its cgroup populated."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
