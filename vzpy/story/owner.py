"""The id range of a VPS and its private area agree before anything of it runs (DESIGN 3, 4)."""

from __future__ import annotations

import _stat as stat
import os

from vzpy import config, ids
from vzpy.errors import Exit, VzError
from vzpy.events import Reshifting, ReshiftProgress
from vzpy.kernel.proc import real
from vzpy.model import RANGE, IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS


def settle(vps: VPS, report: Report) -> None:
    """Claim the range of N.conf, or a new one, and shift the private area to it where needed.

    A configuration copied to a new number names a range that the first VPS holds: the copy gets
    its own. An area restored by tar may have any owner: it is shifted from the one it has. Nothing
    of the VPS may be mounted.
    Raises VzError 47 when the owners cannot be changed, 6 when no range is free."""
    registry = ids.Registry()
    own = vps.config.own
    named = found = ids.range_of(own("LOCAL_UID"), own("LOCAL_GID"), own("LOCAL_IDS"))
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
    if vps.layout == "image":
        return  # ids in it are the VPS's own
    # VE_PRIVATE may be a link of the administrator's; what lies in it is taken as it is.
    private = top = real(vps.private)
    if vps.layout == "overlay":
        top = os.path.join(top, "upper")
    about = os.lstat(top)
    if not stat.S_ISDIR(about.st_mode):
        raise VzError(f"{top} is not a directory", Exit.FS_BAD_TMPL)
    owner = about.st_uid
    if not found.holds(owner):
        _reshift(vps, top, _range_with(owner, named, found.count), found, report)
    for layers in (f"{private}{x}/layers" for x in ("", ".snapshots")):
        if vps.layout == ("simfs" if layers.endswith(".snapshots/layers") else "overlay"):
            _settle_layers(vps, layers, named, found, report)


def _settle_layers(
    vps: VPS, layers: str, named: IdRange | None, found: IdRange, report: Report
) -> None:
    """What snapshots left goes with the rest; the owner of the folder tells whose ids are in it."""
    try:
        owner = os.lstat(layers).st_uid
    except FileNotFoundError:
        return
    if not found.holds(owner):
        from vzpy.story import snapshot

        snapshot.sweep(vps)
        _reshift(vps, layers, _range_with(owner, named, found.count), found, report)


def _range_with(owner: int, named: IdRange | None, count: int) -> IdRange:
    """The range that an area was in, by the owner of its top: whoever that is inside."""
    if named and named.holds(owner):
        return named
    in_order = owner < ids.HOST_IDS or owner >= ids.POOL_FIRST
    return IdRange(owner - owner % RANGE if in_order else owner, count)


def _reshift(vps: VPS, top: str, old: IdRange, new: IdRange, report: Report) -> None:
    from vzpy import reshift

    report(Reshifting(path=vps.private, base=new.base))
    try:
        reshift.shift(
            top, old, new, lambda done, total: report(ReshiftProgress(done=done, total=total))
        )
    except OSError as err:
        raise VzError(
            f"Container private area is owned by {old.base}:{old.base}, but configuration file"
            f" says we should run with {new.base}:{new.base}.\nRefusing to run.",
            Exit.FS_BAD_TMPL,
            errno=err.errno or 0,
            hint=f"Unable to change the owner of {err.filename}: {err.strerror}",
        ) from err
