"""VE_ROOT on and off the host, with the action scripts around it (vzctl-cli 2.5)."""

from __future__ import annotations

import os

from vzpy import rootfs, scripts
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import AlreadyMounted, Mounted, NotApplied, Unmounted
from vzpy.fault import fault
from vzpy.state import make_folder

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
    not_applied = mount_root(vps, report)
    quota_tight(vps)
    if not_applied:
        report(NotApplied(what=", ".join(not_applied)))


def mount_root(
    vps: VPS, report: Report, hooks: bool = True, fsck: bool = True
) -> list[str]:
    """Disk quota on, then VE_ROOT mounted by the layout of the VPS; when a step fails both are
    undone. Returns the options that this node does not apply.

    fsck  an image that has met an error is repaired first"""
    private, root = vps.private, vps.root
    if not os.path.isdir(private):
        raise VzError(f"Container private area {private} does not exist", Exit.FS_NOPRVT)
    if hooks:
        fault("premount-script")
        scripts.run(vps.node.paths, vps.ctid, "premount")
    try:
        make_folder(root, 0o755)
    except OSError as err:
        raise VzError.of(f"Can't create mount point {root}", err, Exit.FS_MPOINTCREATE) from err
    not_applied = quota_on(vps, report)
    try:
        fault("mount-root")
        not_applied += by_layout(vps, report, fsck)
        if hooks:
            fault("mount-script")
            scripts.run(vps.node.paths, vps.ctid, "mount")
    except BaseException as err:
        rootfs.umount(root)
        quota_off(vps, report)
        if isinstance(err, OSError):
            raise VzError.of(f"Can't mount: {root} {private}", err, Exit.FS_CANTMOUNT) from err
        raise
    report(Mounted())
    return not_applied


def quota_on(vps: VPS, report: Report) -> list[str]:
    """Returns the options that this node does not apply. Raises VzError 60 to 64."""
    if not vps.config.value("DISK_QUOTA"):
        return []
    from vzpy.story import disk

    return disk.on(vps, report)


def quota_tight(vps: VPS) -> None:
    """Its files are set up: from now on its limits hold to the byte. Raises VzError 62."""
    if os.path.exists(vps.node.paths.quota_file(vps.ctid)):
        from vzpy.story import disk

        disk.tighten(vps)


def quota_off(vps: VPS, report: Report) -> None:
    """Whatever the configuration says by now; of a VPS without quota nothing is looked at."""
    if os.path.exists(vps.node.paths.quota_file(vps.ctid)):
        from vzpy.story import disk

        disk.off(vps, report)


def by_layout(vps: VPS, report: Report, fsck: bool) -> list[str]:
    """Returns the options that this node does not apply.

    Raises OSError; VzError 47 when the template tree is gone, 150 when the image is, 152; 99 for a
    layout that nobody knows."""
    layout, private, root = vps.layout, vps.private, vps.root
    if layout == "image":
        from vzpy.story import imageroot

        return imageroot.mount(vps, report, fsck)
    from vzpy import ns, template  # who only unmounts does not pay for them

    if layout == "overlay":
        tree = template.tree_of(private)
        view = ns.idmap_userns(vps.ids.map_text())
        try:
            rootfs.mount_overlay(tree, private, root, view)
        finally:
            os.close(view)
    elif layout != "simfs":
        raise VzError(
            f"Layout {layout} is not supported",
            Exit.PLOOP_UNSUP,
            hint="The layouts are overlay, simfs and image.",
        )
    else:
        view = ns.idmap_userns(b"%d 0 %d\n" % (vps.ids.base, vps.ids.count))
        try:
            rootfs.mount_simfs(private, root, view)
        finally:
            os.close(view)
    return []


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
        if vps.layout == "overlay":
            rootfs.umount_overlay(root)
        else:
            rootfs.umount(root)
    except OSError as err:
        raise VzError.of(f"Can't umount {root}", err, Exit.FS_CANTUMOUNT) from err
    report(Unmounted())
    quota_off(vps, report)
    if hooks:
        fault("postumount-script")
        scripts.run(vps.node.paths, vps.ctid, "postumount")


