"""What of a VPS's network is known, loaded and asked for before there is a namespace to wire, so
that the kernel makes it while the root is mounted (story/start.py)."""

from __future__ import annotations

from vzpy import antispoof, netnotes, state, venet
from vzpy.errors import Exit, VzError
from vzpy.events import silent
from vzpy.fault import fault
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import PID
from vzpy.story import networds
from vzpy.venet import Address, Neighbourhood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.kernel.netlink import Request
    from vzpy.vps import VPS


class Prepared:
    """What the wiring of a start knows and has loaded before there is a namespace. close() may come
    again.

    spare  descriptors of a guard that is loaded already
    Raises VzError 34."""

    def __init__(self, vps: VPS, spare: Sequence[int] = ()) -> None:
        self.vps = vps
        self.addresses = addresses(vps.config, silent)
        self.guard = antispoof.Guard(spare) if spare else None
        self._pair: Request | None = None
        self.host = Socket()
        if not self.addresses:
            return
        try:
            self.around = Neighbourhood.look(self.host)
            self.guard = venet.guard(vps.ctid, self.addresses, self.guard)
        except OSError as err:
            self.close()
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err

    def pair(self) -> bytes:
        """The request for the pair, which the launcher makes of it as soon as there is a namespace
        (tasks.clone): it goes through `host`, which hears no other until is_paired(). It is noted
        now. b"" without addresses.

        Raises VzError 34."""
        if not self.addresses:
            return b""
        try:
            note(self.vps, self.addresses)
        except OSError as err:
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err
        name = venet.host_end(self.vps.node.paths.cgroup, self.vps.ctid)
        self._pair = venet.request(name, self.vps.ctid)
        return self.host.numbered([self._pair])[:-PID]

    def is_noted(self) -> bool:
        return self._pair is not None

    def is_paired(self) -> bool:
        """The launcher has made it; else nothing has come of that."""
        return self._pair is not None and self.host.has_done(self._pair)

    def close(self) -> None:
        self.host.close()
        if self.guard:
            self.guard.close()


def addresses(config: Config, report: Report) -> list[Address]:
    return [Address.of(text) for text in networds.addresses(config, report)]


def note(vps: VPS, addresses: Sequence[Address]) -> None:
    """What is about to be given. Raises OSError."""
    fault("net-note")
    name = venet.host_end(vps.node.paths.cgroup, vps.ctid)
    netnotes.add(state.directory(vps.node.paths, vps.ctid), [
        (netnotes.LINK, name, venet.DEVICE), *((netnotes.ADDRESS, a.masked) for a in addresses),
    ])

