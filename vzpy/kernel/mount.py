"""Mounts by descriptor, and paths that cannot leave a root.

mount(2), open_tree(2), move_mount(2), fsopen(2), mount_setattr(2), openat2(2)."""

from __future__ import annotations

import _struct as struct
import os

from vzpy.kernel.libc import libc, oserror, syscall
from vzpy.kernel.numbers import NR

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC, FSPICK_EMPTY_PATH = 1, 8

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    if libc.mount(*(os.fsencode(s) for s in (source, target, fstype)), flags, data.encode()) < 0:
        raise oserror(target)


def umount2(target: str, flags: int = 0) -> None:
    if libc.umount2(os.fsencode(target), flags) < 0:
        raise oserror(target)


def open_tree(path: str, flags: int, dirfd: int = AT_FDCWD) -> int:
    """A descriptor on a mount; with OPEN_TREE_CLONE on a detached copy of it."""
    try:
        return syscall(NR["open_tree"], dirfd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC)
    except OSError as err:
        raise OSError(err.errno, err.strerror, path) from None


def move_mount(fd: int, to: str | int, dirfd: int = AT_FDCWD) -> None:
    """Attach the detached mount `fd` on a path, or on an opened directory or file."""
    flags = MOVE_MOUNT_F_EMPTY_PATH
    if isinstance(to, int):
        syscall(NR["move_mount"], fd, b"", to, b"", flags | MOVE_MOUNT_T_EMPTY_PATH)
        return
    try:
        syscall(NR["move_mount"], fd, b"", dirfd, os.fsencode(to), flags)
    except OSError as err:
        raise OSError(err.errno, err.strerror, to) from None


def fsmount(fstype: str, attr: int = 0, **options: str | None) -> int:
    """fsopen, fsconfig and fsmount in one: a detached mount of a new superblock.

    options  key=value, or key=None for a flag; the source is the type's name where none is given
    Raises OSError with the kernel's message where it gives one (read from the context)."""
    fs = syscall(NR["fsopen"], fstype.encode(), FSOPEN_CLOEXEC)
    try:
        try:
            _fs_options(fs, {"source": fstype, **options})
            syscall(NR["fsconfig"], fs, FSCONFIG_CMD_CREATE, None, None, 0)
            return syscall(NR["fsmount"], fs, FSMOUNT_CLOEXEC, attr)
        except OSError as err:
            raise OSError(err.errno, f"{fstype}: {_fs_message(fs) or err.strerror}") from None
    finally:
        os.close(fs)


def reconfigure(fd: int, **options: str | None) -> None:
    """Give the file system of a mount, of which `fd` is the root, other options: a remount that
    leaves the flags of the mount alone.

    Raises OSError; EINVAL where the type has no such option."""
    fs = syscall(NR["fspick"], fd, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
    try:
        _fs_options(fs, options)
        syscall(NR["fsconfig"], fs, FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(fs)


def _fs_options(fs: int, options: dict[str, str | None]) -> None:
    for key, value in options.items():
        if value is None:
            syscall(NR["fsconfig"], fs, FSCONFIG_SET_FLAG, key.encode(), None, 0)
        else:
            data = os.fsencode(value)
            syscall(NR["fsconfig"], fs, FSCONFIG_SET_STRING, key.encode(), data, 0)


def _fs_message(fs: int) -> str:
    """What the file system said: lines `e text` read from its context (fsopen(2))."""
    try:
        return os.read(fs, 4096).decode(errors="replace").strip().removeprefix("e ")
    except OSError:
        return ""


def mount_setattr(
    fd: int, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, userns: int = 0,
    recursive: bool = False,
) -> None:
    """Change the mount(s) behind a descriptor; userns goes with MOUNT_ATTR_IDMAP."""
    args = struct.pack("=4Q", attr_set, attr_clr, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(NR["mount_setattr"], fd, b"", flags, args, len(args))


def openat2(
    dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT
) -> int:
    """open(2) under rules: by default no `..`, absolute name or symlink leads out of dirfd."""
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    try:
        return syscall(NR["openat2"], dirfd, os.fsencode(path), how, len(how))
    except OSError as err:
        raise OSError(err.errno, err.strerror, path) from None
