"""The root of a VPS of layout image: on the host, and as the VPS gets it."""

from __future__ import annotations

import os

from vzpy import image, ns
from vzpy.errors import Exit, VzError
from vzpy.events import CheckingImage
from vzpy.fault import fault
from vzpy.kernel.mount import MOUNT_ATTR_IDMAP, mount_setattr, move_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import IdRange
    from vzpy.vps import VPS

STEP = "mount-image"


def mount(vps: VPS, report: Report, fsck: bool) -> list[str]:
    """VE_ROOT = the file system in VE_PRIVATE's image, as it is: the VPS's own ids.

    Returns the options that this node does not apply. Raises VzError 150, 152."""
    path = image.path_of(vps.private)
    options = vps.config.value("MOUNT_OPTS") or ""
    quota, not_applied = bool(vps.config.value("QUOTAUGIDLIMIT")), []
    try:
        if fsck and image.has_errors(path):
            report(CheckingImage(path=path))
            image.check(path)
        try:
            fd = image.mount(path, options, quota=quota)
        except OSError as err:
            if not quota or isinstance(err, FileNotFoundError):
                raise
            image.drop_quota(path)  # a kernel without it refuses the whole image
            not_applied.append("quotaugidlimit")
            fd = image.mount(path, options)
    except FileNotFoundError as err:
        raise VzError.of("Cannot mount the image", err, Exit.IMAGE_NOT_FOUND) from err
    except OSError as err:
        raise VzError.of(f"Cannot mount the image {path}", err, Exit.IMAGE_MOUNT) from err
    try:
        fault(STEP)
        move_mount(fd, vps.root)
    finally:
        os.close(fd)
    return not_applied


def show_as(tree: int, holder: IdRange) -> None:
    """Give the files of an image, a detached mount, to the ids of the VPS."""
    view = ns.idmap_userns(holder.map_text())
    try:
        mount_setattr(tree, MOUNT_ATTR_IDMAP, userns=view)
    finally:
        os.close(view)
