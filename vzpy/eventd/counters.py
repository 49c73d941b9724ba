"""Looks at the beancounters of all running VPSs, regularly: maxima of what the kernel keeps no peak
of are those of these looks, refusals that a cgroup counted are remembered when a guest removes it,
and load averages are what they see. What is remembered lies on the cgroups (cgroupread.py), so
nothing is lost with the daemon.

A child does it: a guest with very many processes takes its time, not the daemon's."""

from __future__ import annotations

import os

from vzpy import loadavg, state
from vzpy.kernel import process
from vzpy.story import beancounters, oomorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.model import NodePaths

PERIOD = 30  # seconds


class Counters:
    """Looks as long as some VPS runs; sleeps when none does."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._waiting = False
        self._child = 0

    def begin(self) -> None:
        """A VPS runs, or may. Called as often as somebody likes."""
        if not self._waiting:
            self._waiting = True
            self.daemon.loop.after(PERIOD, self._due)

    def _due(self) -> None:
        self._waiting = False
        births = self.daemon.births
        if not births.count():
            return
        self.begin()
        if self._child not in births.errands:  # else it is still at its last look
            self._child = _fork(self.daemon.paths)
            births.errands.add(self._child)


def _fork(paths: NodePaths) -> int:
    """A child that looks once, and holds nothing of ours open meanwhile; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        process.close_all_but([])
        look(paths)
    finally:
        os._exit(0)


def look(paths: NodePaths) -> int:
    """One look at each running VPS, for what it leaves behind; returns how many there are."""
    shared = beancounters.Shared()
    running = [f for ctid in state.running_ids(paths) if (f := state.find(paths, ctid))]
    for facts in running:
        look = beancounters.Look(facts, shared)
        look.sample()
        oomorder.settle(facts, look)
        loadavg.sample(facts.cgroup)
    return len(running)
