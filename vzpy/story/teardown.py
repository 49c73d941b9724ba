"""What a running VPS leaves behind, removed: the undo of a start, the end of a stop, and what the
daemon does after a halt from inside. Idempotent: whatever is already gone is success."""

from __future__ import annotations

from vzpy import cgroups, rootfs, state
from vzpy.errors import Exit, VzError
from vzpy.fault import fault
from vzpy.story.mount import umount_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import NodePaths
    from vzpy.vps import VPS

STEPS = ("remove-cgroup", "forget")


def tear_down(paths: NodePaths, ctid: int, cgroup: str) -> None:
    """Kill what lives in the cgroup, remove it, drop the state.

    Raises VzError 33 when processes do not die."""
    fault("remove-cgroup")
    try:
        cgroups.remove(cgroup)
    except OSError as err:
        raise VzError.of("Unable to stop container", err, Exit.STOP) from err
    fault("forget")
    state.forget(paths, ctid)


def settle(vps: VPS, report: Report) -> None:
    """Clean up after a VPS that ended without us (halted itself, was killed, the host crashed).

    Nothing to do is success; a running VPS is left alone. Raises VzError 33, 51, 79."""
    facts = state.read_facts(vps.node.paths, vps.ctid)
    if facts is None or state.alive(facts):
        return
    tear_down(vps.node.paths, vps.ctid, facts.cgroup)
    if rootfs.is_mounted(facts.root):
        umount_root(vps, facts.root, report)
