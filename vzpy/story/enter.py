"""Into a running VPS: exec and enter (vzctl-cli 2.7, 2.8).

    tool                          tool, or a launcher               task
      |  pidfd of init, leaf cgroup  |                                |
      |----------------------------->|  setns(pid)                    |
      |                              |  clone3(INTO_CGROUP) --------->|
      |<------- PID -----------------|                                |  setns(all others by pidfd)
      |<------- CONSOLE [pty master] -------------------------------- |  uid 0, cwd /, clean process
      |<------- end of file: it runs;  ERROR: why it could not -------|  filter, capabilities, exec

The task is born into the leaf while it still is the host's root, since a cgroup two trees away may
only be entered with rights on the common ancestor; its own rights end with setns(user)."""

from __future__ import annotations

import _stat as stat
import os
import select
import time

from vzpy import cgroupread, cgroups, ns, syscalls, tasks
from vzpy.errors import Exit, NotRunning, UsageError, VzError
from vzpy.fault import fault
from vzpy.kernel import caps, process
from vzpy.kernel.program import Program
from vzpy.model import Facts, IdRange
from vzpy.record import record
from vzpy.sync import BORN, CONSOLE, LISTENER, Channel, ChildError, pid_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ("exec-leaf", "exec-launch", "exec-ready")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EXEC_ENV = {b"PATH": PATH.encode(), b"HOME": b"/", b"TERM": b"linux"}
NO_PROGRAM = 127
_serial = iter(range(1 << 62))  # of the listeners of a process
# A guest may freeze or stop the task before it has become the program; then nobody waits longer.
_LAUNCH_TIMEOUT = 60.0
_BROKER_TIMEOUT = 5.0
_FULL = (11, 23)  # EAGAIN: of tasks, of cgroups; ENFILE: of files


@record
class Command:
    """What runs inside: candidates are tried in order, each a path and its argv.

    stdio  three descriptors; with pty the task makes one inside and ignores them
    owns   they are a terminal, and become the task's own"""

    candidates: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    env: tuple[tuple[bytes, bytes], ...] = tuple(EXEC_ENV.items())
    stdio: tuple[int, int, int] = (-1, -1, -1)
    pty: bool = False
    owns: bool = False


def shell(line: bytes) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    """`sh -c LINE` of the guest: bash where it has one."""
    return (
        (b"/bin/bash", (b"/bin/bash", b"-c", line)),
        (b"/bin/sh", (b"/bin/sh", b"-c", line)),
    )


def shell_reading_stdin() -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    return ((b"/bin/bash", (b"/bin/bash",)), (b"/bin/sh", (b"/bin/sh",)))


def program(argv: list[bytes]) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    """execvp: the words as they are, looked for in PATH inside.

    Raises UsageError when there is no word."""
    words = tuple(argv)
    if not words:
        raise UsageError("No command line given for exec")
    if b"/" in words[0]:
        return ((words[0], words),)
    return tuple((d.encode() + b"/" + words[0], words) for d in PATH.split(":"))


class Task:
    """A process inside, child of ours."""

    def __init__(self, pid: int, leaf: str, master: int = -1) -> None:
        self.pid, self.leaf, self.master = pid, leaf, master
        self.pidfd = os.pidfd_open(pid)
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit status, or minus the signal; None when the timeout (seconds) ran out."""
        if self.returncode is None:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.pidfd)
            # What it left running in the background keeps the leaf; the next exec sweeps it.
            cgroups.remove_leaf(self.leaf)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            try:
                process.pidfd_send_signal(self.pidfd, process.SIGKILL)
            except ProcessLookupError:
                pass


def spawn(
    facts: Facts,
    what: Command,
    filter_cache: str | None = None,
    timeout: float | None = None,
) -> Task:
    """Start a program inside; returns when it has been executed. A VPS that has as many tasks or
    files as it may have can be entered all the same.

    Raises NotRunning when init is gone; ChildError, an OSError, when no candidate can run;
    VzError 15 when it has not come so far within the timeout (seconds; always within a minute)."""
    if not _is_short_of_files(facts.cgroup):
        try:
            return _spawn(facts, what, filter_cache, timeout, cgroups.leaf)
        except OSError as err:
            if err.errno not in _FULL:
                raise
    return _spawn(facts, what, filter_cache, timeout, cgroups.leaf_beside)


def _is_short_of_files(cgroup: str) -> bool:
    """Looked at before: a program that had the last one would start, and fail on its libraries."""
    if "NUMFILE" not in (cgroupread.applied(cgroup) or ()):
        return False
    from vzpy import filecount

    return filecount.is_nearly_full(cgroup)


def _spawn(
    facts: Facts,
    what: Command,
    filter_cache: str | None,
    timeout: float | None,
    leaf_of: Callable[[str, IdRange], str],
) -> Task:
    ns.can_wait()
    deadline = time.monotonic() + min(_LAUNCH_TIMEOUT, timeout or _LAUNCH_TIMEOUT)
    try:
        init = os.pidfd_open(facts.pid)
        bounding = caps.bounding_of(facts.pid)
    except OSError:
        raise NotRunning from None
    ours, theirs = Channel.pair()
    leaf_fd = -1
    leaf = ""
    launcher = pid = 0
    handover = syscalls.quota_handover() if facts.broker else b""
    try:
        fault("exec-leaf")
        cgroups.sweep(facts.cgroup)
        leaf = leaf_of(facts.cgroup, IdRange(facts.base, facts.count))
        leaf_fd = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        filters = syscalls.programs(filter_cache, facts.netfilter)
        rlimits = ns.bounds_of(facts.pid)
        ours.program = calls = _program(what, rlimits, filters, handover, bounding)
        fault("exec-launch")
        launcher = calls.start([theirs.fileno(), init, leaf_fd, *what.stdio])
        theirs.close()
        _load_the_rest()
        pid, master, failure = _hear_out(ours, deadline, facts)
        fault("exec-ready")
        if failure or not pid:
            raise NotRunning if not _lives(init) else failure or NotRunning
        if what.pty and master < 0:
            raise OSError(25, "is no pty", "/dev/pts/ptmx")
        return Task(pid, leaf, master)
    except BaseException:
        theirs.close()
        if leaf:
            cgroups.kill(leaf)
        if pid := pid or _hear_out(ours, time.monotonic() + 1)[0]:
            reap(pid)
        if leaf:
            cgroups.remove_leaf(leaf)
        raise
    finally:
        if launcher:
            os.waitpid(launcher, 0)
        theirs.close()
        ours.close()
        os.close(init)
        if leaf_fd >= 0:
            os.close(leaf_fd)


def _load_the_rest() -> None:
    """What comes after a launch: while that goes on, on the other processor."""
    from vzpy.story import flow  # noqa: F401


def _lives(pidfd: int) -> bool:
    return not select.select([pidfd], [], [], 0)[0]


def _hear_out(
    ours: Channel, deadline: float, facts: Facts | None = None
) -> tuple[int, int, OSError | VzError | None]:
    """All that launcher and task say, in whatever order, until the task has been executed or is
    gone: its pid, the master of its pty, what failed."""
    pid, master = 0, -1
    failure: OSError | VzError | None = None
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    while True:
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            late = VzError("Execution timeout expired", Exit.EXEC_TIMEOUT, step="exec-launch")
            return pid, master, late
        try:
            word, fields, fd = ours.receive()
        except ChildError as err:
            failure = err
            continue
        if word == BORN:
            pid = pid_of(fields)
        elif word == CONSOLE:
            master = fd if _is_pty(fd) else -1
        elif word == LISTENER:
            _hand_listener(facts, pid, fd)
        elif not word:
            return pid, master, failure


def _hand_listener(facts: Facts | None, pid: int, listener: int) -> None:
    """To vzeventd, which answers its quotactl; with nobody to hear it that call does not exist."""
    from vzpy.eventd import summon, wire

    try:
        if facts and facts.broker:
            sock = summon.connect(facts.broker)
            sock.settimeout(_BROKER_TIMEOUT)
            name = f"quota.{pid}.{next(_serial)}"
            wire.send(sock, {"op": "hold", "ctid": facts.ctid, "name": name}, [listener])
            wire.receive(sock)
            sock.close()
    except (OSError, ValueError):
        pass
    finally:
        os.close(listener)


def _is_pty(fd: int) -> bool:
    """A pty master (ptmx, 5:2), and not something else that the guest has put in its place."""
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(5, 2):
        return True
    os.close(fd)
    return False


def reap(pid: int) -> None:
    """Kill a task that is of no use any more, and take its status."""
    try:
        os.kill(pid, process.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


# Descriptors of the program
_TELL, _INIT, _LEAF, _STDIO = 3, 4, 5, (6, 7, 8)


def _program(
    what: Command, rlimits: tuple[tuple[int, int], ...], filters: tuple[bytes, ...],
    handover: bytes, bounding: int,
) -> Program:
    """The life of the launcher and of the task (see the drawing above)."""
    calls = Program(_TELL)
    calls.step = "exec-launch"
    calls.call("setns", _INIT, process.CLONE_NEWPID)
    tasks.clone(calls, 0, _LEAF)
    calls.step = "exec-enter"
    tasks.switch_on(calls, rlimits, tasks.hard_limits())
    calls.call("setns", _INIT, ns.EIGHT & ~process.CLONE_NEWPID)
    tasks.become_root(calls)
    calls.call("chdir", b"/")
    tasks.new_session(calls)
    if what.pty:
        calls.step = "exec-pty"
        tasks.own_pty(calls, CONSOLE)
    else:
        tasks.stdio(calls, _STDIO)
    if what.pty or what.owns:
        tasks.take_terminal(calls)
    tasks.filter_calls(calls, filters)
    if handover:
        tasks.broker(calls, handover, LISTENER)
    tasks.close_all_but(calls, [_TELL])
    tasks.limit_capabilities(calls, bounding)
    calls.step = "exec"
    tasks.execute(calls, what.candidates, what.env)
    return calls
