"""Layout image: the root of a VPS is a file system of its own, ext4 or xfs, in one file.

    VE_PRIVATE/root.img    the file, sparse unless it was asked for whole

Ids inside it are the VPS's own, 0 to 65535, whatever range it has on the host: VE_ROOT shows them
as they are, the VPS gets an idmapped clone. A guest reaches the file system through its mount
only, never the file or the device, so what the kernel reads there is what the kernel wrote. The
lock of kernel/loop.py keeps the file from being worked on twice."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOENT, ENOSPC

from vzpy.errors import Exit, VzError
from vzpy.kernel import loop
from vzpy.kernel import mount as m
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXT4, XFS = "ext4", "xfs"
NAME = "root.img"
_PATIENCE = 5.0  # seconds: the last mount of a VPS that has just ended goes a moment later

# ext4: struct ext4_super_block at 1024
_EXT4_SUPER, _EXT4_MAGIC = 1024, 0xEF53
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
            if disk.whole:
                os.posix_fallocate(fd, 0, disk.size)
            else:
                os.ftruncate(fd, disk.size)
        finally:
            os.close(fd)
    except OSError as err:
        code = Exit.FS_NO_DISK_SPACE if err.errno == ENOSPC else Exit.IMAGE_CREATE
        raise VzError.of("Unable to create the image", err, code) from err
    _run(_MKFS[disk.fs], path, Exit.IMAGE_CREATE)


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


def mount(path: str, options: str = "", read_only: bool = False) -> int:
    """The file system of an image: a detached mount, gone with its descriptor, and the loop device
    with it.

    options  of N.conf, MOUNT_OPTS: comma-separated
    Raises OSError; ENOENT when there is no image."""
    if not os.path.exists(path):
        raise OSError(ENOENT, "there is no image", path)
    device = _device(path)
    try:
        words = [word for word in options.split(",") if word and word != "defaults"]
        pairs = (word.partition("=") for word in words)
        given: dict[str, str | None] = {key: value if eq else None for key, eq, value in pairs}
        fs = fs_of(path)
        if fs == XFS:
            given["nouuid"] = None  # a copy, or a snapshot, may be mounted too
        attr = m.MOUNT_ATTR_NODEV | (m.MOUNT_ATTR_RDONLY if read_only else 0)
        return m.fsmount(fs, attr, source=loop.path_of(device), **given)
    finally:
        os.close(device)


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
