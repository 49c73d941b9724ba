"""The file of a quota: its limits, whether it is on, what it counted when it was last looked at.

    vzquota 1
    path /vz/private/101
    project 101
    ...
    ugid 0 1000 LIMITS...       one line each user (0) and group (1) of the second level
    crc32 01234567              of all lines above

A file whose checksum does not match is refused, never guessed at."""

from __future__ import annotations

import os
from binascii import crc32

from vzpy.errors import VzError
from vzpy.kernel.proc import boot_id
from vzpy.kernel.quotactl import Dqblk
from vzpy.model import IdRange
from vzpy.oneline import escape, unescape
from vzpy.record import record

VERSION = "vzquota 1"
WEEK = 7 * 86400


class QuotaError(VzError):
    """A failure with vzquota's own exit codes (quota.md 3); `text` precedes the message there."""

    SYSTEM, USAGE, SYSCALL, FILE, RUNNING, NOT_RUNNING, LOCK, MOUNTPOINTS = range(1, 9)
    UGID_INACTIVE, DIRTY, NO_FILE, INTERNAL, NO_PATH = range(9, 14)
    code = SYSTEM


@record
class Row:
    """One resource. Space: used in bytes, limits in KiB; inodes: plain numbers. 0 is no limit.

    expires  when the soft limit turns hard, seconds since the epoch; 0 while it is kept
    grace    seconds that it may be exceeded"""

    used: int = 0
    soft: int = 0
    hard: int = 0
    expires: int = 0
    grace: int = 0


@record
class Ugid:
    """One user (kind 0) or group (1) of the second level, by its number inside the VPS."""

    kind: int
    number: int
    dqblk: Dqblk


@record
class QuotaFile:
    """on with another boot's id is dirty: the machine stopped without `off`."""

    path: str
    project: int
    space: Row
    inodes: Row
    on: bool = False
    boot: str = ""
    dirty: bool = False
    ugid_on: bool = False  # at the next `on`
    ugid_active: bool = False  # since the last
    ugid_limit: int = 0
    base: int = 0  # first host id of the VPS, 0: there is no second level
    count: int = 0
    graces: tuple[int, int, int, int] = (WEEK,) * 4  # block, inode of users; of groups
    ugids: tuple[Ugid, ...] = ()

    def graces_of(self, kind: int) -> tuple[int, int]:
        """Of space and of inodes, for the users (0) or groups (1) inside; seconds."""
        return self.graces[2 * kind], self.graces[2 * kind + 1]


def is_on(found: QuotaFile) -> bool:
    return found.on and found.boot == boot_id()


def is_dirty(found: QuotaFile) -> bool:
    return found.dirty or (found.on and found.boot != boot_id())


def range_of(found: QuotaFile) -> IdRange:
    return IdRange(found.base, found.count)


_NUMBERS = ("project", "ugid_limit", "base", "count")
_FLAGS = ("on", "dirty", "ugid_on", "ugid_active")


def encode(quota: QuotaFile) -> bytes:
    fields = quota.__dict__
    lines = [
        VERSION,
        f"path {escape(quota.path)}",
        f"boot {quota.boot}",
        *(f"{name} {fields[name]}" for name in _NUMBERS),
        *(f"{name} {int(fields[name])}" for name in _FLAGS),
        f"space {_joined(quota.space.__dict__.values())}",
        f"inodes {_joined(quota.inodes.__dict__.values())}",
        f"graces {_joined(quota.graces)}",
        *(f"ugid {u.kind} {u.number} {_joined(u.dqblk.__dict__.values())}" for u in quota.ugids),
    ]
    body = ("\n".join(lines) + "\n").encode()
    return body + b"crc32 %08x\n" % crc32(body)


def _joined(numbers: object) -> str:
    return " ".join(map(str, numbers))  # type: ignore[call-overload]


def decode(data: bytes) -> QuotaFile:
    """Raises ValueError for everything that encode() does not write."""
    body, mark, digest = data.rpartition(b"crc32 ")
    if not mark or int(digest, 16) != crc32(body):
        raise ValueError("check sum")
    fields: dict[str, object] = {}
    ugids = []
    version, *lines = body.decode().splitlines()
    if version != VERSION:
        raise ValueError("version")
    for line in lines:
        name, _, text = line.partition(" ")
        if name == "path":
            fields[name] = unescape(text)
        elif name == "boot":
            fields[name] = text
        elif name in _NUMBERS:
            fields[name] = int(text)
        elif name in _FLAGS:
            fields[name] = text == "1"
        elif name in ("space", "inodes"):
            fields[name] = Row(*map(int, text.split()))
        elif name == "graces":
            fields[name] = tuple(map(int, text.split()))
        elif name == "ugid":
            kind, number, *rest = map(int, text.split())
            ugids.append(Ugid(kind, number, Dqblk(*rest)))
    try:
        return QuotaFile(**fields, ugids=tuple(ugids))  # type: ignore[arg-type]
    except TypeError as err:
        raise ValueError(str(err)) from None


def load(path: str, quota_id: int) -> QuotaFile | None:
    """None when there is no file. Raises QuotaError 4."""
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as err:
        raise QuotaError(
            f"Quota file check sum is invalid for id {quota_id}; file is broken",
            QuotaError.FILE,
            hint=f"Remove {path} and initialise the quota anew.",
        ) from err
    except OSError as err:
        raise QuotaError.of("Cannot read the quota file", err, QuotaError.FILE) from err


def save(path: str, quota: QuotaFile) -> None:
    """The whole file at once, over a power cut too: limits of users are nowhere else."""
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, encode(quota))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, path)
    except OSError as err:
        raise QuotaError.of("Cannot write the quota file", err, QuotaError.FILE) from err
