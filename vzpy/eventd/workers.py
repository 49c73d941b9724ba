"""How many workers (worker.py) at once, for what, and for how long.

Putting away is quick and the host's own, so many ends go to one worker. A start runs N.start
inside, and a guest that lets it hang must not keep others from being put away: starts have
workers of their own, and an end."""

from __future__ import annotations

import os

from vzpy.eventd import worker
from vzpy.kernel.process import SIGKILL
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.eventd.loop import Timer
    from vzpy.eventd.main import Daemon

_PUTTERS, _STARTERS = 2, 8  # at once
_BATCH = 16
_PATIENCE = 600  # seconds for one worker


@record
class Init:
    """One init: its VPS, and what names it for good."""

    ctid: int
    pid: int
    starttime: int
    started: float


@record
class End:
    """An end that somebody has to take care of."""

    init: Init
    how: str  # worker.REBOOT ...


@record
class Job:
    """A worker at work."""

    starts: bool
    ends: list[End]
    deadline: Timer


class Workers:
    """again  is called with an end that could not be dealt with since the VPS was locked
    done   with one that was, well or not"""

    def __init__(
        self, daemon: Daemon, again: Callable[[End], None], done: Callable[[End], None]
    ) -> None:
        self.daemon, self.again, self.done = daemon, again, done
        self.waiting: dict[bool, list[End]] = {False: [], True: []}  # by: may start
        self.running: dict[int, Job] = {}

    def add(self, end: End) -> None:
        self.waiting[worker.may_start(end.how)].append(end)
        self._fill()

    def reaped(self, pid: int, status: int) -> bool:
        """A child has ended; False when it was no worker."""
        if pid not in self.running:
            return False
        job = self.running.pop(pid)
        job.deadline.cancel()
        locked = os.waitstatus_to_exitcode(status) == worker.LOCKED
        for end in job.ends:
            (self.again if locked else self.done)(end)
        self._fill()
        return True

    def _fill(self) -> None:
        for starts, places, batch in ((False, _PUTTERS, _BATCH), (True, _STARTERS, 1)):
            waiting = self.waiting[starts]
            while waiting and self._busy(starts) < places:
                ends, waiting[:batch] = waiting[:batch], []
                self._spawn(starts, ends)

    def _busy(self, starts: bool) -> int:
        return sum(job.starts == starts for job in self.running.values())

    def _spawn(self, starts: bool, ends: list[End]) -> None:
        try:
            words = [f"{e.init.ctid},{e.init.pid},{e.init.starttime},{e.how}" for e in ends]
            pid = worker.spawn(self.daemon.paths, words)
        except OSError as err:
            self.daemon.log(f"Cannot clean up: {err}", level=-1)
            for end in ends:
                self.done(end)
            return
        deadline = self.daemon.loop.after(_PATIENCE, lambda: os.kill(pid, SIGKILL))
        self.running[pid] = Job(starts, ends, deadline)
