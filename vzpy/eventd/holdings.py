"""Descriptors that a VPS needs somebody to hold for its life, by name; vz-fdkeep has copies."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.eventd import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.eventd.quotabroker import QuotaBroker
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message


class Holdings:
    """Rooms hand them over by the request `hold`; they are closed when the VPS has ended."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.held: dict[int, dict[str, int]] = {}  # of each VPS
        self.kinds: dict[str, QuotaBroker] = {}  # a name up to its dot -> who wants to know
        daemon.server.handlers["hold"] = self.hold

    def hold(self, client: Client, message: Message, fds: list[int]) -> Message:
        ctid, name = wire.number(message, "ctid"), wire.text(message, "name")
        if not fds:
            raise ValueError("a descriptor is missing")
        self.keep(ctid, name, fds.pop(0))
        return {}

    def keep(self, ctid: int, name: str, fd: int) -> None:
        self.release(ctid, name)
        self.held.setdefault(ctid, {})[name] = fd
        self.daemon.keeper.store(f"{name}-{ctid}", fd)
        if user := self.kinds.get(name.partition(".")[0]):
            user.taken(ctid, name, fd)

    def release(self, ctid: int, name: str) -> None:
        """Close it. Absence is success."""
        fd = self.held.get(ctid, {}).pop(name, -1)
        if fd >= 0:
            if user := self.kinds.get(name.partition(".")[0]):
                user.released(fd)
            os.close(fd)
            self.daemon.keeper.drop(f"{name}-{ctid}")

    def adopt(self, name: str, fd: int) -> None:
        """What vz-fdkeep held for a predecessor of ours; dropped when its VPS runs no more."""
        kind, _, number = name.rpartition("-")
        if number.isdigit() and state.begun(self.daemon.paths, int(number)):
            self.keep(int(number), kind, fd)
            return
        self.daemon.keeper.store(name, fd)  # a drop is told only to a keeper that we know
        self.daemon.keeper.drop(name)
        os.close(fd)

    def ended(self, ctid: int) -> None:
        for name in list(self.held.get(ctid, {})):
            self.release(ctid, name)
        self.held.pop(ctid, None)
