"""A guard of network devices (antispoof.py) that is loaded before somebody needs one: the kernel
takes half a millisecond to check and translate its programs, which a start can do without.

One is kept. It is made when a start that has asked is over: where no VPS has an address never."""

from __future__ import annotations

from vzpy import antispoof, venet
from vzpy.eventd import wire
from vzpy.venet import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message


class Spares:
    """Of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._guard: antispoof.Guard | None = None
        daemon.server.handlers["spare"] = self.give

    def give(self, client: Client, message: Message, fds: list[int]) -> None:
        """The programs of it, which are now those of a VPS's venet; none while there are none."""
        ctid = wire.number(message, "ctid")
        addresses = [Address.of(text) for text in wire.text(message, "addresses").split()]
        client.at_close.append(self._make)
        guard, self._guard = self._guard, None
        if not guard:
            client.tell({})
            return
        try:
            client.tell({}, venet.guard(ctid, addresses, guard).programs)
        finally:
            guard.close()

    def _make(self) -> None:
        if self._guard is None:
            try:
                self._guard = antispoof.Guard()
            except OSError:
                pass  # who needs one finds out why
