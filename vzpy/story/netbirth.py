"""What of a VPS's network is known, loaded and asked for before there is a namespace to wire, so
that the kernel makes it while the root is mounted (story/start.py)."""

from __future__ import annotations

import os

from vzpy import child, netnotes, state, venet
from vzpy.errors import Exit, VzError
from vzpy.events import silent
from vzpy.fault import fault
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import IFNAMSIZ, PID
from vzpy.story import networds
from vzpy.venet import Address, Neighbourhood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy import antispoof
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.kernel.netlink import Asked
    from vzpy.vps import VPS


# Seconds. The launcher asks at once, but a lock of the kernel's may be held by others for long.
_PATIENCE = 60


class Prepared:
    """What the wiring of a start knows and has loaded before there is a namespace. close() may come
    again.

    spare     a guard's programs, loaded already; ours to close
    programs  the guard's
    Raises VzError 34."""

    def __init__(self, vps: VPS, spare: Sequence[int] = ()) -> None:
        self.vps = vps
        self.addresses = addresses(vps.config, silent)
        self.programs = (spare[0], spare[1]) if spare else (-1, -1)
        self._spare = list(spare)
        self._guard: antispoof.Guard | None = None
        self._asked: tuple[Asked, Asked] | None = None
        self.host = Socket()
        if not self.addresses:
            return
        try:
            self.around = Neighbourhood.look(self.host)
            if not spare:
                self._guard = venet.guard(vps.ctid, self.addresses)
                self.programs = self._guard.programs
        except OSError as err:
            self.close()
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err

    def ask(self) -> dict[str, bytes]:
        """What a launcher asks the kernel for as soon as there is a namespace (child.launcher),
        blanks by name: the pair, and filters on it. It goes through `host`, which hears nothing
        else until has_pair(). It is noted now. Nothing without addresses.

        Raises VzError 34."""
        if not self.addresses:
            return {}
        try:
            note(self.vps, self.addresses)
        except OSError as err:
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err
        name = venet.host_end(self.vps.node.paths.cgroup, self.vps.ctid)
        self._asked = pair, guard = (
            self.host.numbered([venet.pair(name, self.vps.ctid)]),
            self.host.numbered(venet.guarded(0, (child.OUTWARD, child.INWARD))),
        )
        self.host.be_patient(_PATIENCE)
        return {
            "pair": pair.datagram[:-PID], "guard": guard.datagram,
            "device": name.encode().ljust(IFNAMSIZ, b"\0"),
        }

    @property
    def lengths(self) -> tuple[int, tuple[int, ...]]:
        """Of the pair's request, and of each that guards it."""
        if not self._asked:
            return 0, ()
        pair, guard = self._asked
        return len(pair.datagram) - PID, guard.lengths

    @property
    def given(self) -> tuple[int, ...]:
        """The descriptors that the launcher needs for it."""
        return (self.host.fileno(), *self.programs) if self._asked else ()

    def is_noted(self) -> bool:
        return self._asked is not None

    def has_pair(self) -> bool:
        """The launcher has made it, and it is guarded. Else nothing has come of that.

        Raises OSError of a filter that was refused."""
        if not self._asked:
            return False
        pair, guard = self._asked
        try:
            if self.host.answer(pair):
                return False
        except BlockingIOError:
            return False  # the launcher has died
        if refused := self.host.answer(guard):
            raise refused
        return True

    def close(self) -> None:
        self.host.close()
        if self._guard:
            self._guard.close()
        while self._spare:
            os.close(self._spare.pop())


def addresses(config: Config, report: Report) -> list[Address]:
    return [Address.of(text) for text in networds.addresses(config, report)]


def note(vps: VPS, addresses: Sequence[Address]) -> None:
    """What is about to be given. Raises OSError."""
    fault("net-note")
    name = venet.host_end(vps.node.paths.cgroup, vps.ctid)
    netnotes.add(state.directory(vps.node.paths, vps.ctid), [
        (netnotes.LINK, name, venet.DEVICE), *((netnotes.ADDRESS, a.masked) for a in addresses),
    ])

