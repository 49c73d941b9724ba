"""Bytes and packets of VPSs: those of their devices now, and what was counted before a stop; and
the packets that were stopped on the way (antispoof.py).

STATE/traffic/N has the sums of devices that are gone: four numbers on one line."""

from __future__ import annotations

import os

from vzpy import antispoof, netnotes, shaping
from vzpy.kernel import rtnetlink
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.kernel.netlink import Socket


@record
class Counts:
    """Seen from the VPS: in is what it was sent."""

    in_bytes: int = 0
    in_packets: int = 0
    out_bytes: int = 0
    out_packets: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.__dict__.values(), other.__dict__.values())))


@record
class Checked:
    """A device of a running VPS, and the packets that were dropped since it is there."""

    device: str  # inside, as it was named at first
    host_device: str
    dropped: dict[str, int] | None  # by antispoof.REASONS; None where nothing is checked


def checked(sock: Socket, directory: str) -> list[Checked]:
    """The devices of a running VPS that the host has an end of, by its notes. Raises OSError."""
    inside = {note[1]: note[2] for note in netnotes.read(directory) if note[2:]}
    return [
        Checked(inside[name], name, antispoof.dropped(sock, link.index))
        for name in shaping.host_ends(directory)
        if (link := rtnetlink.find_link(sock, name))
    ]


def of_devices(sock: Socket, directory: str) -> Counts:
    """What the devices of a running VPS have carried so far, by its notes."""
    found = Counts()
    for name in shaping.host_ends(directory):
        received = rtnetlink.statistics(sock, name)
        if received:  # by the host's end, from the VPS
            found = found.plus(Counts(*received[2:], *received[:2]))
    return found


def kept(state: str, ctid: int) -> Counts:
    """What was counted before; zeros when nothing was, or the file is not ours."""
    try:
        with open(_path(state, ctid)) as file:
            return Counts(*(int(word) for word in file.read().split()))
    except (OSError, ValueError, TypeError):
        return Counts()


def keep(state: str, ctid: int, counts: Counts) -> None:
    """Add what devices have carried that are gone now. Raises OSError."""
    if not any(counts.__dict__.values()):
        return
    total, path = kept(state, ctid).plus(counts), _path(state, ctid)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    with open(f"{path}.new", "w") as file:
        file.write(" ".join(map(str, total.__dict__.values())) + "\n")
    os.rename(f"{path}.new", path)


def forget(state: str, ctid: int) -> None:
    """Absence is success."""
    try:
        os.unlink(_path(state, ctid))
    except FileNotFoundError:
        pass


def numbers(state: str) -> list[int]:
    """VPSs of which something was counted."""
    try:
        return sorted(int(name) for name in os.listdir(f"{state}/traffic") if name.isdigit())
    except OSError:
        return []


def _path(state: str, ctid: int) -> str:
    return f"{state}/traffic/{ctid}"
