"""A tree into a project, and out of it (ioctl_xfs_fsgetxattr(2)).

Files first and their directory after them: a tree whose top has the project is done, and one that
was cut short is walked again. The kernel sets the project of what can be opened; links, sockets,
fifos and device nodes inherit it at birth only, so they are born again in a directory that has it.
Without it they would count nowhere, and could not be renamed (EXDEV)."""

from __future__ import annotations

import _stat as stat
import errno
import os

from vzpy.kernel import quotactl as q
from vzpy.kernel.cursor import Cursor

_WORKSHOP = ".vzquota"  # in the top of the tree, while it is walked
_NEW = "new"
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


def attach(path: str, project: int) -> None:
    """Put a tree under a project, whatever it was under; with 0 under none. Raises OSError."""
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    before, workshop = os.fstat(top), -1
    try:
        if project:
            workshop = _workshop(top, project)
        _attach(top, project, os.fstat(top).st_dev, workshop)
        if project:
            os.rmdir(_WORKSHOP, dir_fd=top)
            os.utime(top, ns=(before.st_atime_ns, before.st_mtime_ns))
            _put(top, project, inherit=True)
    finally:
        os.close(top)
        if workshop >= 0:
            os.close(workshop)


def _workshop(top: int, project: int) -> int:
    try:
        os.mkdir(_WORKSHOP, 0o700, dir_fd=top)
    except FileExistsError:
        pass
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_WORKSHOP, flags, dir_fd=top)
    for name in os.listdir(fd):
        os.unlink(name, dir_fd=fd)
    _put(fd, project, inherit=True)
    return fd


def _attach(top: int, project: int, device: int, workshop: int) -> None:
    """All below a directory, however deep: a guest nests without end."""
    with Cursor(top) as here:
        levels = [_files(here.fd, project, device, workshop)]
        while levels:
            before, folders = levels[-1]
            if folders:
                try:
                    here.down(folders.pop())
                except OSError as err:
                    if err.errno not in _GONE:
                        raise
                else:
                    levels.append(_files(here.fd, project, device, workshop))
                continue
            if os.fstat(here.fd).st_mtime_ns != before.st_mtime_ns:  # of what was born again in it
                os.utime(here.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            levels.pop()
            if levels or not project:  # the top is last of all, by attach()
                _put(here.fd, project, inherit=bool(project))
            if levels:
                here.up()


def _files(
    folder: int, project: int, device: int, workshop: int
) -> tuple[os.stat_result, list[str]]:
    """Do what is no directory; returns what the directory was before, and those in it."""
    before, folders = os.fstat(folder), []
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
    for name, about in found:
        if about.st_dev != device or name == _WORKSHOP:
            continue
        if stat.S_ISDIR(about.st_mode):
            folders.append(name)
        elif stat.S_ISREG(about.st_mode):
            _put_file(folder, name, project)
        elif workshop >= 0 and about.st_nlink == 1:
            _bear_again(folder, name, about, workshop)
    return before, folders


def _put_file(folder: int, name: str, project: int) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except OSError as err:
        if err.errno in _GONE:
            return  # a living tree
        raise
    try:
        _put(fd, project, inherit=False)
    finally:
        os.close(fd)


def _bear_again(folder: int, name: str, about: os.stat_result, workshop: int) -> None:
    try:
        if stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(name, dir_fd=folder), _NEW, dir_fd=workshop)
        else:
            os.mknod(_NEW, about.st_mode, about.st_rdev, dir_fd=workshop)
    except OSError as err:
        if err.errno in _GONE:
            return
        raise
    os.chown(_NEW, about.st_uid, about.st_gid, dir_fd=workshop, follow_symlinks=False)
    if not stat.S_ISLNK(about.st_mode):
        os.chmod(_NEW, stat.S_IMODE(about.st_mode), dir_fd=workshop)
    os.utime(
        _NEW, ns=(about.st_atime_ns, about.st_mtime_ns), dir_fd=workshop, follow_symlinks=False
    )
    os.rename(_NEW, name, src_dir_fd=workshop, dst_dir_fd=folder)


def _put(fd: int, project: int, inherit: bool) -> None:
    xflags, now = q.fsgetxattr(fd)
    wanted = xflags & ~q.FS_XFLAG_PROJINHERIT | (q.FS_XFLAG_PROJINHERIT if inherit else 0)
    if (xflags, now) != (wanted, project):
        q.fssetxattr(fd, wanted, project)
