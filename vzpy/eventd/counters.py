"""Looks at the beancounters of all running VPSs, regularly: maxima of what the kernel keeps no peak
of are those of these looks, and refusals that a cgroup counted are remembered when a guest removes
it. What is remembered lies on the cgroups (cgroupread.py), so nothing is lost with the daemon."""

from __future__ import annotations

from vzpy import state
from vzpy.story import beancounters

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

    def begin(self) -> None:
        """A VPS runs, or may. Called as often as somebody likes."""
        if not self._waiting:
            self._waiting = True
            self.daemon.loop.after(PERIOD, self._look)

    def _look(self) -> None:
        self._waiting = False
        if look(self.daemon.paths):
            self.begin()


def look(paths: NodePaths) -> int:
    """One look at each running VPS, for what it leaves behind; returns how many there are."""
    shared = beancounters.Shared()
    running = 0
    for ctid in state.running_ids(paths):
        if facts := state.find(paths, ctid):
            running += 1
            seen = beancounters.Look(facts, shared)
            for name in beancounters.SAMPLED:
                seen.count(name)
    return running
