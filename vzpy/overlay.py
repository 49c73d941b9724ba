"""The root of layout overlay: the template's tree, frozen layers, and what the VPS writes."""

from __future__ import annotations

import os

from vzpy.fault import fault
from vzpy.kernel import mount as m

LOWER = "mount-lower"  # the step of mounting (story/mount.py) that is cut in here
_DIR = os.O_DIRECTORY | os.O_PATH


def overlay(tree: str, private: str, lower_ids: int) -> int:
    """The template's tree, the frozen layers and VE_PRIVATE/upper: a detached mount, gone with
    its descriptor.

    lower_ids  descriptor of a user namespace: owners of the tree, 0.., are shown as the VPS's"""
    drop_lower(private)  # before work is opened, on which it may lie
    upper = os.open(f"{private}/upper", _DIR | os.O_NOFOLLOW | os.O_CLOEXEC)
    work = os.open(f"{private}/work", _DIR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return stacked(
            tree,
            private,
            lower_ids,
            layers_of(private),
            upperdir=f"/proc/self/fd/{upper}",
            workdir=f"/proc/self/fd/{work}",
        )
    finally:
        os.close(upper)
        os.close(work)


def layers_of(private: str) -> list[str]:
    """The frozen layers below VE_PRIVATE/upper, the topmost first: what snapshots left."""
    try:
        names = os.readlink(f"{private}/layers/stack")
    except OSError:
        return []
    return [f"{private}/layers/{name}" for name in names.split(":") if name]


def stacked(
    tree: str,
    private: str,
    lower_ids: int,
    layers: list[str],
    attr: int = 0,
    source: str = "vz",
    **options: str | None,
) -> int:
    """A detached overlay of `layers`, the topmost first, on the template's tree.

    The tree is attached for a moment only, since kernels before 6.15 take no detached mount as a
    layer; overlayfs keeps a private clone. Layers are named by descriptor so that no path of the
    host shows in the mount table of the VPS. What would tie a layer to the one below it, or leave
    the data of a file there, is off: layers are merged (layers.py), and the tree may be made
    again."""
    drop_lower(private)
    lower = m.open_tree(tree, m.OPEN_TREE_CLONE)
    attributes = m.MOUNT_ATTR_IDMAP | m.MOUNT_ATTR_RDONLY
    m.mount_setattr(lower, attributes, userns=lower_ids, propagation=m.MS_PRIVATE)
    opened: list[int] = []
    try:
        for layer in layers:
            opened.append(os.open(layer, _DIR | os.O_NOFOLLOW | os.O_CLOEXEC))
        m.move_mount(lower, f"{private}/work")
        try:
            fault(LOWER)
            return m.fsmount(
                "overlay",
                attr,
                source=source,
                lowerdir=":".join(f"/proc/self/fd/{fd}" for fd in (*opened, lower)),
                redirect_dir="off",
                index="off",
                metacopy="off",
                **options,
            )
        finally:
            m.umount2(f"/proc/self/fd/{lower}", m.MNT_DETACH)
    finally:
        for fd in (lower, *opened):
            os.close(fd)


def drop_lower(private: str) -> None:
    """Unmount the lower layer that a tool has left which was killed in overlay(). Absence is
    success."""
    try:
        while True:
            m.umount2(f"{private}/work", m.MNT_DETACH | m.UMOUNT_NOFOLLOW)
    except OSError:
        pass  # EINVAL: nothing is mounted; ENOENT: another layout
