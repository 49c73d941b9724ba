"""The limits of a VPS: before its first process, and on the running one."""

from __future__ import annotations

import os
from importlib import import_module

from vzpy import cgroups, cgroupshare, ubc
from vzpy.errors import Exit, VzError
from vzpy.events import (
    CpuLimit,
    CpuMask,
    Cpus,
    CpuUnits,
    IoLimit,
    IopsLimit,
    NodeMask,
    UbSet,
)
from vzpy.model import Limits
from vzpy.params import BY_KEY, UBC
from vzpy.story import applied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.applied import Applied
    from vzpy.story.live import Change
    from vzpy.vps import VPS

# Modules of story/ that enforce beancounters by other means than cgroup files. Each has
#   before_birth(vps, cgroup, asked) -> names of the beancounters that it enforces
#   live(change, asked) -> the same; applies those of change.keys
# where `asked` has every parameter as it is to hold from now on.
OTHERS: tuple[str, ...] = ()
_HERE = frozenset(("numproc", "physpages", "swappages", "vmguarpages", "oomguarpages"))
_CPUSET, _IO = ("CPUS", "CPUMASK", "NODEMASK"), ("IOLIMIT", "IOPSLIMIT")

# What held before the last change by this process, by cgroup: what an undo goes back to.
_before: dict[str, Applied] = {}


def before_birth(vps: VPS, cgroup: str, report: Report) -> list[str]:
    """Write the limits into a new cgroup; returns the options that this node does not apply.

    Raises VzError 36 when the guarantees do not fit into the node."""
    asked = applied.of_config(vps.config)
    _admit(asked, cgroup)
    limits = ubc.limits(asked)
    refused = ubc.explain(cgroups.limit(cgroup, _without_defaults(limits)), limits)
    refused += _place(cgroup, asked, _CPUSET, strict=False)
    refused += _throttle(cgroup, vps.private, asked, _IO, strict=False)
    _share(cgroup)
    asked.write(cgroup)
    enforced = set(_HERE).union(*(m.before_birth(vps, cgroup, asked) for m in _others()))
    report(CpuUnits(value=vps.config.value("CPUUNITS") or ubc.DEFAULT_CPUUNITS)) if 0 else None
    _tell(asked, [key for key in asked.texts if key.lower() not in refused], report, birth=True)
    return refused + ubc.unenforced(asked, enforced)
