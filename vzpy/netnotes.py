"""What of the host a VPS's network uses, noted in RUN/N/net before it is made: whoever finds the
VPS gone takes back those, and nothing that today's N.conf says. One line each, blanks between:

    address 192.0.2.7/24       the VPS has it, whatever N.conf says: `set` without --save
    proxy 192.0.2.7 eth0       the host answers for the address on that device
    link veth101.0 eth0        the host's end of a pair that goes with the VPS, and the other end
    device eth5 7 021801020304 a device of the host that has moved in: its number there, 0 before
                               it is known, and its hardware address"""

from __future__ import annotations

import os

from vzpy.kernel.proc import slurp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESS, PROXY, LINK, DEVICE = "address", "proxy", "link", "device"
NAME = "net"


def read(directory: str) -> list[tuple[str, ...]]:
    """The notes of a VPS by its directory in RUN; none when it has none."""
    try:
        text = slurp(f"{directory}/{NAME}").decode(errors="surrogateescape")
    except OSError:
        return []
    return [tuple(line.split()) for line in text.split("\n") if line]


def write(directory: str, notes: Iterable[tuple[str, ...]]) -> None:
    """Replace them at once; without any the file goes. Raises OSError."""
    text = "".join(" ".join(note) + "\n" for note in notes)
    path = f"{directory}/{NAME}"
    if not text:
        forget(directory)
        return
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode(errors="surrogateescape"))
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def add(directory: str, notes: Iterable[tuple[str, ...]]) -> None:
    write(directory, dict.fromkeys([*read(directory), *notes]))


def remove(directory: str, notes: Iterable[tuple[str, ...]]) -> None:
    gone = set(notes)
    write(directory, [note for note in read(directory) if note not in gone])


def forget(directory: str) -> None:
    """Absence is success."""
    for name in (NAME, f"{NAME}.new"):
        try:
            os.unlink(f"{directory}/{name}")
        except OSError:
            pass
