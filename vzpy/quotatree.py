"""A tree into a project, and out of it (ioctl_xfs_fsgetxattr(2)).

Files first and their directory after them: a tree whose top has the project is done, and one that
was cut short is walked again. The kernel sets the project of what can be opened; links, sockets,
fifos and device nodes inherit it at birth only, so they are born again in a directory that has it.
Without it they would count nowhere, and could not be renamed (EXDEV)."""

from __future__ import annotations

import errno
import os
import stat

from vzpy.kernel import quotactl as q

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


def _attach(folder: int, project: int, device: int, workshop: int) -> None:
    before = os.fstat(folder)
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
    for name, about in found:
        if about.st_dev != device or name == _WORKSHOP:
            continue
        is_dir = stat.S_ISDIR(about.st_mode)
        if not is_dir and not stat.S_ISREG(about.st_mode):
            if workshop >= 0 and about.st_nlink == 1:
                _bear_again(folder, name, about, workshop)
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags | (os.O_DIRECTORY if is_dir else 0), dir_fd=folder)
        except OSError as err:
            if err.errno in _GONE:
                continue  # a living tree
            raise
        try:
            if is_dir:
                _attach(fd, project, device, workshop)
            _put(fd, project, inherit=is_dir and bool(project))
        finally:
            os.close(fd)
    if os.fstat(folder).st_mtime_ns != before.st_mtime_ns:  # something was born again in it
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    if not project:
        _put(folder, 0, inherit=False)


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
