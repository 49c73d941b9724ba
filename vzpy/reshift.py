"""The owners of a whole private area, moved from one id range to another.

Once, at a start: for a configuration that was copied to a new number, or an area that tar restored
(DESIGN 3). Nothing runs in the area and nothing is mounted in it, but its names, links and
attributes are a guest's: no symlink is followed, no mount crossed, and depth costs nothing.

It can be cut off anywhere and begun again. A first walk changes nothing and refuses what cannot be
moved; in the second an entry's owner changes after all else of it, and the top's after all others:
whatever has its new owner is done. Only what chown(2) itself takes away, setuid bits and file
capabilities, is put back afterwards, and lies meanwhile in an attribute of the file."""

from __future__ import annotations

import os
import stat
import struct
import time
from errno import EBUSY, EINVAL, EMLINK, EOVERFLOW, ESTALE

from vzpy.kernel.proc import mounts_below
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[int, int], None]  # entries done, of how many
    Level = tuple[str, os.stat_result, list[tuple[str, os.stat_result]]]

TICK = 0.1  # seconds between two reports of progress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETID = stat.S_ISUID | stat.S_ISGID
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CAPABILITY = "security.capability"
# What chown(2) is about to take: mode, capability. No guest can forge a trusted.* (xattr(7)).
_PENDING = "trusted.vzpy.reshift"

# struct posix_acl_xattr_entry (linux/posix_acl_xattr.h), after 4 bytes of version
_ACL_HEAD, _ACL_ENTRY = 4, struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08

# struct vfs_cap_data and vfs_ns_cap_data (linux/capability.h)
_CAP_REVISION, _CAP_2, _CAP_3 = 0xFF000000, 0x02000000, 0x03000000
_CAP_2_SIZE = 20


def shift(top: str, old: IdRange, new: IdRange, progress: Progress | None = None) -> None:
    """Move the owners of `top` and of all below it from `old` to `new`.

    Raises OSError with errno and path; before anything is changed for EBUSY (something is mounted
    there), EINVAL (the ranges overlap), EOVERFLOW (an owner outside of `old`), EMLINK (a file has
    a name outside of `top`: another VPS may own it)."""
    if old.base < new.base + new.count and new.base < old.base + old.count:
        raise OSError(EINVAL, f"ids from {old.base} and from {new.base} overlap", top)
    for target in mounts_below(top):
        if target != os.path.realpath(top):
            raise OSError(EBUSY, "something is mounted on it", target)
    move = Move(old, new)
    total = _check(top, move)
    told = time.monotonic()
    for done, entry in enumerate(_walk(top), 1):
        entry.named(move.entry)
        if progress and (done == total or time.monotonic() - told > TICK):
            told = time.monotonic()
            progress(done, total)


def _check(top: str, move: Move) -> int:
    """Raise what shift() raises; returns the number of entries."""
    count = 0
    elsewhere: dict[int, tuple[int, str]] = {}
    for entry in _walk(top):
        count += 1
        entry.named(move.check)
        status = entry.status
        if status.st_nlink > 1 and not entry.is_directory and not entry.is_whiteout:
            left, path = elsewhere.get(status.st_ino, (status.st_nlink, ""))
            elsewhere[status.st_ino] = (left - 1, path or entry.path)
    for left, path in elsewhere.values():
        if left:
            raise OSError(EMLINK, "has a hard link outside of the private area", path)
    return count


class _Entry:
    """One name of the tree, reached through the opened directory that holds it."""

    def __init__(self, above: int, name: str, status: os.stat_result, way: list[str]) -> None:
        self.above, self.name, self.status, self.way = above, name, status, way
        # for the calls that take no directory
        self._at = f"/proc/self/fd/{above}/{name}"

    @property
    def path(self) -> str:
        """For a message; right as long as the walk stands at this entry."""
        return "/".join([*self.way, self.name])

    def named(self, act: Callable[[_Entry], None]) -> None:
        try:
            act(self)
        except OSError as err:
            raise OSError(err.errno, err.strerror, self.path) from None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """How overlayfs hides what lies below: its owner is anybody, and many share one inode."""
        return stat.S_ISCHR(self.status.st_mode) and self.status.st_rdev == 0

    def attributes(self) -> list[str]:
        if stat.S_ISLNK(self.status.st_mode):
            return []
        return os.listxattr(self._at, follow_symlinks=False)

    def get(self, attribute: str) -> bytes:
        return os.getxattr(self._at, attribute, follow_symlinks=False)

    def put(self, attribute: str, value: bytes) -> None:
        os.setxattr(self._at, attribute, value, follow_symlinks=False)

    def drop(self, attribute: str) -> None:
        os.removexattr(self._at, attribute, follow_symlinks=False)

    def chown(self, uid: int, gid: int) -> None:
        os.chown(self.name, uid, gid, dir_fd=self.above, follow_symlinks=False)

    def chmod(self, mode: int) -> None:
        """For regular files: chmod(2) has no way not to follow a symlink."""
        fd = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.above)
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def _walk(top: str) -> Iterator[_Entry]:
    """All below a directory and then itself: what holds comes after what is held.

    One directory is open at a time; the way up is "..", and each step is checked."""
    parent, name = os.path.split(os.path.realpath(top))
    here = os.open(parent, _DIRECTORY)
    outside = os.fstat(here)
    todo = [(name, os.stat(name, dir_fd=here, follow_symlinks=False))]
    way: list[str] = [parent.rstrip("/")]
    levels: list[Level] = []
    try:
        while todo or levels:
            if todo:
                name, status = todo.pop()
                here = _step(here, name, status)
                levels.append((name, status, todo))
                way.append(name)
                todo = []
                with os.scandir(here) as entries:
                    for found in entries:
                        status = found.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            todo.append((found.name, status))
                        else:
                            yield _Entry(here, found.name, status, way)
            else:
                name, status, todo = levels.pop()
                way.pop()
                here = _step(here, "..", levels[-1][1] if levels else outside)
                yield _Entry(here, name, status, way)
    finally:
        os.close(here)


def _step(here: int, name: str, expected: os.stat_result) -> int:
    """Open the next directory and close this one. Raises OSError ESTALE when it is another."""
    there = os.open(name, _DIRECTORY, dir_fd=here)
    if not os.path.samestat(os.fstat(there), expected):
        os.close(there)
        raise OSError(ESTALE, "was moved meanwhile", name)
    os.close(here)
    return there


class Move:
    """What becomes of one entry."""

    def __init__(self, old: IdRange, new: IdRange) -> None:
        self.old, self.new = old, new

    def id(self, number: int) -> int:
        """An owner as it is to be; one of the new range stays. Raises OSError EOVERFLOW."""
        if self.new.holds(number):
            return number
        moved = number - self.old.base + self.new.base
        if self.old.holds(number) and self.new.holds(moved):
            return moved
        old = self.old
        raise OSError(EOVERFLOW, f"id {number} is none of the {old.count} from {old.base}")

    def check(self, entry: _Entry) -> None:
        """Raises OSError for what entry() could not do."""
        if entry.is_whiteout:
            return
        self.id(entry.status.st_uid)
        self.id(entry.status.st_gid)
        for attribute in entry.attributes():
            if attribute in _ACLS:
                self.acl(entry.get(attribute))
            elif attribute == _CAPABILITY:
                self.capability(entry.get(attribute))

    def entry(self, entry: _Entry) -> None:
        status = entry.status
        if entry.is_whiteout:
            if self.old.holds(status.st_uid) and self.old.holds(status.st_gid):
                entry.chown(self.id(status.st_uid), self.id(status.st_gid))
            return
        owner = self.id(status.st_uid), self.id(status.st_gid)
        attributes = entry.attributes()
        if owner != (status.st_uid, status.st_gid):
            for attribute in attributes:
                if attribute in _ACLS:
                    entry.put(attribute, self.acl(entry.get(attribute)))
            if _PENDING not in attributes and (lost := self._lost_by_chown(entry, attributes)):
                entry.put(_PENDING, lost)
                attributes.append(_PENDING)
            entry.chown(*owner)
        if _PENDING in attributes:
            pending = entry.get(_PENDING)
            entry.chmod(int.from_bytes(pending[:2], "little"))
            if pending[2:]:
                entry.put(_CAPABILITY, pending[2:])
            entry.drop(_PENDING)

    def _lost_by_chown(self, entry: _Entry, attributes: list[str]) -> bytes:
        """Mode and capability of a file, b"" when chown(2) leaves them alone."""
        mode = stat.S_IMODE(entry.status.st_mode)
        has_capability = _CAPABILITY in attributes
        if not stat.S_ISREG(entry.status.st_mode) or not (mode & _SETID or has_capability):
            return b""
        capability = self.capability(entry.get(_CAPABILITY)) if has_capability else b""
        return mode.to_bytes(2, "little") + capability

    def acl(self, value: bytes) -> bytes:
        """A POSIX ACL with its users and groups moved (acl(5))."""
        entries = _ACL_ENTRY.iter_unpack(value[_ACL_HEAD:])
        return value[:_ACL_HEAD] + b"".join(
            _ACL_ENTRY.pack(tag, perm, self.id(who) if tag in (_ACL_USER, _ACL_GROUP) else who)
            for tag, perm, who in entries
        )

    def capability(self, value: bytes) -> bytes:
        """File capabilities for the root of the VPS: revision 3 names it (capabilities(7)), unless
        it is root here too, as in an image.

        One of revision 2 is worth nothing in a user namespace: it becomes one for root."""
        magic = int.from_bytes(value[:4], "little")
        revision, root = magic & _CAP_REVISION, self.new.base
        if revision == _CAP_3:
            root = self.id(int.from_bytes(value[_CAP_2_SIZE:], "little"))
        elif revision != _CAP_2:
            return value
        magic = magic & ~_CAP_REVISION | (_CAP_3 if root else _CAP_2)
        head = magic.to_bytes(4, "little") + value[4:_CAP_2_SIZE]
        return head + root.to_bytes(4, "little") if root else head
