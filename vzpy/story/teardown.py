"""What a running VPS leaves behind, removed: the undo of a start, the end of a stop, and what the
daemon does after a halt from inside. Idempotent: whatever is already gone is success."""

from __future__ import annotations

import os

from vzpy import cgroups, cgroupshare, state
from vzpy.errors import Exit, VzError
from vzpy.fault import fault
from vzpy.story.mount import umount_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts, NodePaths
    from vzpy.vps import VPS

STEPS = ("remove-cgroup", "forget")


def remove_cgroup(cgroup: str) -> None:
    """Kill what lives in it, and remove it. Raises VzError 33 when processes do not die."""
    fault("remove-cgroup")
    try:
        cgroups.remove(cgroup)
        cgroupshare.share(os.path.dirname(cgroup))
    except OSError as err:
        raise VzError.of("Unable to stop container", err, Exit.STOP) from err


def put_away(vps: VPS, facts: Facts, report: Report, umount: bool = True) -> None:
    """Take the network back, unmount, then drop the state: while that is there, whoever finds it
    goes on with the rest.

    Raises VzError 34, 51, 79, 104; the rest is done all the same."""
    try:
        if os.path.exists(f"{state.directory(vps.node.paths, vps.ctid)}/net"):
            from vzpy.story import net

            net.unwire(vps.node.paths, vps.ctid, report)
    finally:
        try:
            if umount:
                umount_root(vps, facts.root, report)
        finally:
            forget(vps.node.paths, vps.ctid)


def forget(paths: NodePaths, ctid: int) -> None:
    fault("forget")
    state.forget(paths, ctid)


def settle(vps: VPS, report: Report) -> None:
    """Clean up after a VPS that ended without us (halted itself, was killed, the host crashed),
    or whose start was cut short.

    Nothing to do is success; a running VPS is left alone. Raises VzError 33, 51, 79."""
    facts = state.read_facts(vps.node.paths, vps.ctid)
    if facts is None or state.alive(facts):
        return
    remove_cgroup(facts.cgroup)
    put_away(vps, facts, report)
