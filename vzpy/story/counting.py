"""Which project, that is whose disk quota, counts what snapshots keep (ioctl_xfs_fsgetxattr(2)).

What a VPS sees counts for it. A copy that only the host can see does not: the VPS could not give
that room back."""

from __future__ import annotations

import os
import stat

from vzpy.kernel import btrfs
from vzpy.kernel import quotactl as q
from vzpy.kernel.cursor import Cursor

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def project_of(path: str) -> int:
    """The project of a directory, 0 for none."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return q.fsgetxattr(fd)[1]
    except OSError:
        return 0  # not on this file system
    finally:
        os.close(fd)


def mkdir_in(private: str, path: str) -> None:
    """A directory that is counted as the private area is."""
    os.mkdir(path, 0o700)
    put(path, project_of(private))


def mkdir_in_place_of(private: str, path: str) -> None:
    """One that will be the private area: on btrfs a subvolume, by which its quota counts."""
    above, name = os.path.split(path)
    with Cursor(private) as old, Cursor(above) as folder:
        try:
            is_subvolume = bool(btrfs.subvolume(old.fd))
        except OSError:
            is_subvolume = False  # another file system
        if is_subvolume:
            btrfs.create_subvolume(folder.fd, name)
            os.chmod(path, 0o700)
            return
    mkdir_in(private, path)


def put(path: str, project: int) -> None:
    """What is made in a directory from now on counts there."""
    if project_of(path) != project:
        with Cursor(path) as here:
            _put(here.fd, project, is_directory=True)


def put_tree(top: str, project: int) -> None:
    """All of a layer counts there from now on, but for links and nodes, which take no room of their
    own and cannot be opened. Raises OSError."""
    with Cursor(top) as here:
        levels: list[list[str]] = []
        todo = _entries(here, project)
        while True:
            if todo:
                here.down(todo.pop())
                levels.append(todo)
                todo = _entries(here, project)
                continue
            _put(here.fd, project, is_directory=True)
            if not levels:
                return
            here.up()
            todo = levels.pop()


def _entries(here: Cursor, project: int) -> list[str]:
    """Put the files of a directory; the directories in it are returned."""
    todo = []
    for name in os.listdir(here.fd):
        mode = os.stat(name, dir_fd=here.fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            todo.append(name)
        elif stat.S_ISREG(mode):
            fd = os.open(name, _FILE, dir_fd=here.fd)
            try:
                _put(fd, project, is_directory=False)
            finally:
                os.close(fd)
    return todo


def _put(fd: int, project: int, *, is_directory: bool) -> None:
    xflags = q.fsgetxattr(fd)[0] & ~q.FS_XFLAG_PROJINHERIT
    inherit = q.FS_XFLAG_PROJINHERIT if project and is_directory else 0
    q.fssetxattr(fd, xflags | inherit, project)
