"""The root of a VPS as it is mounted on the host, by layout, and what is placed in one that runs.
What it sees from its birth is the mount plan (mountplan.py)."""

from __future__ import annotations

import errno
import os
import time

from vzpy.kernel import mount as m
from vzpy.kernel.proc import is_mounted as is_mounted
from vzpy.kernel.proc import mounts_below as mounts_below
from vzpy.kernel.proc import slurp
from vzpy.overlay import LOWER as LOWER
from vzpy.overlay import drop_lower as drop_lower
from vzpy.overlay import layers_of as layers_of
from vzpy.overlay import overlay as overlay
from vzpy.overlay import stacked as stacked

_BUSY_FOR_A_MOMENT = 0.5  # seconds that an unmount waits for who only looks
_DIR = os.O_DIRECTORY | os.O_PATH


# Host side


def layout_of(private: str) -> str:
    """The layout of a private area whose N.conf does not tell.

    What a guest can have made in its simfs root is not believed: the other areas are root's."""
    try:
        about = os.stat(private)
    except OSError:
        return "simfs"
    is_root_only = about.st_uid == 0 and not about.st_mode & 0o077
    if not is_root_only:
        return "simfs"
    if os.path.islink(f"{private}/tree") and os.path.isdir(f"{private}/upper"):
        return "overlay"
    return "image" if os.path.isfile(f"{private}/root.img") else "simfs"


def mount_overlay(tree: str, private: str, root: str, lower_ids: int) -> None:
    """VE_ROOT = the template's tree below VE_PRIVATE/upper (see overlay())."""
    fd = overlay(tree, private, lower_ids)
    try:
        m.move_mount(fd, root)
    finally:
        os.close(fd)


def mount_simfs(private: str, root: str, host_view: int) -> None:
    """VE_ROOT = VE_PRIVATE, shown to the host with the owners that the VPS sees.

    host_view  descriptor of a user namespace with the inverse map: what host root writes there
               belongs to the root of the VPS"""
    tree = m.open_tree(private, m.OPEN_TREE_CLONE)
    try:
        m.mount_setattr(tree, m.MOUNT_ATTR_IDMAP, userns=host_view)
        m.move_mount(tree, root)
    finally:
        os.close(tree)


def umount(root: str) -> None:
    """Unmount VE_ROOT with all that is mounted below it, deepest first. Absence is success.

    Raises OSError: EBUSY while a process of the host stands in it."""
    patience = time.monotonic() + _BUSY_FOR_A_MOMENT
    for target in reversed(mounts_below(root)):
        while True:
            try:
                m.umount2(target, m.UMOUNT_NOFOLLOW)
                break
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.EINVAL):  # it has gone meanwhile
                    break
                # Somebody may just be looking whether it is mounted, or hold our descriptors
                # between a fork and its exec.
                if err.errno != errno.EBUSY or time.monotonic() > patience:
                    raise
                time.sleep(0.005)


def umount_overlay(root: str) -> None:
    """umount() of an overlay: the kernel then writes back all of the file system beneath, whoever
    has dirtied it (ovl_sync_fs). Where that is much a process of its own does it, and nobody waits
    for it longer than a few seconds: the mount itself is gone at once.

    Raises OSError as umount()."""
    if _dirty() < _MUCH:
        umount(root)
        return
    real = os.path.realpath(root)
    for below in mounts_below(root):
        if below != real:
            umount(below)
    _left[:] = [pid for pid in _left if not _reaped(pid)]
    try:
        pid = os.posix_spawn(_UMOUNT, ["umount", "-i", real], {})
    except OSError:
        umount(root)
        return
    _left.append(pid)
    patience = time.monotonic() + _WRITING_BACK
    while not _reaped(pid):
        if time.monotonic() > patience and not is_mounted(root):
            return
        time.sleep(0.005)
    _left.remove(pid)
    umount(root)  # what could not be done raises its error


_UMOUNT = "/bin/umount"
_MUCH = 32 << 10  # KiB
_WRITING_BACK = 3.0  # seconds
_left: list[int] = []  # pids that are still at it


def _dirty() -> int:
    """KiB that wait to be written, or are being written, to whatever disk."""
    rows = (row.split() for row in slurp("/proc/meminfo").splitlines())
    return sum(int(row[1]) for row in rows if row[0] in (b"Dirty:", b"Writeback:"))


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True  # SIGCHLD is ignored, or somebody waits for all children


def detached(root: str, layout: str, private: str) -> tuple[int, list[tuple[str, int]]]:
    """What a VPS gets as its root: a detached clone of VE_ROOT, cut off from the host.

    Returns its descriptor, and (path below the root, descriptor) of each mount that has to be
    placed in it: action scripts may have mounted something below VE_ROOT. A simfs root is cloned
    from VE_PRIVATE, because VE_ROOT shows the host's view of the owners; so it does for an image,
    whose clone is for the caller to map. Without MS_PRIVATE what the VPS mounts would show below
    VE_ROOT on the host."""
    below: list[tuple[str, int]] = []
    if layout in ("simfs", "image"):
        tree = m.open_tree(private if layout == "simfs" else root, m.OPEN_TREE_CLONE)
        real = os.path.realpath(root)
        for target in mounts_below(root):
            if target != real:
                below.append((target[len(real) + 1 :], m.open_tree(target, m.OPEN_TREE_CLONE)))
    else:
        tree = m.open_tree(root, m.OPEN_TREE_CLONE | m.AT_RECURSIVE)
    for fd in (tree, *(fd for _, fd in below)):
        m.mount_setattr(fd, propagation=m.MS_PRIVATE, recursive=True)
    return tree, below


# In a mount namespace of a VPS that runs, as its root


def place(target: str, fd: int, is_dir: bool = True) -> None:
    """Attach a detached mount below the new root."""
    point = mount_point(target, is_dir)
    m.move_mount(fd, point)
    os.close(point)
    os.close(fd)


def mount_point(target: str, is_dir: bool = True) -> int:
    """A descriptor of the directory or file to mount on, made when it is missing. The root is the
    working directory.

    Raises OSError ELOOP when the template has a symbolic link there or on the way: what we mount
    must lie where everybody expects it."""
    rules = m.RESOLVE_IN_ROOT | m.RESOLVE_NO_SYMLINKS
    try:
        return m.openat2(m.AT_FDCWD, target, os.O_PATH, resolve=rules)
    except FileNotFoundError:
        if is_dir:
            os.mkdir(f"/{target}", 0o755)
        else:
            os.close(os.open(f"/{target}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        return m.openat2(m.AT_FDCWD, target, os.O_PATH, resolve=rules)
