"""Layout image: the root of a VPS is a file system of its own, ext4 or xfs, in one file.

    VE_PRIVATE/root.img    the file, sparse unless it was asked for whole

Ids inside it are the VPS's own, 0 to 65535, whatever range it has on the host: VE_ROOT shows them
as they are, the VPS gets an idmapped clone. A guest reaches the file system through its mount
only, never the file or the device, so what the kernel reads there is what the kernel wrote. The
lock of kernel/loop.py keeps the file from being worked on twice."""

from __future__ import annotations

import _struct as struct
import fcntl
import os
from errno import EINVAL, ENOSPC

from vzpy.errors import Exit, VzError
from vzpy.kernel import loop
from vzpy.kernel import mount as m
from vzpy.kernel.proc import is_mounted
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXT4, XFS = "ext4", "xfs"
NAME = "root.img"
_EXT4_IOC_RESIZE_FS = 0x40086610  # fs/ext4/ext4.h, _IOW('f', 16, __u64)
_XFS_IOC_FSGROWFSDATA = 0x4010586E  # xfs_fs.h, _IOW('X', 110, struct xfs_growfs_data)
_XFS_IMAX_PCT = 127  # where the superblock has it (xfs_dsb)
_FITRIM = 0xC0185879  # linux/fs.h, _IOWR('X', 121, struct fstrim_range)
_PATIENCE = 5.0  # seconds: the last mount of a VPS that has just ended goes a moment later

# ext4: struct ext4_super_block at 1024, and where it has s_log_block_size, s_state,
# s_feature_ro_compat, and s_overhead_clusters, the file system's own blocks
_EXT4_SUPER, _EXT4_MAGIC = 1024, 0xEF53
_LOG_BLOCK, _STATE, _RO_COMPAT, _OVERHEAD = 24, 58, 100, 584
_EXT2_ERROR_FS = 2
_EXT4_RO_COMPAT_QUOTA = 0x0100
_QUOTA_OPTIONS = {"ext4": "usrquota,grpquota", "xfs": "uquota,gquota"}
_XFS_MAGIC = b"XFSB"


@record
class Disk:
    """What an image is to be.

    size   bytes
    fs     ext4 or xfs
    whole  all its blocks taken at once, instead of when they are written"""

    size: int
    fs: str = EXT4
    whole: bool = False

    @classmethod
    def of(cls, kib: int, modes: tuple[str, ...] = ()) -> Disk:
        """modes  the words after `image:`: plain and raw are whole, expanded is not"""
        fs = XFS if XFS in modes else EXT4
        return cls(kib * 1024 // loop.BLOCK * loop.BLOCK, fs, "plain" in modes or "raw" in modes)


def path_of(private: str) -> str:
    return f"{private}/{NAME}"


def make(path: str, disk: Disk) -> None:
    """A new image with an empty file system. Raises VzError 151, 46."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, disk.size)
            _run(_MKFS[disk.fs], path, Exit.IMAGE_CREATE)
            if disk.whole:  # mkfs has given back what it does not use
                os.posix_fallocate(fd, 0, disk.size)
        finally:
            os.close(fd)
    except OSError as err:
        code = Exit.FS_NO_DISK_SPACE if err.errno == ENOSPC else Exit.IMAGE_CREATE
        raise VzError.of("Unable to create the image", err, code) from err


def new(path: str, disk: Disk) -> int:
    """A new image, mounted and really empty: a detached mount. Raises VzError 151, 152, 46."""
    make(path, disk)
    try:
        root = mount(path)
    except OSError as err:
        raise VzError.of(f"Cannot mount the image {path}", err, Exit.IMAGE_MOUNT) from err
    if disk.fs == EXT4:
        os.rmdir("lost+found", dir_fd=root)  # e2fsck makes it when there is something for it
    return root


# Root inside has no CAP_SYS_RESOURCE here, so blocks kept for root are lost: -m 0. Block and sector
# size are those of the devices.
_MKFS = {
    EXT4: ("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(loop.BLOCK), "-m", "0"),
    XFS: ("mkfs.xfs", "-q", "-f", "-s", f"size={loop.BLOCK}"),
}
_PACKAGE = {"mkfs.xfs": "xfsprogs"}


def _run(command: tuple[str, ...], path: str, code: int, fine: tuple[int, ...] = (0,)) -> str:
    """Run a program on an image; its output. Raises VzError with its last words."""
    from shutil import which
    from subprocess import DEVNULL, PIPE, STDOUT, run

    name = command[0]
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    program = which(name, path=search)
    if program is None:
        package = _PACKAGE.get(name, "e2fsprogs")
        raise VzError(f"{name} is not installed", code, hint=f"apt-get install {package}")
    done = run([program, *command[1:], path], stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
               env={"LC_ALL": "C"}, check=False)
    text = done.stdout.decode(errors="replace").strip()
    if done.returncode not in fine:
        raise VzError(f"{name} {path} failed [{done.returncode}]", code, hint=text)
    return text


def fs_of(path: str) -> str:
    """ext4 or xfs, by the superblock. Raises OSError EINVAL."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(_EXT4_SUPER + 1024)
    if head.startswith(_XFS_MAGIC):
        return XFS
    whole = len(head) == _EXT4_SUPER + 1024
    if whole and struct.unpack_from("<H", head, _EXT4_SUPER + 56)[0] == _EXT4_MAGIC:
        return EXT4
    raise OSError(EINVAL, "neither ext4 nor xfs", path)


def has_errors(path: str) -> bool:
    """An ext4 that has met an error marks itself."""
    return fs_of(path) == EXT4 and bool(_word(path, _STATE) & _EXT2_ERROR_FS)


def check(path: str) -> None:
    """Repair what can be repaired without asking. Raises VzError 152, OSError EBUSY."""
    file = loop.lock(path, _PATIENCE)
    try:
        _run(("e2fsck", "-p"), path, Exit.IMAGE_MOUNT, (0, 1))
    finally:
        os.close(file)


def usage(path: str, root: str) -> tuple[int, int]:
    """Bytes and inodes in use; of an ext4 that is not mounted what it had at its last umount.

    Raises OSError."""
    if is_mounted(root):
        now = os.statvfs(root)
        return (now.f_blocks - now.f_bfree) * now.f_frsize, now.f_files - now.f_ffree
    if fs_of(path) != EXT4:
        raise OSError(EINVAL, "not known of one that is not mounted", path)
    with open(path, "rb", buffering=0) as file:
        head = file.read(_EXT4_SUPER + 1024)[_EXT4_SUPER:]
    inodes, blocks, _, free_blocks, free_inodes, _, log_block = struct.unpack_from("<7I", head)
    used = blocks - struct.unpack_from("<I", head, _OVERHEAD)[0] - free_blocks
    return used * (1024 << log_block), inodes - free_inodes


def drop_quota(path: str) -> None:
    """Of an ext4 image that counts, as mount() made it, for a kernel that cannot."""
    if fs_of(path) == EXT4 and _has_quota(path):
        _tune(path, "-O", "^quota")


def _has_quota(path: str) -> bool:
    return bool(_word(path, _RO_COMPAT) & _EXT4_RO_COMPAT_QUOTA)


def _word(path: str, offset: int) -> int:
    """32 bits of the superblock of an ext4."""
    with open(path, "rb", buffering=0) as file:
        file.seek(_EXT4_SUPER + offset)
        return int.from_bytes(file.read(4), "little")


def _tune(path: str, *words: str) -> None:
    file = loop.lock(path, _PATIENCE)
    try:
        _run(("tune2fs", *words), path, Exit.IMAGE_MOUNT)
    finally:
        os.close(file)


def mount(
    path: str, options: str = "", read_only: bool = False, quota: bool = False
) -> int:
    """The file system of an image: a detached mount, gone with its descriptor, and the loop device
    with it.

    options  of N.conf, MOUNT_OPTS: comma-separated
    quota    of its users and groups
    Raises OSError; ENOENT when there is no image."""
    if quota:
        options = f"{options},{_QUOTA_OPTIONS[fs_of(path)]}"
        if fs_of(path) == EXT4 and not _has_quota(path):
            _tune(path, "-O", "quota", "-Q", "usrquota,grpquota")
    device = _device(path)
    try:
        attr, given = parsed(options)
        fs = fs_of(path)
        if fs == XFS:
            given["nouuid"] = None  # a copy, or a snapshot, may be mounted too
        attr |= m.MOUNT_ATTR_NODEV | (m.MOUNT_ATTR_RDONLY if read_only else 0)
        return m.fsmount(fs, attr, source=loop.path_of(device), **given)
    finally:
        os.close(device)


# Options that are no file system's but a mount's (mount_setattr(2)).
_OF_A_MOUNT = {
    "defaults": 0, "rw": 0, "relatime": 0, "dev": 0, "suid": 0, "exec": 0, "atime": 0,
    "nosuid": m.MOUNT_ATTR_NOSUID, "nodev": m.MOUNT_ATTR_NODEV, "noexec": m.MOUNT_ATTR_NOEXEC,
    "noatime": m.MOUNT_ATTR_NOATIME, "strictatime": m.MOUNT_ATTR_STRICTATIME,
    "nodiratime": m.MOUNT_ATTR_NODIRATIME,
}  # fmt: skip


def parsed(options: str) -> tuple[int, dict[str, str | None]]:
    """Options as mount(8) takes them, as attributes of a mount and options of its file system."""
    attr, given = 0, {}
    for word in filter(None, options.split(",")):
        if word in _OF_A_MOUNT:
            attr |= _OF_A_MOUNT[word]
        else:
            key, equals, value = word.partition("=")
            given[key] = value if equals else None
    return attr, given


class shown:
    """`with shown(path, root) as directory:` the file system of an image, at VE_ROOT where it is
    mounted, else for as long as the block. Raises OSError."""

    def __init__(self, path: str, root: str) -> None:
        self._fd = -1
        self._root = root
        if not is_mounted(root):
            self._fd = mount(path)
            self._root = f"/proc/self/fd/{self._fd}/."

    def __enter__(self) -> str:
        return self._root

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _device(path: str) -> int:
    """A new loop device, or the one that has the file: a mount of it may live on in a namespace
    of the host, and then it is the same file system that is mounted again."""
    try:
        return loop.carrying(path)
    except OSError:
        pass
    file = loop.lock(path, _PATIENCE)
    try:
        return loop.attach(file)
    finally:
        os.close(file)


def grow(path: str, root: str, size: int) -> None:
    """Let an image that is mounted grow to `size` bytes: the file, its device, its file system.

    root  a directory in it
    Raises OSError: EPERM without CAP_SYS_RESOURCE, which ext4 asks for; the image is as before."""
    before = os.stat(path)
    fs = fs_of(path)
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = loop.below(root)
        try:
            _lengthen(path, before, size)
            loop.refresh_size(device)
            try:
                if fs == XFS:
                    fcntl.ioctl(top, _XFS_IOC_FSGROWFSDATA, _xfs_growth(path, size))
                else:
                    blocks = size // (1024 << _word(path, _LOG_BLOCK))
                    fcntl.ioctl(top, _EXT4_IOC_RESIZE_FS, struct.pack("=Q", blocks))
            except OSError as err:
                os.truncate(path, before.st_size)
                loop.refresh_size(device)
                raise OSError(err.errno, err.strerror, path) from None
        finally:
            os.close(device)
    finally:
        os.close(top)


def _lengthen(path: str, before: os.stat_result, size: int) -> None:
    """One that has all its blocks keeps to that."""
    if before.st_blocks * 512 < before.st_size:
        os.truncate(path, size)
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, before.st_size, size - before.st_size)
    finally:
        os.close(fd)


def _xfs_growth(path: str, size: int) -> bytes:
    """struct xfs_growfs_data: blocks, and how much of it may be inodes, which stays."""
    with open(path, "rb", buffering=0) as file:
        head = file.read(512)
    block = struct.unpack_from(">I", head, 4)[0]
    return struct.pack("=QIxxxx", size // block, head[_XFS_IMAX_PCT])


def grow_offline(path: str, size: int) -> None:
    """The same for an ext4 image that is not mounted, by e2fsprogs. Not safe from a power failure,
    as grow() is. Raises VzError 154, OSError EBUSY."""
    file = loop.lock(path, _PATIENCE)
    try:
        _lengthen(path, os.fstat(file), size)
        _run(("e2fsck", "-f", "-p"), path, Exit.IMAGE_RESIZE, (0, 1))
        _run(("resize2fs",), path, Exit.IMAGE_RESIZE)
    finally:
        os.close(file)


def trim(root: str) -> None:
    """fstrim(8): the blocks that the file system does not use become holes of the file.

    root  a directory in it. Raises OSError."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(top, _FITRIM, struct.pack("=3Q", 0, 2**64 - 1, 0))
    finally:
        os.close(top)


def duplicate(path: str, new: str, copy: Callable[[int, int], None]) -> None:
    """Copy an image that is not in use.

    copy  called with the opened file and the empty new one
    Raises OSError EBUSY, ENOSPC."""
    source = loop.lock(path, _PATIENCE)
    try:
        target = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            copy(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)
