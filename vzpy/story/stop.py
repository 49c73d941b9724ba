"""The story of a stop: start's list upside down (vzctl-cli 2.3; the table of inits is inits.py)."""

from __future__ import annotations

import os
import select
import time

from vzpy import cgroups, child, inits, ns
from vzpy.errors import Exit, VzError
from vzpy.events import HaltBy, Killing, NotRunningToStop, Stopped, Stopping
from vzpy.fault import fault
from vzpy.kernel import process
from vzpy.model import IdRange
from vzpy.story import enter, pump, teardown
from vzpy.sync import PID, Channel

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
        cgroups.freeze(facts.cgroup, False)  # the frozen run no script, and hear only SIGKILL
        fault("stop-script")
        enter.run_script(vps, facts, "stop")
        if not fast:
            fault("halt")
            report(Stopping())
            inits.ask(Halting(facts, init, report, vps.stop_timeout), vps.stop_timeout)
        if fast or not ended(init, 0):
            fault("kill")
            report(Killing())
            kill(facts, init, vps.stop_timeout / 2)
        fault("reap")
        reap(facts.pid)
    finally:
        os.close(init)
    teardown.remove_cgroup(facts.cgroup)
    report(Stopped())
    teardown.put_away(vps, facts, report, umount)


class Halting:
    """What asking an init to halt needs (inits.Halting)."""

    def __init__(self, facts: Facts, init: int, report: Report, timeout: float) -> None:
        self.facts, self.init, self.report = facts, init, report
        self.end = time.monotonic() + timeout

    def kind(self) -> str:
        return inits.kind_of_pid(self.facts.pid, self.facts.init)

    def age(self) -> float:
        born = self.facts.starttime / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - born

    def hears(self, sig: int) -> bool:
        return inits.hears(self.facts.pid, sig)

    def signal(self, sig: int) -> None:
        try:
            process.pidfd_send_signal(self.init, sig)
        except ProcessLookupError:
            pass  # it has ended

    def has(self, path: str) -> bool:
        return has(self.facts, path)

    def run(self, words: tuple[str, ...]) -> int:
        argv = enter.program([word.encode() for word in words])
        try:
            return pump.run(self.facts, argv, timeout=_ASK_TIMEOUT).returncode
        except OSError:
            return enter.NO_PROGRAM
        except VzError:
            return 0  # it hangs, or init has gone under it: either way it was asked

    def by_hand(self, seconds: float) -> None:
        try:
            power_off(self.facts, self.init, seconds)
        except (OSError, VzError):
            pass  # it is killed then

    def gone(self, seconds: float) -> bool:
        return ended(self.init, seconds)

    def tell(self, kind: str, how: str) -> None:
        left = round(self.end - time.monotonic())
        self.report(HaltBy(kind=kind, how=how, seconds=left))


def has(facts: Facts, path: str) -> bool:
    """A running VPS has something at that path."""
    try:
        root = os.open(f"/proc/{facts.pid}/root", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return inits.has(root, path)
    finally:
        os.close(root)


def power_off(facts: Facts, init: int, seconds: float) -> None:
    """What an init does at the end, done from inside for one that does nothing: SIGTERM to every
    other process, reboot(2) when they have ended, at the latest after `seconds`.

    Raises OSError; VzError when the task inside could not be made."""
    ids = IdRange(facts.base, facts.count)
    leaf = cgroups.leaf(facts.cgroup, ids, f".vz-{os.getpid()}-off")
    cgroup = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ours, theirs = Channel.pair()
    try:
        entry = ns.Entry(keep=(theirs.fileno(),), cgroup=cgroup, pidfd=init)
        launcher = ns.launch(
            entry, lambda pid: child.tell(theirs, pid), lambda: _power_off(init, seconds)
        )
        theirs.close()
        os.waitpid(launcher, 0)
        task = enter.Task(int(ours.expect(PID)[0]), leaf)
        if task.wait(seconds + 1) is None:  # stopped by somebody inside
            task.kill()
            task.wait()
    finally:
        os.close(cgroup)
        ours.close()
        theirs.close()


def _power_off(init: int, seconds: float) -> None:
    """Runs inside. The user namespace comes first: from then on the rights of this task end at the
    VPS, so neither call can reach the host."""
    process.setns(init, process.CLONE_NEWUSER)
    ns.become_root()
    end = time.monotonic() + seconds
    sig = process.SIGTERM
    try:
        while time.monotonic() < end:
            os.kill(-1, sig)  # to everybody but init and ourselves
            sig = 0
            time.sleep(0.02)
    except ProcessLookupError:
        pass  # nobody is left
    process.reboot(process.LINUX_REBOOT_CMD_POWER_OFF)


def kill(facts: Facts, init: int, timeout: float) -> None:
    cgroups.kill(facts.cgroup)
    if not ended(init, timeout):
        raise VzError("Unable to stop container: operation timed out", Exit.STOP)


def ended(init: int, seconds: float) -> bool:
    """Wait so long for a process (by pidfd) to end."""
    poll = select.poll()
    poll.register(init, select.POLLIN)
    return bool(poll.poll(max(seconds, 0) * 1000))


def reap(pid: int) -> None:
    """Where init is our own child its zombie would keep the pid, and its cgroup populated."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
