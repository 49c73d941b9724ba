"""`vzctl compact`: what an image does not use goes back to the host (vzctl-cli 2.11)."""

from __future__ import annotations

import os

from vzpy import image
from vzpy.errors import Exit, VzError
from vzpy.events import Compacted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS


def compact(vps: VPS, report: Report) -> None:
    """The blocks of deleted files become holes of the image; its VPS may run.

    Raises VzError 166."""
    if vps.layout != "image":
        raise VzError("Compact only makes sense for ploop containers", Exit.COMPACT)
    path = image.path_of(vps.private)
    try:
        before = os.stat(path).st_blocks // 2
        with image.shown(path, vps.root) as root:
            image.trim(root)
        after = os.stat(path).st_blocks // 2
    except OSError as err:
        raise VzError.of("Unable to compact the image", err, Exit.COMPACT) from err
    report(Compacted(path=path, before=before, after=after))
