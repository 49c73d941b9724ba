"""VE_ROOT on and off the host, with the action scripts around it (vzctl-cli 2.5)."""

from __future__ import annotations

import os

from vzpy import rootfs, scripts
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import AlreadyMounted, Mounted, Unmounted
from vzpy.fault import fault
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS

STEPS = ("premount-script", "mount-root", rootfs.LOWER, "mount-script")
UMOUNT_STEPS = ("umount-script", "umount-root", "postumount-script")


def mount(vps: VPS, report: Report) -> None:
    """`vzctl mount`. Raises VzError: 79 a script failed, 43, 47, 49, 50."""
    if rootfs.is_mounted(vps.root):
        report(AlreadyMounted())
        return
    if os.path.isdir(vps.private):
        from vzpy.story import owner

        owner.settle(vps, report)
    mount_root(vps, report)


def mount_root(vps: VPS, report: Report, hooks: bool = True) -> None:
    """Mount VE_ROOT by the layout of the VPS; when the mount script fails it is undone."""
    private, root = vps.private, vps.root
    if not os.path.isdir(private):
        raise VzError(f"Container private area {private} does not exist", Exit.FS_NOPRVT)
    if hooks:
        fault("premount-script")
        scripts.run(vps.node.paths, vps.ctid, "premount")
    try:
        os.makedirs(root, 0o755, exist_ok=True)
    except OSError as err:
        raise VzError.of(f"Can't create mount point {root}", err, Exit.FS_MPOINTCREATE) from err
    fault("mount-root")
    try:
        by_layout(vps.layout, private, root, vps.ids)
    except OSError as err:
        raise VzError.of(f"Can't mount: {root} {private}", err, Exit.FS_CANTMOUNT) from err
    try:
        if hooks:
            fault("mount-script")
            scripts.run(vps.node.paths, vps.ctid, "mount")
    except BaseException:
        rootfs.umount(root)
        raise
    report(Mounted())


def by_layout(layout: str, private: str, root: str, holder: IdRange) -> None:
    """Raises OSError; VzError 47 when the template tree is gone, 99 for a layout not there yet."""
    from vzpy import ns, template  # who only unmounts does not pay for them

    if layout == "overlay":
        tree = template.tree_of(private)
        view = ns.idmap_userns(holder.map_text())
        try:
            rootfs.mount_overlay(tree, private, root, view)
        finally:
            os.close(view)
    elif layout == "simfs":
        view = ns.idmap_userns(b"%d 0 %d\n" % (holder.base, holder.count))
        try:
            rootfs.mount_simfs(private, root, view)
        finally:
            os.close(view)
    else:
        raise VzError(
            f"Layout {layout} is not supported",
            Exit.PLOOP_UNSUP,
            hint="Use --layout overlay or --layout simfs",
        )


def umount(vps: VPS, report: Report) -> None:
    """`vzctl umount`. Raises VzError: 32 running, 40 not mounted, 51, 79."""
    if vps.facts():
        raise AlreadyRunning("Container is running -- stop it first")
    if not rootfs.is_mounted(vps.root):
        raise VzError("CT is not mounted", Exit.FS_NOT_MOUNTED)
    umount_root(vps, vps.root, report)


def umount_root(vps: VPS, root: str, report: Report, hooks: bool = True) -> None:
    """Unmount VE_ROOT and what lies below it; one that is not mounted runs no script either."""
    if not rootfs.is_mounted(root):
        return
    if hooks:
        fault("umount-script")
        scripts.run(vps.node.paths, vps.ctid, "umount")
    fault("umount-root")
    try:
        rootfs.umount(root)
    except OSError as err:
        raise VzError.of(f"Can't umount {root}", err, Exit.FS_CANTUMOUNT) from err
    report(Unmounted())
    if hooks:
        fault("postumount-script")
        scripts.run(vps.node.paths, vps.ctid, "postumount")


