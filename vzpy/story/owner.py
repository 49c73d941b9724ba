"""The id range of a VPS and its private area agree before anything of it runs (DESIGN 3, 4)."""

from __future__ import annotations

import os

from vzpy import config, ids
from vzpy.errors import Exit, VzError
from vzpy.events import Reshifting
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS


def settle(vps: VPS, report: Report) -> None:
    """Claim the range of N.conf, or a new one, and shift the private area to it where needed.

    A configuration copied to a new number names a range that the first VPS holds: the copy gets
    its own. An area restored by tar may have any owner: it is shifted from the one it has.
    Raises VzError 47 when the owners cannot be changed, 6 when no range is free."""
    registry = ids.Registry()
    own = vps.config.own
    found = ids.range_of(own("LOCAL_UID"), own("LOCAL_GID"), own("LOCAL_IDS"))
    try:
        if found is not None:
            registry.claim(vps.owner, found)
    except ids.RangeTaken:
        found = None
    if found is None:
        found = registry.allocate(vps.owner, ids.count_of(own("LOCAL_IDS")))
        base = str(found.base)
        config.save(vps.conf_path, {"LOCAL_UID": base, "LOCAL_GID": base})
        vps.reload()
    top = os.path.join(vps.private, "upper") if vps.layout == "overlay" else vps.private
    base = os.lstat(top).st_uid
    if base != found.base:
        from vzpy import reshift

        report(Reshifting(path=vps.private, base=found.base))
        try:
            reshift.shift(top, IdRange(base, found.count), found)
        except OSError as err:
            raise VzError.of(
                f"Container private area is owned by {base}, but configuration file says we should"
                f" run with {found.base}",
                err,
                Exit.FS_BAD_TMPL,
            ) from err
