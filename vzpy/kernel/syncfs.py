"""syncfs(2): all of a file system to the disk, before a name makes it count."""

from __future__ import annotations

import os

from vzpy.kernel.libc import libc, oserror


def syncfs(path: str, dir_fd: int | None = None) -> None:
    """Of the file system that a directory lies on; "." with a descriptor, which may be O_PATH.

    Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if libc.syncfs(fd) < 0:
            raise oserror(path)
    finally:
        os.close(fd)
