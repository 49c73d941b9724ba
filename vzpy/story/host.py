"""CT0: the node itself, as one more who wants CPU time beside its VPSs (config-files 11)."""

from __future__ import annotations

from vzpy import cgroups, cgroupshare
from vzpy.events import CpuUnits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import NodePaths


def set_cpuunits(paths: NodePaths, units: int, report: Report) -> bool:
    """Weigh the host against all VPSs, by their weight: its own cgroups stay as they are.

    units  1000 is what one competitor beside each VPS has
    False where the cpu controller is missing. Raises OSError without cgroup2."""
    root = cgroups.mountpoint()
    if "cpu" not in cgroups.read(root, "cgroup.controllers").split():
        return False
    node = f"{root}/{paths.cgroup}"
    cgroups.mkdir(node)
    cgroups.enable(root)
    cgroupshare.weigh_host(node, units, anew=True)
    cgroupshare.share(node)
    report(CpuUnits(value=units))
    return True
