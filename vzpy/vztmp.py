"""The deletion staging area: what is destroyed moves aside at once and is removed later.

    python3 -IS vztmp.py STAGING      removes what lies there; one of these at a time

A private area may hold millions of files, and its owner may have made it to hurt: links that lead
out, directories nested without end. So nothing is ever followed, and no directory is entered by
its old path: each is first moved into the staging entry, which only root can reach. That also
keeps us on this side of every mount, since the kernel refuses to move a mount point (EBUSY).
The program imports nothing of this package: it runs detached, from this file alone."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "vzctl-rm-me."
LOCK = "rm.lck"
_TRIES = 5
# linux/fs.h: struct fsxattr, whose first word is its flags
_FS_IOC_FSGETXATTR, _FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR_SIZE, _FS_XFLAG_PROJINHERIT = 28, 0x200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def staging(path: str) -> str:
    """The staging area for a path: vztmp at the root of its file system, as it is mounted here."""
    from vzpy.kernel.proc import mount_at  # the remover, a program of this file alone, has none

    parent = os.path.dirname(os.path.realpath(path))
    return os.path.join(mount_at(parent)[0], "vztmp")


def move(path: str, area: str, announce: Callable[[str], None]) -> str:
    """Move a tree into an entry of its own in the staging area; returns where it is now.

    announce   called with the path of the entry before anything moves
    Raises OSError: EXDEV when `path` is a mount point's or the area is on another mount, EPERM
    when somebody else than root could write to the area."""
    for _ in range(_TRIES):
        entry = _new_entry(area)
        announce(entry)
        try:
            os.rename(path, f"{entry}/0")
            return f"{entry}/0"
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            # The remover took the entry while it was empty.
        except OSError:
            os.rmdir(entry)
            raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), area)


def _new_entry(area: str) -> str:
    try:
        os.mkdir(area, 0o700)
    except FileExistsError:
        pass
    about = os.lstat(area)
    if about.st_uid != os.geteuid() or about.st_mode & 0o170022 != 0o040000:
        raise PermissionError(errno.EPERM, "not a directory that only root writes to", area)
    entry = f"{area}/{PREFIX}{os.urandom(3).hex()}"
    os.mkdir(entry, 0o700)
    return entry


def sweep(area: str) -> None:
    """Start the removal of all that lies in a staging area, and do not wait for it.

    The remover is nobody's child that we would have to reap, holds none of our descriptors, and
    outlives us. Whatever stops it, the next one goes on. A shell lets go of it: a fork of ours
    would cost the more, the larger we are."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    command = [sys.executable, "-IS", os.path.abspath(__file__), area]
    shell = ["sh", "-c", '"$@" &', "sh", *command]
    pid = os.posix_spawn("/bin/sh", shell, {}, file_actions=null, setsid=True)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored


def remove(path: str) -> None:
    """Remove a tree where it is, now. Absence is success.

    Raises OSError for the first thing that cannot be removed, having removed the rest."""
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)
        return
    aside = f".{PREFIX}{os.urandom(3).hex()}"
    failures = []
    try:
        _make(aside, top)
        _take_all(f"{path}/{aside}")
        for number, name in enumerate(set(os.listdir(top)) - {aside}):
            try:
                os.rename(name, f"{aside}/{number}", src_dir_fd=top, dst_dir_fd=top)
            except OSError as err:
                failures.append(OSError(err.errno, err.strerror, f"{path}/{name}"))
        failures += _empty(f"{path}/{aside}")
        if failures:
            raise failures[0]
        os.rmdir(aside, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _take_all(folder: str) -> None:
    """Let it take what is under another disk quota, or it would be refused (EXDEV): in a private
    area folders inherit the project of the VPS, and some have had that taken away."""
    fd = os.open(folder, _DIRECTORY)
    try:
        about = bytearray(_FSXATTR_SIZE)
        fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, about)
        flags = int.from_bytes(about[:4], sys.byteorder)
        if flags & _FS_XFLAG_PROJINHERIT:
            about[:4] = (flags & ~_FS_XFLAG_PROJINHERIT).to_bytes(4, sys.byteorder)
            fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, bytes(about))
    except OSError:
        pass  # a file system without projects
    finally:
        os.close(fd)


def _make(name: str, top: int) -> None:
    """mkdir(2) in a directory whose contents are given up; a full disk is given room by them."""
    while True:
        try:
            os.mkdir(name, 0o700, dir_fd=top)
            return
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EDQUOT) or not _spare(top):
                raise


def _spare(top: int) -> bool:
    """Remove one thing below a directory: the first that is found; False when there is none."""
    fd = os.dup(top)
    try:
        while names := os.listdir(fd):
            name = names[0]
            try:
                os.unlink(name, dir_fd=fd)
                return True
            except IsADirectoryError:
                pass
            try:
                os.rmdir(name, dir_fd=fd)
                return True
            except OSError as err:
                if err.errno != errno.ENOTEMPTY:
                    return False
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        return False
    finally:
        os.close(fd)


def _empty(entry: str) -> list[OSError]:
    """Remove all that is in a directory which only root can reach; what could not be removed."""
    failures: list[OSError] = []
    top = os.open(entry, _DIRECTORY)
    try:
        pending = os.listdir(top)
        numbers = _numbers_from(pending)
        while pending:
            name = pending.pop()
            try:
                _take(top, name, pending, numbers, failures)
            except OSError as err:
                failures.append(OSError(err.errno, err.strerror, f"{entry}/{name}"))
    finally:
        os.close(top)
    return failures


def _numbers_from(names: list[str]) -> Iterator[str]:
    """Names that are still free in a directory with these."""
    number = max((int(n) for n in names if n.isdigit()), default=0)
    while True:
        number += 1
        yield str(number)


def _take(
    top: int, name: str, pending: list[str], numbers: Iterator[str], failures: list[OSError]
) -> None:
    """Remove one thing that lies in `top`. Directories in it move up beside it, into `pending`:
    so neither depth nor length of a path matters."""
    try:
        os.unlink(name, dir_fd=top)
        return
    except IsADirectoryError:
        pass
    # A mount point would not move: what is opened next is on the same mount as `top`.
    mine = next(numbers)
    os.rename(name, mine, src_dir_fd=top, dst_dir_fd=top)
    fd = os.open(mine, _DIRECTORY, dir_fd=top)
    try:
        for _ in range(3):  # a directory that shrinks while it is read may hide entries once
            before = len(failures)
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            moved = next(numbers)
                            os.rename(entry.name, moved, src_dir_fd=fd, dst_dir_fd=top)
                            pending.append(moved)
                        else:
                            os.unlink(entry.name, dir_fd=fd)
                    except OSError as err:
                        failures.append(OSError(err.errno, err.strerror, entry.name))
            try:
                os.rmdir(mine, dir_fd=top)
                return
            except OSError as err:
                if err.errno != errno.ENOTEMPTY or len(failures) > before:
                    raise
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    finally:
        os.close(fd)


def remove_entries(area: str) -> list[OSError]:
    """Remove all entries of a staging area, unless another process is at it; what stayed.

    One that comes while we work leaves its entry to us: so look again after unlocking."""
    failures: list[OSError] = []
    given_up: set[str] = set()
    while waiting := _entries(area) - given_up:
        lock = os.open(f"{area}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in waiting:
                failed = _empty(f"{area}/{name}")
                failures += failed
                try:
                    os.rmdir(f"{area}/{name}")
                except OSError as err:
                    # Nothing failed and it is not empty: something was moved in just now.
                    if failed or err.errno != errno.ENOTEMPTY:
                        given_up.add(name)
        except BlockingIOError:
            break
        finally:
            os.close(lock)
    return failures


def _entries(area: str) -> set[str]:
    try:
        return {name for name in os.listdir(area) if name.startswith(PREFIX)}
    except FileNotFoundError:
        return set()


if __name__ == "__main__":
    os.nice(19)
    os.chdir("/")
    sys.exit(1 if remove_entries(sys.argv[1]) else 0)
