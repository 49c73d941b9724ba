"""Every init of the node: born here where a tool asks for it, watched to its end, and what then
has to be done about it.

    exit --> its console is read out --> a tool has cleaned up, or holds the lock and will?
         --> else a worker (workers.py): take the lock, tear down, after a reboot start again

The daemon itself never blocks on a lock, an unmount or a script: those are the worker's."""

from __future__ import annotations

import os
import select
import time

from vzpy import state
from vzpy.eventd import wire, worker
from vzpy.eventd.workers import End, Init, Workers
from vzpy.kernel import elf, proc, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message
    from vzpy.model import Facts

_UNCLAIMED = 256  # ends of children that nobody has named yet are remembered: so many
_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0  # seconds between looks at a lock that a tool holds
# A VPS that reboots sooner than this (seconds) after its start waits, ever longer, before the next.
_SOON, _LONGEST_WAIT = 10, 32


class Births:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.children: dict[int, Init] = {}  # by pid
        self.others: dict[int, Init] = {}  # by pidfd: born elsewhere, or before we were
        self.unclaimed: dict[int, int] = {}  # pid -> wait status
        self.errands: set[int] = set()  # children of rooms, whose status says nothing
        self.ending: dict[Init, str] = {}  # with what the log has still to be told
        self.workers = Workers(daemon, self.look_later, self.done)
        self.pending = 0  # launches that are looked at again later
        self.quick_reboots: dict[int, int] = {}
        daemon.server.handlers["start"] = self.start
        daemon.server.handlers["launch"] = self.launch
        daemon.server.handlers["watch"] = self.watch
        daemon.busy.append(
            lambda: bool(self.children or self.others or self.ending or self.pending)
        )

    def count(self) -> int:
        return len(self.children) + len(self.others)

    # Requests

    def start(self, client: Client, message: Message, fds: list[int]) -> None:
        """A start begins: what is left of it when the client has gone is looked at."""
        ctid = wire.number(message, "ctid")
        client.at_close.append(lambda: self.later(_FIRST_LOOK, lambda: self.claim(ctid)))

    def launch(self, client: Client, message: Message, fds: list[int]) -> Message:
        """Run the program that clones the first task of a VPS (child.py), which is then a child of
        ours; the tool and it talk over the tool's socket."""
        if len(fds) < 2:
            raise ValueError("launch: a program and its descriptors are asked for")
        self.errands.add(elf.start(fds[0], fds[1:]))
        return {}

    def claim(self, ctid: int) -> None:
        self.reap()  # what has ended already is better known by its status
        if facts := state.read_facts(self.daemon.paths, ctid):
            self.follow(facts)

    def watch(self, client: Client, message: Message, fds: list[int]) -> None:
        """A VPS runs: what start.json says of it holds from now on. Nobody waits for an answer."""
        self.claim(wire.number(message, "ctid"))

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
            self.reap()  # it may have ended since the last look
            self.ended(init, self.unclaimed.pop(init.pid, None))
            return
        self.daemon.limits.follow(facts)
        if proc.parent(init.pid) == os.getpid():
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
            if pid in self.errands:
                self.errands.discard(pid)
            elif self.workers.reaped(pid, status):
                pass
            elif pid in self.children:
                self.ended(self.children.pop(pid), status)
            else:
                self.unclaimed[pid] = status
                if len(self.unclaimed) > _UNCLAIMED:
                    del self.unclaimed[next(iter(self.unclaimed))]

    # After the end

    def ended(self, init: Init, status: int | None) -> None:
        tail = self.daemon.consoles.ended(init.ctid)
        self.daemon.holdings.ended(init.ctid)
        self.daemon.limits.ended(init.ctid)
        how = worker.reason(status) if init.pid else worker.CUT_SHORT
        end = End(init, how)
        self.ending[init] = worker.describe(how, status, tail)
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
            self.done(end)
        elif self.daemon.locked(init.ctid):
            self.later(again, lambda: self.look(end, min(again * 2, _LAST_LOOK)))
        else:
            if text := self.ending[init]:
                self.daemon.log(text, init.ctid)
                self.ending[init] = ""
            self.workers.add(end)

    def look_later(self, end: End) -> None:
        self.later(_FIRST_LOOK, lambda: self.look(end))

    def done(self, end: End) -> None:
        self.ending.pop(end.init, None)
        self.daemon.changed()
