"""Bandwidth of a VPS (RATE): at its start, and while it runs."""

from __future__ import annotations

import os

from vzpy import netnotes, shaping, state
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import NodePaths
    from vzpy.story.live import Change
    from vzpy.vps import VPS


def wire(vps: VPS) -> None:
    """Of a VPS whose network devices are there; they take it with them when they go.

    Raises VzError 3."""
    apply(vps.node.paths, vps.ctid, vps.config.value("RATE") or [])


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 3."""
    apply(change.vps.node.paths, change.vps.ctid, change.after.value("RATE") or [])
    return []


def apply(paths: NodePaths, ctid: int, rates: list[str]) -> None:
    """Give each network device of a VPS that the host has an end of the rate, 0 for none."""
    directory, rate = state.directory(paths, ctid), shaping.total(rates)
    with shaping.Shaper() as shaper:
        for name in shaping.host_ends(directory):
            detour = shaper.detour(name)
            if not detour:
                continue  # the VPS has removed it
            note = (netnotes.LINK, detour)
            try:
                if rate:
                    netnotes.add(directory, [note])
                shaper.limit(name, rate)
            except OSError as err:
                raise VzError(
                    f"Unable to set rate: {os.strerror(err.errno or 0)}",
                    Exit.SYSTEM,
                    errno=err.errno or 0,
                    hint="The kernel needs ifb, sch_tbf, cls_u32 and act_mirred.",
                ) from err
            if not rate:
                netnotes.remove(directory, [note])
