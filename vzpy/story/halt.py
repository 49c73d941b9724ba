"""What asking an init to halt does to a running VPS (the table of inits is inits.py)."""

from __future__ import annotations

import os
import time

from vzpy import cgroups, inits, tasks
from vzpy.errors import VzError
from vzpy.events import HaltBy
from vzpy.kernel import process
from vzpy.kernel.program import Program
from vzpy.model import IdRange
from vzpy.story import enter, pump
from vzpy.sync import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts

# A command that only asks init to halt answers at once; one that hangs must not eat the timeout.
_ASK_TIMEOUT = 20


def ask(facts: Facts, init: int, report: Report, timeout: float) -> bool:
    """Ask its init (a pidfd) to halt; True when it ended within the timeout (seconds)."""
    return inits.ask(Halting(facts, init, report, timeout), timeout)


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

    def catches(self, sig: int) -> bool:
        return inits.catches(self.facts.pid, sig)

    def reads(self, sig: int) -> bool:
        return inits.reads(self.facts.pid, sig)

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
        return process.ended(self.init, seconds)

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


_TELL, _INIT, _LEAF = 3, 4, 5  # descriptors of the program
_OFTEN, _THEN = 0.02, 0.2  # seconds between looks, in the first second and later


def power_off(facts: Facts, init: int, seconds: float) -> None:
    """What an init does at the end, done from inside for one that does nothing: SIGTERM to every
    other process, reboot(2) when they have ended, at the latest after `seconds`.

    Raises OSError; VzError when the task inside could not be made."""
    leaf = cgroups.leaf(facts.cgroup, IdRange(facts.base, facts.count))
    cgroup = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ours, theirs = Channel.pair()
    try:
        ours.program = calls = _power_off(seconds)
        launcher = calls.start([theirs.fileno(), init, cgroup])
        theirs.close()
        os.waitpid(launcher, 0)
        task = enter.Task(ours.born(), leaf)
        if task.wait(seconds + 1) is None:  # stopped by somebody inside
            task.kill()
            task.wait()
    finally:
        os.close(cgroup)
        ours.close()
        theirs.close()


def _power_off(seconds: float) -> Program:
    """The user namespace comes first: from then on the rights of this task end at the VPS, so
    neither kill(2) nor reboot(2) can reach the host."""
    calls = Program(_TELL)
    calls.call("setns", _INIT, process.CLONE_NEWPID)
    tasks.clone(calls, 0, _LEAF)
    calls.call("setns", _INIT, process.CLONE_NEWUSER)
    tasks.become_root(calls)
    looks = [_OFTEN] * round(1 / _OFTEN) + [_THEN] * round(max(seconds - 1, 0) / _THEN)
    signal = process.SIGTERM
    for pause in looks:
        calls.call("kill", -1, signal, error="nobody")  # to everybody but init and ourselves
        calls.call("nanosleep", calls.words(0, round(pause * 1e9)), 0)
        signal = 0
    calls.label("nobody")
    calls.call("reboot", *process.REBOOT_MAGIC, process.LINUX_REBOOT_CMD_POWER_OFF, 0)
    return calls
