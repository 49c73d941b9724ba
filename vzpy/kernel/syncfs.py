"""Files and file systems to the disk, before a name makes them count: syncfs(2), fsync(2)."""

from __future__ import annotations

import os

from vzpy.kernel.libc import libc, oserror

_FEW = 32


def syncfs(path: str, dir_fd: int | None = None) -> None:
    """Of the file system that a directory lies on; "." with a descriptor, which may be O_PATH.

    Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if libc.syncfs(fd) < 0:
            raise oserror(path)
    finally:
        os.close(fd)


def fsync(path: str) -> None:
    """Of a file or directory, by its name; no link is followed. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(top: str) -> None:
    """A tree that nobody is changing, and its name.

    File by file while they are few: syncfs(2) waits for all that anybody is writing. The names of
    new files go with their contents (ext4, xfs), or with their directory's (btrfs).
    Raises OSError."""
    files = _files(top)
    if files is None:
        syncfs(top)
    else:
        for path in files:
            fsync(path)
    fsync(os.path.dirname(top))


def _files(top: str) -> list[str] | None:
    """The regular files below a directory; None when there are many."""
    found: list[str] = []
    folders = [top]
    seen = 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    found.append(entry.path)
        if seen > _FEW:
            return None
    return found
