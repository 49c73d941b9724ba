"""CT0: the node itself, as one more who wants CPU time beside its VPSs (config-files 11)."""

from __future__ import annotations

import os

from vzpy import cgroupread, cgroups, cgroupshare
from vzpy.events import CpuUnits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import NodePaths


def set_cpuunits(paths: NodePaths, units: int, report: Report) -> bool:
    """Weigh the host against all VPSs, by their weight: its own cgroups stay as they are.

    units  1000 is what one competitor beside each VPS has
    False where the cpu controller is missing. Raises OSError without cgroup2."""
    node = f"{cgroups.mountpoint()}/{paths.cgroup}"
    cgroups.mkdir(node)
    cgroups.enable(os.path.dirname(node))
    if cgroupread.number(node, "cpu.weight") is None:
        return False
    cgroupshare.weigh_host(node, units, anew=True)
    cgroupshare.share(node)
    report(CpuUnits(value=units))
    return True
