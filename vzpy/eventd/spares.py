"""A guard of network devices (antispoof.py) that is loaded before somebody needs one: the kernel
takes half a millisecond to check and translate its programs, which a start can do without.

One is kept. It is made when a start that has asked is over: where no VPS has an address never."""

from __future__ import annotations

from vzpy import antispoof

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
        """The descriptors of it; none while there is none."""
        client.at_close.append(self._make)
        guard, self._guard = self._guard, None
        client.tell({}, guard.fds if guard else ())
        if guard:
            guard.close()

    def _make(self) -> None:
        if self._guard is None:
            try:
                self._guard = antispoof.Guard()
            except OSError:
                pass  # who needs one finds out why
