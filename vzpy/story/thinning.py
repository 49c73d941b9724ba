"""The upper layer of an overlay, made of a whole root: what the template's tree has too is taken
out of it, and what only the tree has is hidden by whiteouts (overlayfs(5))."""

from __future__ import annotations

import os
import stat

from vzpy.kernel.cursor import Cursor
from vzpy.reshift import Move

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import IdRange

_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ACL, _CAPABILITY = "system.posix_acl_", "security.capability"


def thin(upper: str, tree: str, template: IdRange, owner: IdRange) -> None:
    """upper     a copy of a whole root, which nobody uses
    template  ids of the tree's files; owner: the same files' ids in `upper`

    Files are compared by their content: a program of another version may have the same size and
    time. Raises OSError with the path below the top."""
    with Cursor(upper) as here, Cursor(tree) as there:
        try:
            _Thinner(here, there, Move(template, owner)).run()
        except OSError as err:
            name = os.path.basename(err.filename) if isinstance(err.filename, str) else ""
            raise OSError(err.errno, err.strerror, here.path(name)) from err


class _Thinner:
    def __init__(self, here: Cursor, there: Cursor, move: Move) -> None:
        self.here, self.there, self.move = here, there, move

    def run(self) -> None:
        """All of a directory, then those that are in it and in the tree, then itself again: one
        that has become empty goes, unless it differs itself."""
        levels: list[tuple[str, os.stat_result, list[str]]] = []
        name, status, todo = "", os.fstat(self.here.fd), self._entries()
        while True:
            if todo:
                levels.append((name, status, todo))
                name = todo.pop()
                self.here.down(name)
                self.there.down(name)
                status, todo = os.fstat(self.here.fd), self._entries()
                continue
            # what was taken out changed its times
            os.utime(self.here.fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            if not levels:
                return
            idle = not os.listdir(self.here.fd) and self._same_directory(status)
            self.here.up()
            self.there.up()
            if idle:
                os.rmdir(name, dir_fd=self.here.fd)
            name, status, todo = levels.pop()

    def _entries(self) -> list[str]:
        """Thin out the files; the directories that both have are returned."""
        both = []
        below = set(os.listdir(self.there.fd))
        with os.scandir(self.here.fd) as found:
            entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in found]
        for name, mine in entries:
            if name not in below:
                continue
            below.discard(name)
            its = os.stat(name, dir_fd=self.there.fd, follow_symlinks=False)
            if stat.S_ISDIR(mine.st_mode):
                if stat.S_ISDIR(its.st_mode):
                    both.append(name)
            # Of a file with several names all stay: they have to be one file.
            elif mine.st_nlink == 1 and self._same(name, mine, its):
                os.unlink(name, dir_fd=self.here.fd)
        for name in below:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.here.fd)
        return both

    def _same(self, name: str, mine: os.stat_result, its: os.stat_result) -> bool:
        if not self._same_owner(mine, its) or mine.st_mtime_ns != its.st_mtime_ns:
            return False
        if stat.S_ISLNK(mine.st_mode):
            here, there = self.here.fd, self.there.fd
            return os.readlink(name, dir_fd=here) == os.readlink(name, dir_fd=there)
        if not stat.S_ISREG(mine.st_mode):
            return mine.st_rdev == its.st_rdev
        if mine.st_size != its.st_size:
            return False
        ours = os.open(name, _READ, dir_fd=self.here.fd)
        try:
            theirs = os.open(name, _READ, dir_fd=self.there.fd)
            try:
                return self._same_attributes(ours, theirs) and _same_content(ours, theirs)
            finally:
                os.close(theirs)
        finally:
            os.close(ours)

    def _same_owner(self, mine: os.stat_result, its: os.stat_result) -> bool:
        owner = self.move.id(its.st_uid), self.move.id(its.st_gid)
        return (mine.st_mode, mine.st_uid, mine.st_gid) == (its.st_mode, *owner)

    def _same_directory(self, mine: os.stat_result) -> bool:
        its = os.fstat(self.there.fd)
        return (
            self._same_owner(mine, its)
            and mine.st_mtime_ns == its.st_mtime_ns
            and self._same_attributes(self.here.fd, self.there.fd)
        )

    def _same_attributes(self, mine: int, its: int) -> bool:
        moved = {}
        for name in _attributes(its):
            value = os.getxattr(its, name)
            if name.startswith(_ACL):
                value = self.move.acl(value)
            elif name == _CAPABILITY:
                value = self.move.capability(value)
            moved[name] = value
        return moved == {name: os.getxattr(mine, name) for name in _attributes(mine)}


def _attributes(fd: int) -> list[str]:
    kept = ("user.", _ACL, _CAPABILITY)
    return [name for name in os.listxattr(fd) if name.startswith(kept)]


def _same_content(mine: int, its: int) -> bool:
    while True:
        data = os.read(mine, _CHUNK)
        if data != os.read(its, _CHUNK):
            return False
        if not data:
            return True
