"""inotify(7): what changes in files and directories, also those of cgroup2, whose kernel calls a
changed counter a modification."""

from __future__ import annotations

import os

from vzpy.kernel.libc import libc, oserror

IN_MODIFY, IN_CREATE, IN_IGNORED, IN_ISDIR = 0x2, 0x100, 0x8000, 0x40000000
_IN_CLOEXEC, _IN_NONBLOCK = 0o2000000, 0o4000
_HEAD = 16  # bytes of a struct inotify_event before its name


def inotify_init() -> int:
    """A descriptor to read() events from, that never blocks. Raises OSError EMFILE."""
    fd: int = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
    if fd < 0:
        raise oserror()
    return fd


def add_watch(fd: int, path: str, mask: int) -> int:
    """The number of the watch; the same for the same file. Raises OSError ENOENT, ENOSPC."""
    wd: int = libc.inotify_add_watch(fd, os.fsencode(path), mask)
    if wd < 0:
        raise oserror(path)
    return wd


def rm_watch(fd: int, wd: int) -> None:
    """Absence is success."""
    libc.inotify_rm_watch(fd, wd)


def read(fd: int) -> list[tuple[int, int, str]]:
    """(watch, mask, name in the directory) of the events that wait."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        wd, mask, _, length = (
            int.from_bytes(data[i : i + 4], "little") for i in range(at, at + _HEAD, 4)
        )
        name = data[at + _HEAD : at + _HEAD + length].rstrip(b"\0")
        found.append((wd, mask, os.fsdecode(name)))
        at += _HEAD + length
    return found
