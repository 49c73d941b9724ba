"""Every init of the node: born here where a tool asks for it, watched to its end, and what then
has to be done about it.

    exit --> its console is read out --> a tool has cleaned up, or holds the lock and will?
         --> else a worker (worker.py): take the lock, tear down, start again after a reboot

The daemon itself never blocks on a lock, an unmount or a script: those are the worker's."""

from __future__ import annotations

import os
import select
import time

from vzpy import child, state
from vzpy.eventd import birth, wire, worker
from vzpy.kernel import proc, watch
from vzpy.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message
    from vzpy.model import Facts

_UNCLAIMED = 256  # ends of children that nobody has named yet are remembered: so many
_WORKERS = 4  # at once; 400 VPSs that halt together are put away one after the other
_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0  # seconds between looks at a lock that a tool holds
# A VPS that reboots sooner than this (seconds) after its start waits, ever longer, before the next.
_SOON, _LONGEST_WAIT = 10, 32


@record
class Init:
    """One init: its VPS, and what names it for good."""

    ctid: int
    pid: int
    starttime: int
    started: float


@record
class End:
    """An end of which nobody has taken care yet; `text` is for the log, once."""

    init: Init
    how: str  # worker.REBOOT ...
    text: str


class Births:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.children: dict[int, Init] = {}  # by pid
        self.others: dict[int, Init] = {}  # by pidfd: born elsewhere, or before we were
        self.unclaimed: dict[int, int] = {}  # pid -> wait status
        self.ending: set[Init] = set()
        self.launchers: set[int] = set()
        self.workers: dict[int, End] = {}
        self.waiting: list[End] = []
        self.pending = 0  # ends that are looked at again later
        self.quick_reboots: dict[int, int] = {}
        daemon.server.handlers["launch"] = self.launch
        daemon.server.handlers["watch"] = self.watch
        daemon.busy.append(
            lambda: bool(
                self.children or self.others or self.workers or self.waiting or self.pending
            )
        )

    def count(self) -> int:
        return len(self.children) + len(self.others)

    # Requests

    def launch(self, client: Client, message: Message, fds: list[int]) -> Message:
        """Fork the launcher of a new VPS; the tool and the child talk over the tool's socket.

        When the tool goes away its child sees that by itself, and what is left of the start is
        put away."""
        ctid = wire.number(message, "ctid")
        born, handed = birth.unpack(message, fds)
        with birth.faults(message):
            self.launchers.add(child.launch(born, handed))
        client.at_close.append(lambda: self.later(_FIRST_LOOK, lambda: self.claim(ctid)))
        return {}

    def claim(self, ctid: int) -> None:
        self.reap()  # what has ended already is better known by its status
        if facts := state.read_facts(self.daemon.paths, ctid):
            self.follow(facts)

    def watch(self, client: Client, message: Message, fds: list[int]) -> Message:
        """A VPS runs: what start.json says of it holds from now on."""
        self.claim(wire.number(message, "ctid"))
        return {}

    # From birth to end

    def adopt(self) -> None:
        """What ran before us, or ended while nobody looked."""
        for ctid in state.running_ids(self.daemon.paths):
            self.claim(ctid)

    def follow(self, facts: Facts) -> None:
        init = Init(facts.ctid, facts.pid, facts.starttime, facts.started)
        if init in self.ending:
            return
        if not state.alive(facts):
            self.ended(init, self.unclaimed.pop(init.pid, None))
        elif proc.parent(init.pid) == os.getpid():
            self.children[init.pid] = init
        elif init not in self.others.values():
            self.follow_other(init)

    def follow_other(self, init: Init) -> None:
        try:
            pidfd = os.pidfd_open(init.pid)
        except ProcessLookupError:
            self.ended(init, None)
            return
        self.others[pidfd] = init

        def ready(_: int) -> None:
            status = watch.exit_status(init.pid, pidfd)
            self.daemon.loop.forget(pidfd)
            os.close(pidfd)
            del self.others[pidfd]
            self.ended(init, status)

        self.daemon.loop.watch(pidfd, select.EPOLLIN, ready)

    def reap(self) -> None:
        """SIGCHLD: take the status of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.launchers:
                self.launchers.discard(pid)
            elif pid in self.workers:
                self.worker_ended(self.workers.pop(pid), status)
            elif pid in self.children:
                self.ended(self.children.pop(pid), status)
            else:
                self.unclaimed[pid] = status
                if len(self.unclaimed) > _UNCLAIMED:
                    del self.unclaimed[next(iter(self.unclaimed))]

    # After the end

    def ended(self, init: Init, status: int | None) -> None:
        self.ending.add(init)
        tail = self.daemon.consoles.ended(init.ctid)
        how = worker.reason(status)
        end = End(init, how, worker.describe(how, status, tail))
        wait = self.wait_before_reboot(init) if how == worker.REBOOT else 0
        self.later(wait, lambda: self.look(end))

    def wait_before_reboot(self, init: Init) -> int:
        """Seconds. A guest that does nothing but reboot would keep the host busy starting it."""
        if time.time() - init.started > _SOON:
            self.quick_reboots.pop(init.ctid, None)
            return 0
        count = self.quick_reboots.get(init.ctid, 0)
        self.quick_reboots[init.ctid] = count + 1
        return min(1 << count >> 1, _LONGEST_WAIT)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """As long as something is to be done the daemon does not end for idleness."""
        self.pending += 1

        def run() -> None:
            self.pending -= 1
            try:
                call()
            finally:
                self.daemon.changed()

        self.daemon.loop.after(seconds, run)

    def look(self, end: End, again: float = _FIRST_LOOK) -> None:
        """Somebody else's matter, or ours? A tool that stops a VPS holds its lock."""
        init = end.init
        facts = state.read_facts(self.daemon.paths, init.ctid)
        if facts is None or (facts.pid, facts.starttime) != (init.pid, init.starttime):
            self.ending.discard(init)
            return
        if self.daemon.locked(init.ctid):
            self.later(again, lambda: self.look(end, min(again * 2, _LAST_LOOK)))
            return
        if end.text:
            self.daemon.log(end.text, init.ctid)
        self.waiting.append(replace(end, text=""))
        self.start_workers()

    def start_workers(self) -> None:
        while self.waiting and len(self.workers) < _WORKERS:
            end = self.waiting.pop(0)
            init = end.init
            try:
                pid = worker.spawn(self.daemon.paths, init.ctid, init.pid, init.starttime, end.how)
            except OSError as err:
                self.daemon.log(f"Cannot clean up: {err.strerror}", init.ctid)
                self.ending.discard(init)
            else:
                self.workers[pid] = end

    def worker_ended(self, end: End, status: int) -> None:
        if os.waitstatus_to_exitcode(status) == worker.LOCKED:
            self.later(_FIRST_LOOK, lambda: self.look(end))
        else:
            self.ending.discard(end.init)
        self.start_workers()
        self.daemon.changed()
