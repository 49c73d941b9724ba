"""The file systems of the node: idmapped mounts, overlay on them, quota of a directory tree."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile

from vzpy import config, image, ns, rootfs
from vzpy.doctor.probe import Failed, in_child
from vzpy.errors import VzError
from vzpy.kernel import libc, loop, proc
from vzpy.kernel import mount as m
from vzpy.kernel import process as p
from vzpy.kernel.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vzpy.doctor.probe import Probe
    from vzpy.model import NodePaths

_BASE = 0x7FFD0000  # the pool's last range
_IMAGE_SIZE = 8 << 20
_Q_GETINFO, _PRJQUOTA = 0x800005, 2

_REMEDY = {
    "ext4": (
        "On the unmounted file system: tune2fs -O project,quota -Q prjquota {source}; then mount"
        " it with the option prjquota (a root file system: do it from a rescue system or the"
        " initramfs, and put prjquota into /etc/fstab)"
    ),
    "xfs": (
        "Mount {source} with the option prjquota in /etc/fstab (a root file system:"
        " rootflags=prjquota on the kernel command line); a remount is not enough"
    ),
}
_OTHER_FS = "Put private areas on ext4 or xfs"


class Place:
    """The folder of private areas, or the nearest one above it that exists."""

    def __init__(self, paths: NodePaths) -> None:
        try:
            private = config.load_global(paths.etc).raw("VE_PRIVATE") or "/vz/private/"
        except VzError:
            private = os.environ.get("VZDIR", "/vz") + "/private/"
        path = os.path.dirname(private)
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        self.path = path
        self.source, self.fstype = proc.mount_of(path)

    def scratch(self, act: Callable[[str], object], todo: str = "") -> str:
        """Call act(FOLDER) in a child with mounts of its own; the folder is on this file system."""
        folder = tempfile.mkdtemp(prefix=".vz-doctor-", dir=self.path)

        def alone() -> object:
            p.unshare(p.CLONE_NEWNS)
            m.mount("none", "/", "none", m.MS_REC | m.MS_PRIVATE)
            return act(folder)

        try:
            return in_child(alone, todo)
        finally:
            shutil.rmtree(folder)


def probes(place: Place) -> Iterator[Probe]:
    where = place.path
    yield f"idmapped mount on {where}", True, lambda: _idmap(place)
    yield f"overlay on {where}", True, lambda: _overlay(place)
    yield f"project quota on {where}", False, lambda: _quota(place)
    yield f"image on {where}", False, lambda: _image(place)


def _idmap(place: Place) -> str:
    def act(folder: str) -> str:
        userns = ns.idmap_userns(b"0 %d 65536\n" % _BASE)
        tree = m.open_tree(folder, m.OPEN_TREE_CLONE)
        m.mount_setattr(tree, m.MOUNT_ATTR_IDMAP, userns=userns)
        if os.stat(tree).st_uid != _BASE:
            raise Failed("the owner does not change")
        return place.fstype

    return place.scratch(act, f"{place.fstype} has none here: use ext4, xfs, btrfs or tmpfs")


def _overlay(place: Place) -> str:
    """The very mount of a VPS: its template's tree idmapped, a file of it copied up."""

    def act(folder: str) -> str:
        for name in ("tree", "upper", "work", "root"):
            os.mkdir(f"{folder}/{name}")
        os.chown(f"{folder}/upper", _BASE, _BASE)
        with open(f"{folder}/tree/file", "w"):
            pass
        userns = ns.idmap_userns(b"0 %d 65536\n" % _BASE)
        rootfs.mount_overlay(f"{folder}/tree", folder, f"{folder}/root", userns)
        if os.stat(f"{folder}/root/file").st_uid != _BASE:
            raise Failed("the template's owners are not shifted")
        os.chmod(f"{folder}/root/file", 0o600)
        if not os.path.exists(f"{folder}/upper/file"):
            raise Failed("a changed file is not copied up")
        return ""

    return place.scratch(act, "Load the module overlay; VE_LAYOUT=simfs works without it")


def _image(place: Place) -> str:
    """An image made, and shown as a VPS gets it."""

    def act(folder: str) -> str:
        path = f"{folder}/image"
        try:
            image.make(path, image.Disk(_IMAGE_SIZE))
        except VzError as err:
            raise Failed(str(err).replace("\n", ": ")) from None
        tree = image.mount(path)
        m.mount_setattr(tree, m.MOUNT_ATTR_IDMAP, userns=ns.idmap_userns(b"0 %d 65536\n" % _BASE))
        if os.stat(tree).st_uid != _BASE:
            raise Failed("the owner does not change")
        device = loop.carrying(path)
        with open(f"/sys/block/{os.path.basename(loop.path_of(device))}/loop/dio") as file:
            return "direct I/O" if file.read().strip() == "1" else "through the page cache"

    return place.scratch(act, "Load the module loop; the other layouts work without it")


def _quota(place: Place) -> str:
    """quotactl_fd(Q_GETINFO): answers only where project quota is switched on."""
    fd = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    command = (_Q_GETINFO << 8 | _PRJQUOTA) & 0xFFFFFFFF
    try:
        libc.syscall(NR["quotactl_fd"], fd, command, 0, struct.pack("24x"))
    except OSError as err:
        remedy = _REMEDY.get(place.fstype, _OTHER_FS).format(source=place.source)
        if err.errno == errno.ESRCH:
            raise Failed(f"it is not switched on ({place.fstype})", remedy) from None
        if err.errno == errno.ENOSYS:
            raise Failed(f"{place.fstype} or this kernel has none", remedy) from None
        raise
    finally:
        os.close(fd)
    return place.fstype
