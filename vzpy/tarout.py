"""A tar archive of a guest's tree, with the ids that the guest knows (pax(1), POSIX.1-2001).

The tree may be in use by a hostile guest. One name is opened at a time, beside its directory's
descriptor, never through a link; only regular files are opened, and never waited for. What goes
away or changes meanwhile is told and left as it is found, the archive stays whole."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tarfile
import time

from vzpy.kernel.cursor import Cursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.model import IdRange

    Progress = Callable[[int, int], None]  # bytes done, of how many

TICK = 0.1  # seconds between two reports of progress
# Owner of what belongs to nobody of the VPS: whom it sees itself (user_namespaces(7)).
OVERFLOW = 65534
LONGEST = 4000  # bytes of a name: longer ones can be neither unpacked nor reached (PATH_MAX)
MOST_SEGMENTS = 1 << 20  # of a file with holes

_CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENOTDIR)
_ACLS = {"system.posix_acl_access": "access", "system.posix_acl_default": "default"}
_CAPABILITY = "security.capability"
# struct vfs_ns_cap_data (linux/capability.h)
_CAP_REVISION, _CAP_2, _CAP_3, _CAP_2_SIZE = 0xFF000000, 0x02000000, 0x03000000, 20
# linux/posix_acl_xattr.h: tag -> the word of acl_to_text(3), has it an id
_TAGS = {1: ("user", False), 2: ("user", True), 4: ("group", False), 8: ("group", True),
         16: ("mask", False), 32: ("other", False)}  # fmt: skip


class Archive:
    """Writes members to a descriptor.

    ids       the VPS's range on the disk, or from 0 where a mount shows it so
    on_disk   it on the disk: before Linux 6.2 such a mount shows the ids in ACLs as they are there
    excluded  asked with the path inside, /var/log/messages; what is below goes with it
    warn      told of what is not as it should be, in a line
    rate      bytes a second, 0 for as fast as it goes"""

    def __init__(
        self,
        out: int,
        ids: IdRange,
        *,
        on_disk: IdRange | None = None,
        excluded: Callable[[str], bool] = lambda path: False,
        warn: Callable[[str], None] = lambda text: None,
        progress: Progress | None = None,
        total: int = 0,
        rate: int = 0,
    ) -> None:
        self.out, self.ids, self.excluded, self.warn = out, ids, excluded, warn
        self.on_disk = on_disk or ids
        self.progress, self.total, self.rate = progress, total, rate
        self.written = 0
        self._begun = self._told = time.monotonic()
        self._links: dict[tuple[int, int], str] = {}

    def text(self, name: str, data: bytes, mode: int = 0o600) -> None:
        """A file of root's that is in no tree."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), mode, int(time.time())
        self._header(info)
        self._write(data)
        self._pad(len(data))

    def close(self) -> None:
        """The end of the archive: two empty blocks, and up to a record."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(b"\0" * (end + -(self.written + end) % tarfile.RECORDSIZE))

    def tree(self, top: int | str, without: str = "") -> None:
        """All below a directory, and itself as `./`; `without` is left out, a path inside.

        Raises OSError for what cannot be read."""
        with Cursor(top) as here:
            try:
                self._walk(here, without)
            except OSError as err:
                raise OSError(err.errno, err.strerror, f"/{here.path()}") from err

    def _walk(self, here: Cursor, without: str) -> None:
        self._directory(here)
        levels: list[list[str]] = []
        todo = self._entries(here, without)
        while True:
            if not todo:
                if not levels:
                    return
                todo = levels.pop()
                if not self._up(here, levels, todo):
                    return
                continue
            name = todo.pop()
            try:
                here.down(name)
            except OSError as err:
                if err.errno not in _GONE:
                    raise
                self._vanished(here.path(name))
                continue
            self._directory(here)
            levels.append(todo)
            todo = self._entries(here, without)

    def _up(self, here: Cursor, levels: list[list[str]], todo: list[str]) -> bool:
        try:
            here.up()
            return True
        except OSError as err:
            if err.errno not in _GONE:
                raise
            rest = len(todo) + sum(map(len, levels))
            self.warn(f"/{here.path()} was moved meanwhile: {rest} directories are left out")
            return False

    def _entries(self, here: Cursor, without: str) -> list[str]:
        """Write all of a directory but the directories, whose names are returned, last first."""
        todo = []
        for name in sorted(os.listdir(here.fd), reverse=True):
            path = f"/{here.path(name)}"
            if path == without or self.excluded(path):
                continue
            if len(os.fsencode(path)) > LONGEST:
                self.warn(f"{path[:60]}... is nested too deep, left out")
                continue
            try:
                status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(name)
                else:
                    self._entry(here, name, status)
            except OSError as err:
                if err.errno not in _GONE:
                    raise OSError(err.errno, err.strerror, path) from err
                self._vanished(path)
        return todo

    def _vanished(self, path: str) -> None:
        self.warn(f"{path}: went away while it was read")

    def _directory(self, here: Cursor) -> None:
        path = here.path()
        info = self._info(f"./{path}/" if path else "./", os.fstat(here.fd))
        info.type = tarfile.DIRTYPE
        self._attributes(info, here.fd, follow=True)
        self._header(info)

    def _entry(self, here: Cursor, name: str, status: os.stat_result) -> None:
        info = self._info(f"./{here.path(name)}", status)
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), info.name)
            if first != info.name:
                info.type, info.linkname = tarfile.LNKTYPE, first
                self._header(info)
                return
        if stat.S_ISREG(status.st_mode):
            self._file(here, name, info)
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=here.fd)
            self._header(info)
        elif kind := _SPECIAL.get(stat.S_IFMT(status.st_mode)):
            info.type = kind
            if kind != tarfile.FIFOTYPE:
                info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            self._attributes(info, here.at(name), follow=False)
            self._header(info)
        # A socket is made again by who listens on it; tar has no word for it.

    def _info(self, name: str, status: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = self._inside(status.st_uid), self._inside(status.st_gid)
        seconds, rest = divmod(status.st_mtime_ns, 1_000_000_000)
        info.mtime = seconds
        if rest:
            _pax(info)["mtime"] = f"{seconds}.{rest:09}"
        return info

    def _inside(self, number: int) -> int:
        return number - self.ids.base if self.ids.holds(number) else OVERFLOW

    def _attributes(self, info: tarfile.TarInfo, at: int | str, *, follow: bool) -> None:
        for name in os.listxattr(at, follow_symlinks=follow):
            if name in _ACLS:
                value = os.getxattr(at, name, follow_symlinks=follow)
                _pax(info)[f"SCHILY.acl.{_ACLS[name]}"] = self._acl(value)
            elif name == _CAPABILITY:
                value = self._capability(os.getxattr(at, name, follow_symlinks=follow))
                _pax(info)[f"SCHILY.xattr.{name}"] = os.fsdecode(value)
            elif name.startswith("user.") and "=" not in name:  # a pax key ends at the first =
                value = os.getxattr(at, name, follow_symlinks=follow)
                _pax(info)[f"SCHILY.xattr.{name}"] = os.fsdecode(value)

    def _acl(self, value: bytes) -> str:
        """The text of acl_to_text(3), with numbers."""
        words = []
        for tag, perm, who in struct.iter_unpack("<HHI", value[4:]):
            word, has_id = _TAGS[tag]
            if self.on_disk.holds(who) and not self.ids.holds(who):
                who += self.ids.base - self.on_disk.base
            bits = "".join(c if perm & b else "-" for b, c in ((4, "r"), (2, "w"), (1, "x")))
            words.append(f"{word}:{self._inside(who) if has_id else ''}:{bits}")
        return ",".join(words)

    def _capability(self, value: bytes) -> bytes:
        """As the VPS sees it: of its own root it is of revision 2."""
        magic = int.from_bytes(value[:4], "little")
        if magic & _CAP_REVISION != _CAP_3:
            return value
        root = self._inside(int.from_bytes(value[_CAP_2_SIZE:], "little"))
        if root:
            return value[:_CAP_2_SIZE] + root.to_bytes(4, "little")
        return (magic & ~_CAP_REVISION | _CAP_2).to_bytes(4, "little") + value[4:_CAP_2_SIZE]

    def _file(self, here: Cursor, name: str, info: tarfile.TarInfo) -> None:
        fd = os.open(name, _FILE, dir_fd=here.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                self._vanished(f"/{here.path(name)}")
                return
            self._attributes(info, fd, follow=True)
            segments = [(0, status.st_size)]
            if status.st_blocks * 512 < status.st_size:
                segments = _segments(fd, status.st_size)
            if len(segments) > MOST_SEGMENTS:
                self.warn(f"/{here.path(name)} has too many holes, left out")
                return
            head = b""
            info.size = sum(size for _, size in segments)
            if info.size < status.st_size:
                head = _sparse(info, segments, status.st_size)
            self._header(info)
            self._write(head)
            short = sum(self._copy(fd, offset, size) for offset, size in segments)
            self._pad(len(head) + sum(size for _, size in segments))
            if short:
                self.warn(f"/{here.path(name)} became {short} bytes shorter while it was read")
        finally:
            os.close(fd)

    def _copy(self, fd: int, offset: int, size: int) -> int:
        """So many bytes, whatever the file has by now; how many were missing."""
        while size:
            data = os.pread(fd, min(size, _CHUNK), offset)
            if not data:
                for _ in range(size // _CHUNK):
                    self._write(b"\0" * _CHUNK)
                self._write(b"\0" * (size % _CHUNK))
                return size
            self._write(data)
            size -= len(data)
            offset += len(data)
        return 0

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _pad(self, size: int) -> None:
        self._write(b"\0" * (-size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self.written += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.out, view) :]
        now = time.monotonic()
        if self.rate and (wait := self._begun + self.written / self.rate - now) > 0:
            time.sleep(wait)
        if self.progress and now - self._told > TICK:
            self._told = now
            self.progress(self.written, max(self.total, self.written + 1))


_SPECIAL = {
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def _pax(info: tarfile.TarInfo) -> dict[str, str]:
    assert isinstance(info.pax_headers, dict)
    return info.pax_headers


def _segments(fd: int, size: int) -> list[tuple[int, int]]:
    """(offset, bytes) of what is no hole (lseek(2), SEEK_DATA)."""
    found: list[tuple[int, int]] = []
    end = 0
    while end < size and len(found) <= MOST_SEGMENTS:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as err:
            if err.errno != errno.ENXIO:
                raise
            break
        if start < size:
            found.append((start, end - start))
    return found


def _sparse(info: tarfile.TarInfo, segments: list[tuple[int, int]], size: int) -> bytes:
    """The head of a file with holes, GNU tar's format 1.0 of pax: a map in front of the data."""
    info.pax_headers = {
        **info.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(size),
    }
    folder, _, name = info.name.rpartition("/")
    info.name = f"{folder}/GNUSparseFile.0/{name}"
    pieces = [*segments, (size, 0)]
    text = "".join(f"{number}\n" for number in (len(pieces), *(n for p in pieces for n in p)))
    data = text.encode()
    data += b"\0" * (-len(data) % tarfile.BLOCKSIZE)
    info.size += len(data)
    return data
