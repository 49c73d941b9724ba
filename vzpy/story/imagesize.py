"""DISKSPACE of a VPS in an image: the size of its file system (vzctl-cli 5).

It grows while it is in use. To shrink it, a new image is made beside the old one, which stays what
it is until the new one takes its place by one rename(2)."""

from __future__ import annotations

import os
from errno import EPERM

from vzpy import image, statecopy
from vzpy.errors import Exit, VzError
from vzpy.events import InodesIgnored, Resized
from vzpy.fault import fault
from vzpy.image import Disk
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.story.live import Change
    from vzpy.vps import VPS

STEPS = ("shrink", "replace-image")


def live(change: Change, report: Report) -> None:
    """See story/live.py; what has grown stays so when something else fails. Raises VzError 154."""
    if not change.undo:
        apply(change.vps, change.after, change.keys, report)


def apply(vps: VPS, wanted: Config, keys: tuple[str, ...], report: Report) -> None:
    """Resize the image of a VPS, which runs, is mounted, or is neither.

    Raises VzError 154, 63."""
    if "DISKINODES" in keys:
        report(InodesIgnored())
    space = wanted.value("DISKSPACE")
    if "DISKSPACE" not in keys or not space:
        return
    path, size = image.path_of(os.path.realpath(vps.private)), Disk.of(space[1]).size
    try:
        before = os.stat(path).st_size
        if size > before:
            _grow(vps, path, size)
        elif size < before:
            _shrink(vps, path, size)
        else:
            return
    except OSError as err:
        raise VzError.of("Unable to resize the image", err, Exit.IMAGE_RESIZE) from err
    report(Resized(path=path, kib=size >> 10))


def _grow(vps: VPS, path: str, size: int) -> None:
    try:
        with image.shown(path, vps.root) as root:
            image.grow(path, root, size)
    except OSError as err:
        offline = err.errno == EPERM and image.fs_of(path) == image.EXT4
        if not offline or vps.status.mounted:
            raise
        image.grow_offline(path, size)


def _shrink(vps: VPS, path: str, size: int) -> None:
    if vps.status.mounted:
        raise VzError(
            "Error: an image that is mounted cannot become smaller",
            Exit.IMAGE_RESIZE,
            hint=f"Stop the container, then `vzctl set {vps.ctid} --diskspace ... --offline-resize"
            " --save`.",
        )
    from vzpy.kernel.syncfs import syncfs
    from vzpy.story import moving

    new = f"{path}.new"
    _discard(new)  # of a tool that was killed
    about = os.stat(path)
    disk = Disk(size, image.fs_of(path), about.st_blocks * 512 >= about.st_size)
    source = image.mount(path)
    try:
        needed = statecopy.measure(source)
        if needed > size:
            raise VzError(
                f"Error: the image cannot become {size >> 10}K, its files need {needed >> 10}K",
                Exit.IMAGE_RESIZE,
            )
        fault("shrink")
        target = image.new(new, disk)
        try:
            ids = IdRange(0, vps.ids.count)
            moving.copy(source, target, ids, ids)
            syncfs(".", target)
        finally:
            os.close(target)
        fault("replace-image")
        os.rename(new, path)
    except BaseException:
        _discard(new)
        raise
    finally:
        os.close(source)


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
