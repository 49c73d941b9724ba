"""Disk quota on btrfs: the quota group of the private area's subvolume. It has a hard limit of
space, and nothing else: no soft limit, no inodes, no users; df shows the whole disk."""

from __future__ import annotations

import errno
import os

from vzpy.kernel import btrfs
from vzpy.kernel.quotactl import Dqblk
from vzpy.kernel.syncfs import syncfs

REMEDY = "`btrfs quota enable` on it is missing"
HARD_ONLY = "btrfs: hard limit of space only"


def is_btrfs(fd: int) -> bool:
    try:
        btrfs.subvolume(fd)
    except OSError as err:
        if err.errno == errno.ENOTTY:
            return False
        raise
    return True


def is_btrfs_path(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_btrfs(fd)
    finally:
        os.close(fd)


def is_enabled(fd: int) -> bool:
    return btrfs.has_qgroups(fd)


def ensure(path: str) -> int:
    """The subvolume of a tree; an empty directory becomes one. 0 when the tree is another's part,
    which cannot be limited."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if found := btrfs.subvolume(fd):
            return found
        if os.listdir(fd):
            return 0
        about = os.fstat(fd)
    finally:
        os.close(fd)
    parent, name = os.path.split(path)
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.rmdir(path)
        btrfs.create_subvolume(above, name)
        os.chown(path, about.st_uid, about.st_gid)
        os.chmod(path, about.st_mode & 0o7777)
    finally:
        os.close(above)
    return ensure(path)


def read(fd: int, subvolume: int) -> Dqblk:
    """What it counts is as of the last commit, so that is made first."""
    syncfs(".", fd)
    return Dqblk(curspace=btrfs.referenced(fd, subvolume))


def unlimit(fd: int, subvolume: int) -> None:
    """Absence, of a subvolume that was removed, is success."""
    try:
        limit(fd, subvolume, 0)
    except FileNotFoundError:
        pass


def limit(fd: int, subvolume: int, kib: int) -> None:
    """0 for no limit."""
    btrfs.limit(fd, subvolume, kib << 10 if kib else btrfs.NO_LIMIT)
