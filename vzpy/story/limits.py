"""The limits of a VPS: before its first process, and on the running one."""

from __future__ import annotations

from vzpy import cgroups, ubc
from vzpy.errors import Exit, VzError
from vzpy.events import CpuLimit, Cpus, CpuUnits, UbSet
from vzpy.params import BY_KEY, UBC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.story.live import Change
    from vzpy.vps import VPS


def before_birth(vps: VPS, cgroup: str, report: Report) -> list[str]:
    """Write the limits into a new cgroup; returns the options that this node does not apply."""
    limits = ubc.limits(vps.config)
    refused = cgroups.limit(cgroup, limits)
    if (percent := vps.config.value("CPULIMIT")) and "cpu.max" not in refused:
        report(CpuLimit(value=percent))
    report(CpuUnits(value=vps.config.value("CPUUNITS") or ubc.DEFAULT_CPUUNITS))
    return ubc.explain(refused, limits)


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 28."""
    conf, keys = change.after, change.keys
    if ubc.is_vswap(conf) and conf.value("SWAPPAGES") is None and "PHYSPAGES" in keys:
        raise VzError(
            "Error: required UB parameter (swap) not set", Exit.NOTENOUGHUBCPARAMS
        )
    limits = ubc.limits(conf)
    not_applied = ubc.explain(cgroups.limit(change.facts.cgroup, limits), limits)
    refused = [key.lower() for key in keys if key.lower() in not_applied]
    done = [key for key in keys if key.lower() not in refused]
    if any(BY_KEY[key].room == UBC for key in done):
        report(UbSet())
    for key, event in (("CPULIMIT", CpuLimit), ("CPUUNITS", CpuUnits), ("CPUS", Cpus)):
        if key in done:
            report(event(value=conf.value(key)))
    return refused
