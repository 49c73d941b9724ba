"""What the VPSs of a node share: their part of the host's CPU time and of its protected memory,
and which CPUs each has when it wants only some (cgroups(7), cpuset.cpus, memory.low)."""

from __future__ import annotations

import os

from vzpy import cgroups
from vzpy.cgroupread import applied, number, write_applied
from vzpy.kernel.proc import slurp

_WEIGHT_MAX = 10000
_SUMMED = ("memory.low", "memory.min")
_UNITS = 1000  # of the host, unless it has been given others


def share(node: str, vps: str = "") -> None:
    """Give a node's cgroup the sum of what its VPSs have: the host is one competitor beside each of
    them, and a VPS is protected only as far as the cgroup above it is.

    Called whenever one has come, changed (vps: the cgroup of that one) or gone. One at a time: who
    comes last sees what all have written before."""
    import fcntl

    try:
        fd = os.open(node, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for name in ("cpu.weight", *_SUMMED):
            # Guarantees are rare, VPSs are many.
            if name == "cpu.weight" or number(node, name) or (vps and number(vps, name)):
                _sum_up(node, name)
    finally:
        os.close(fd)


def _sum_up(node: str, name: str) -> None:
    if number(node, name) is None:
        return  # without that controller
    total = sum(number(path, name) or 0 for path in vps_of(node))
    if name == "cpu.weight":
        total = max(1, min(total * _UNITS // host_units(node), _WEIGHT_MAX))
    try:
        cgroups.write(node, name, str(total))
    except OSError:
        pass  # told by limit(), when something was asked of it


def host_units(node: str) -> int:
    return int((applied(node) or {}).get("CPUUNITS", _UNITS))


def weigh_host(node: str, units: int | None, anew: bool = False) -> None:
    """CPU units of the host, for the next share(): whatever its own cgroups have, all VPSs weigh
    more or less against them. `anew`: though it has been given some."""
    if units and (anew or applied(node) is None):
        write_applied(node, {"CPUUNITS": str(units)})


def vps_of(node: str) -> list[str]:
    """The cgroups vz/N of a node."""
    try:
        with os.scandir(node) as entries:
            return [entry.path for entry in entries if entry.name.isdigit()]
    except OSError:
        return []


def guaranteed(node: str, but: str) -> tuple[int, int]:
    """Sums of memory.low and memory.min of all VPSs but one, in bytes."""
    others = [path for path in vps_of(node) if path != but]
    low, least = (sum(number(path, name) or 0 for path in others) for name in _SUMMED)
    return low, least


# --- CPUs ------------------------------------------------------------------------------------


def cpus_of(text: str) -> list[int]:
    """`0-2,7` as a list, ascending (cpuset(7), List format)."""
    found: set[int] = set()
    for item in text.strip().split(","):
        first, dash, last = item.partition("-")
        if first:
            found.update(range(int(first), int(last if dash else first) + 1))
    return sorted(found)


def allowed(node: str, kind: str = "cpus") -> list[int] | None:
    """CPUs (or, with `mems`, memory nodes) that a node's VPSs may have: those that are online.
    None where the controller is missing."""
    try:
        return cpus_of(slurp(f"{node}/cpuset.{kind}.effective").decode())
    except OSError:
        return None


def least_loaded(path: str, count: int, among: list[int]) -> list[int]:
    """`count` CPUs for the VPS vz/N, those that the fewest VPSs have been given. One that has so
    many of them keeps them."""
    load = dict.fromkeys(among, 0)
    for other in vps_of(os.path.dirname(path)):
        given = [cpu for cpu in _cpus_given(other) if cpu in load]
        if other == path:
            if len(given) == count:
                return given
            continue
        for cpu in given:
            load[cpu] += 1
    return sorted(sorted(among, key=lambda cpu: (load[cpu], cpu))[:count])


def _cpus_given(path: str) -> list[int]:
    try:
        return cpus_of(slurp(f"{path}/cpuset.cpus").decode())
    except OSError:
        return []


def cpus_of_nodes(nodes: list[int], sys: str = "/sys") -> list[int]:
    """The CPUs of some NUMA nodes; a node that is not there has none."""
    found: list[int] = []
    for node in nodes:
        try:
            found += cpus_of(slurp(f"{sys}/devices/system/node/node{node}/cpulist").decode())
        except OSError:
            pass
    return sorted(found)


def write_cpuset(path: str, kind: str, numbers: list[int]) -> bool:
    """cpuset.cpus or cpuset.mems; an empty list is no restriction. False when it cannot be.

    A cgroup with tasks in it may not lose its list on kernels before 6.6 or so (ENOSPC): there it
    gets all that the node has now."""
    try:
        if not numbers and not slurp(f"{path}/cpuset.{kind}").strip():
            return True
        cgroups.write(path, f"cpuset.{kind}", ",".join(map(str, numbers)) or "\n")
    except OSError:
        everything = allowed(os.path.dirname(path), kind)
        return bool(not numbers and everything and write_cpuset(path, kind, everything))
    return True
