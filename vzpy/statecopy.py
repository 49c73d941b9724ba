"""A directory tree copied with all that a file system keeps: owners, modes, times, attributes,
ACLs, hard links, holes, nodes.

Data is shared by reflink (FICLONE) where the file system can, else copied without its holes. The
source may be a guest's: no link is followed, and only regular files are opened."""

from __future__ import annotations

import errno
import os
import stat
import time

from vzpy.kernel.cursor import DIRECTORY, Cursor
from vzpy.kernel.syncfs import syncfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[int, int], None]  # bytes done, of how many

TICK = 0.1  # seconds between two reports of progress

_FICLONE = 0x40049409  # linux/fs.h, _IOW(0x94, 9, int)
_NO_REFLINK = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
_NO_COPY_RANGE = (*_NO_REFLINK, errno.EPERM, errno.EBADF)
_CHUNK = 1 << 24
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TARGET = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A file that was changed as late as this before it was read may change again within one tick of
# the kernel's coarse clock, and show the same time.
_SETTLED = 50_000_000  # ns


def measure(top: int | str) -> int:
    """Bytes on the disk below a directory: the total for Copy's progress."""
    total = 0
    with Cursor(top) as here:
        levels: list[list[str]] = []
        todo: list[str] | None = None
        while True:
            if todo is None:
                todo = []
                with os.scandir(here.fd) as entries:
                    for entry in entries:
                        status = entry.stat(follow_symlinks=False)
                        total += status.st_blocks * 512
                        if stat.S_ISDIR(status.st_mode):
                            todo.append(entry.name)
            if todo:
                here.down(todo.pop())
                levels.append(todo)
                todo = None
            elif levels:
                here.up()
                todo = levels.pop()
            else:
                return total


def settle(top: int | str) -> None:
    """Write back what is dirty there: a page that is written to through a mapping is noticed, and
    its file's time changed, only the first time after that."""
    with Cursor(top) as here:
        syncfs(".", here.fd)


def can_reflink(source: str, target: str) -> bool:
    """Whether a copy from one folder into another shares its data."""
    from fcntl import ioctl

    fds = []
    try:
        for folder in (source, target):
            fds.append(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        ioctl(fds[1], _FICLONE, fds[0])
        return True
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)


class Copy:
    """One pass over a tree.

    progress  called with (bytes done, total)
    before    a pass over the same source while it was still in use, whose target is of no other
              use: what has not changed since is linked from there instead of copied
    draft     this is such a pass

    Raises OSError with the path below the top: ESTALE when a directory was moved meanwhile."""

    def __init__(
        self,
        progress: Progress | None = None,
        total: int = 0,
        before: Copy | None = None,
        *,
        draft: bool = False,
    ) -> None:
        self._progress, self._total, self._before, self._draft = progress, total, before, draft
        self._done = 0
        self._told = time.monotonic()
        self._reflink = True
        self._target = -1
        # inode of the source -> time of its last change, inode of the copy
        self.seen: dict[int, tuple[int, int]] = {}

    def tree(self, source: int | str, target: str) -> None:
        """Fill the empty directory `target`; its own attributes become those of `source`."""
        anchors = f".vz-{os.urandom(8).hex()}"
        self.target = target
        os.mkdir(f"{target}/{anchors}", 0o700)
        links = os.open(f"{target}/{anchors}", DIRECTORY)
        earlier = Cursor(self._before.target) if self._before else None
        try:
            with Cursor(source) as here, Cursor(target) as there:
                try:
                    self._walk(here, there, earlier, links, anchors)
                except OSError as err:
                    where = here.path(_plain(err))
                    raise OSError(err.errno, err.strerror, where) from err
        finally:
            os.close(links)
            if earlier:
                earlier.close()

    def _walk(
        self, here: Cursor, there: Cursor, earlier: Cursor | None, links: int, anchors: str
    ) -> None:
        """Files of a directory, then the directories in it, then its own attributes."""
        levels: list[tuple[list[str], Cursor | None]] = []
        todo = self._entries(here, there, earlier, links)
        while True:
            if todo:
                name = todo.pop()
                os.mkdir(name, 0o700, dir_fd=there.fd)
                here.down(name)
                there.down(name)
                levels.append((todo, earlier))
                earlier = _down(earlier, name)
                todo = self._entries(here, there, earlier, links)
                continue
            if not levels:
                # By its name: btrfs shows only what was there when a directory was opened.
                for name in os.listdir(there.at(anchors)):
                    os.unlink(name, dir_fd=links)
                os.rmdir(anchors, dir_fd=there.fd)
            self.keep(here.fd, there.fd, os.fstat(here.fd), follow=True)
            if not levels:
                self._tell(0, last=True)
                return
            here.up()
            there.up()
            todo, above = levels.pop()
            if earlier:
                earlier.up()
            earlier = above

    def _entries(
        self, here: Cursor, there: Cursor, earlier: Cursor | None, links: int
    ) -> list[str]:
        """Copy all of a directory but the directories, whose names are returned."""
        todo = []
        with os.scandir(here.fd) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(entry.name)
                elif not self.wants(status):
                    pass
                elif status.st_nlink == 1:
                    self._entry(here, entry.name, status, there, entry.name, earlier)
                else:
                    self._linked(here, entry.name, status, there, earlier, links)
                self._tell(status.st_blocks * 512)
        return todo

    def _linked(
        self,
        here: Cursor,
        name: str,
        status: os.stat_result,
        there: Cursor,
        earlier: Cursor | None,
        links: int,
    ) -> None:
        """One of several names: the copy is linked from the first, by a name we know."""
        anchor = f"{status.st_dev}-{status.st_ino}"  # an overlay shows more than one device
        try:
            os.link(anchor, name, src_dir_fd=links, dst_dir_fd=there.fd, follow_symlinks=False)
            return
        except FileNotFoundError:
            self._entry(here, name, status, there, name, earlier)
        except OSError as err:
            if err.errno != errno.EMLINK:
                raise
            self._entry(here, name, status, there, name, None)
            os.unlink(anchor, dir_fd=links)
        os.link(name, anchor, src_dir_fd=there.fd, dst_dir_fd=links, follow_symlinks=False)

    def _entry(
        self,
        here: Cursor,
        name: str,
        status: os.stat_result,
        there: Cursor,
        new: str,
        earlier: Cursor | None,
    ) -> None:
        if earlier and self._unchanged(name, status, earlier, there, new):
            return
        now = time.time_ns()
        try:
            if stat.S_ISREG(status.st_mode):
                self._file(here.fd, name, status, there.fd, new)
            else:
                self._node(here, name, status, there, new)
        except OSError as err:  # of a descriptor, or an owner that is nobody's
            raise OSError(err.errno, err.strerror, name) from err
        if self._draft and status.st_ctime_ns < now - _SETTLED:
            made = os.stat(new, dir_fd=there.fd, follow_symlinks=False).st_ino
            self.seen[status.st_ino] = (status.st_ctime_ns, made)

    def _unchanged(
        self, name: str, status: os.stat_result, earlier: Cursor, there: Cursor, new: str
    ) -> bool:
        """Link what the pass before made of the same file, unless that has changed since."""
        assert self._before
        changed, made = self._before.seen.get(status.st_ino, (0, 0))
        if changed != status.st_ctime_ns:
            return False
        try:
            if os.stat(name, dir_fd=earlier.fd, follow_symlinks=False).st_ino != made:
                return False
            os.link(name, new, src_dir_fd=earlier.fd, dst_dir_fd=there.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def entry(self, here: Cursor, name: str, there: Cursor) -> None:
        """One entry that is no directory."""
        status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        if self.wants(status):
            self._entry(here, name, status, there, name, None)

    def wants(self, status: os.stat_result) -> bool:
        """Whether an entry that is no directory is copied at all."""
        return True

    def _file(
        self, source_dir: int, name: str, status: os.stat_result, target_dir: int, new: str
    ) -> None:
        # Nobody else reaches it: directories are open to others when all below them is done.
        mode = status.st_mode & 0o777
        source = os.open(name, _SOURCE, dir_fd=source_dir)
        try:
            target = os.open(new, _TARGET, mode, dir_fd=target_dir)
            try:
                if status.st_size:
                    self.data(source, target)
                self.keep(source, target, os.fstat(source), follow=True)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def data(self, source: int, target: int) -> None:
        """The bytes of an opened file into an empty one."""
        if self._reflink:
            from fcntl import ioctl

            try:
                ioctl(target, _FICLONE, source)
                return
            except OSError as err:
                if err.errno not in _NO_REFLINK:
                    raise
                self._reflink = False
        size = os.fstat(source).st_size
        os.ftruncate(target, size)
        end = 0
        while end < size:
            try:
                start = os.lseek(source, end, os.SEEK_DATA)
                end = os.lseek(source, start, os.SEEK_HOLE)
            except OSError as err:
                if err.errno == errno.ENXIO:  # a hole up to the end
                    return
                raise
            _copy_range(source, target, start, end)

    def _node(
        self, here: Cursor, name: str, status: os.stat_result, there: Cursor, new: str
    ) -> None:
        """A symlink, fifo, socket or device; a whiteout of overlayfs is a device 0:0."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=here.fd), new, dir_fd=there.fd)
        else:
            os.mknod(new, status.st_mode, status.st_rdev, dir_fd=there.fd)
        self.keep(here.at(name), there.at(new), status, follow=False)

    def keep(
        self, source: int | str, target: int | str, status: os.stat_result, *, follow: bool
    ) -> None:
        """All of an entry but its data. Another kind of copy may keep less, or for other owners."""
        copy_attributes(source, target, status, follow=follow)

    def _tell(self, size: int, last: bool = False) -> None:
        self._done += size
        if self._progress and (last or time.monotonic() - self._told > TICK):
            self._told = time.monotonic()
            total = max(self._total, self._done)
            self._progress(total if last else self._done, total)


def copy_file(source: str, target: str, progress: Progress | None = None) -> None:
    """One file, as `target`, which is not there yet."""
    copy = Copy(progress)
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        new = os.open(target, _TARGET, 0o600)
        try:
            copy.data(fd, new)
            attributes(fd, new)
        finally:
            os.close(new)
    finally:
        os.close(fd)


def _plain(err: OSError) -> str:
    """The last part of whatever name the failing call was given."""
    return os.path.basename(os.fsdecode(err.filename)) if isinstance(err.filename, str) else ""


def _down(earlier: Cursor | None, name: str) -> Cursor | None:
    if earlier:
        try:
            earlier.down(name)
        except OSError:
            return None  # it was not there, or no directory
    return earlier


def attributes(source: int, target: int) -> None:
    """All of an opened file or directory but its data."""
    copy_attributes(source, target, os.fstat(source), follow=True)


def copy_attributes(
    source: int | str, target: int | str, status: os.stat_result, *, follow: bool
) -> None:
    """Owner, then mode and attributes, which chown(2) takes away, then times."""
    own(target, status.st_uid, status.st_gid, status.st_mode, follow=follow)
    for name in os.listxattr(source, follow_symlinks=follow):
        value = os.getxattr(source, name, follow_symlinks=follow)
        os.setxattr(target, name, value, follow_symlinks=follow)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=follow)


def own(target: int | str, uid: int, gid: int, mode: int, *, follow: bool) -> None:
    """Owner and mode, where they are others yet: a change costs more than a look, the disk too."""
    now = os.stat(target, follow_symlinks=follow)
    other = (now.st_uid, now.st_gid) != (uid, gid)
    if other:
        os.chown(target, uid, gid, follow_symlinks=follow)
    if (other or now.st_mode != mode) and not stat.S_ISLNK(mode):
        os.chmod(target, stat.S_IMODE(mode))


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        count = min(end - start, _CHUNK)
        try:
            done = os.copy_file_range(source, target, count, start, start)
        except OSError as err:
            if err.errno not in _NO_COPY_RANGE:
                raise
            data = os.pread(source, min(count, 1 << 20), start)
            done = os.pwrite(target, data, start) if data else 0
        if not done:
            return  # it became shorter meanwhile
        start += done
