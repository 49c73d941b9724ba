"""quotactl(2) of VPSs with a second level of disk quota: who listens, and who answers.

A filter hands the call of a process inside to a listener, which vzeventd holds (`hold`, named
quota, or quota.PID of an exec). The daemon itself answers nothing: to read an argument may take as
long as a guest likes, since its memory may be a file of a FUSE server of its own. When a listener
has something to say, a process is forked that answers as long as there is more (quotaserve.py);
it ends when it has been idle, or with the call that takes too long."""

from __future__ import annotations

import os
import select

from vzpy import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon

KIND = "quota"
_LISTENER = "anon_inode:seccomp notify"


class QuotaBroker:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.holdings.kinds[KIND] = self

    def taken(self, ctid: int, name: str, listener: int) -> None:
        """A listener is held from now on. A task of the guest's root may have sent anything."""
        if os.readlink(f"/proc/self/fd/{listener}") == _LISTENER:
            self._watch(ctid, name, listener)

    def released(self, listener: int) -> None:
        """It is about to be closed."""
        self.daemon.loop.forget(listener)

    def _watch(self, ctid: int, name: str, listener: int) -> None:
        def ready(events: int) -> None:
            self.daemon.loop.forget(listener)
            if events & select.EPOLLHUP and not events & select.EPOLLIN:
                self.daemon.holdings.release(ctid, name)  # nobody is left who could call
            else:
                self._serve(ctid, name, listener)

        self.daemon.loop.watch(listener, select.EPOLLIN, ready)

    def _serve(self, ctid: int, name: str, listener: int) -> None:
        from vzpy.eventd import quotaserve

        facts = state.begun(self.daemon.paths, ctid)
        if facts is None:
            return  # it has ended: so has everybody who waits
        pid = os.fork()
        if pid == 0:
            quotaserve.run(self.daemon.paths, facts, listener)
        self.daemon.births.errands.add(pid)
        server = os.pidfd_open(pid)

        def ended(_: int) -> None:
            self.daemon.loop.forget(server)
            os.close(server)
            if self.daemon.holdings.held.get(ctid, {}).get(name) == listener:
                self._watch(ctid, name, listener)

        self.daemon.loop.watch(server, select.EPOLLIN, ended)

