"""Subvolumes and their quota groups: ioctl(2) of btrfs (linux/btrfs.h, btrfs_tree.h)."""

from __future__ import annotations

import _struct as struct
import fcntl
import os

_SUBVOL_CREATE, _INO_LOOKUP, _TREE_SEARCH = 0x5000940E, 0xD0009412, 0xD0009411
_QGROUP_LIMIT = 0x8030942B
_ARGS = 4096  # bytes of the arguments of most
_ROOT_OBJECTID, _QUOTA_TREE = 256, 8
_STATUS_KEY, _INFO_KEY = 240, 242
_SEARCH = struct.Struct("=7Q3I4x4Q")
_ITEM = struct.Struct("=3Q2I")  # transid objectid offset type length
_LIMIT_MAX_RFER = 1 << 0
NO_LIMIT = 2**64 - 1


def subvolume(fd: int) -> int:
    """The id of the subvolume that a directory is the top of, 0 for one further down.

    Raises OSError: ENOTTY, no btrfs."""
    args = bytearray(struct.pack("=QQ", 0, _ROOT_OBJECTID) + bytes(_ARGS - 16))
    fcntl.ioctl(fd, _INO_LOOKUP, args)
    is_top = os.fstat(fd).st_ino == _ROOT_OBJECTID
    return int(struct.unpack_from("=Q", args)[0]) if is_top else 0


def create_subvolume(folder: int, name: str) -> None:
    # a bytearray: ioctl copies what cannot change, and no more than 1024 bytes of it
    fcntl.ioctl(folder, _SUBVOL_CREATE, bytearray(struct.pack("=q4088s", 0, os.fsencode(name))))


def _find(fd: int, kind: int, first: int, last: int) -> bytes | None:
    """The first item of a kind in the quota tree whose key ends in that range."""
    top = 2**64 - 1
    key = _SEARCH.pack(_QUOTA_TREE, 0, 0, first, last, 0, top, kind, kind, 1, 0, 0, 0, 0)
    args = bytearray(key + bytes(_ARGS - _SEARCH.size))
    try:
        fcntl.ioctl(fd, _TREE_SEARCH, args)
    except FileNotFoundError:
        return None  # no quota tree
    if not struct.unpack_from("=I", args, 64)[0]:
        return None
    length = _ITEM.unpack_from(args, _SEARCH.size)[4]
    start = _SEARCH.size + _ITEM.size
    return bytes(args[start : start + length])


def has_qgroups(fd: int) -> bool:
    """`btrfs quota enable` was done. Raises OSError: ENOTTY, no btrfs."""
    return _find(fd, _STATUS_KEY, 0, 2**64 - 1) is not None


def referenced(fd: int, subvolume: int) -> int:
    """Bytes that a subvolume's quota group counts, as of the last commit."""
    item = _find(fd, _INFO_KEY, subvolume, subvolume)
    return int(struct.unpack_from("=Q", item, 8)[0]) if item else 0


def limit(fd: int, subvolume: int, size: int) -> None:
    """Bytes that a subvolume may reference, NO_LIMIT for any number."""
    args = struct.pack("=6Q", subvolume, _LIMIT_MAX_RFER, size, 0, 0, 0)
    fcntl.ioctl(fd, _QGROUP_LIMIT, args)
