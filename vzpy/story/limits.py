"""The limits of a VPS: before its first process, and on the running one."""

from __future__ import annotations

import os

from vzpy import cgroupread, cgroups, cgroupshare, ubc
from vzpy.errors import Exit, VzError
from vzpy.events import (
    CpuLimit,
    CpuMask,
    Cpus,
    CpuUnits,
    IoLimit,
    IopsLimit,
    NodeMask,
    NotApplied,
    UbSet,
)
from vzpy.kernel.proc import memory, slurp
from vzpy.model import NO_LIMIT, IdRange, Limits
from vzpy.params import BY_KEY, UBC, UBC_KEYS
from vzpy.story import applied
from vzpy.story.applied import OTHERS, other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vzpy.config import Config
    from vzpy.events import Event, Report
    from vzpy.model import Facts
    from vzpy.story.applied import Applied
    from vzpy.story.live import Change
    from vzpy.vps import VPS

    Write = Callable[[], list[str]]
    Told = tuple[tuple[str, type[Event], Callable[[Any], Any]], ...]

_HERE = ("numproc", "physpages", "swappages", "vmguarpages", "oomguarpages")
_CPUSET, _IO = ("CPUS", "CPUMASK", "NODEMASK"), ("IOLIMIT", "IOPSLIMIT")
_NO_SWAP = "swappages (this node has no swap)"

# By cgroup: what held before the last change by this process, for its undo to go back to.
_before: dict[str, Applied] = {}


def before_birth(
    vps: VPS, cgroup: str, report: Report, devices: Callable[[], list[str]]
) -> list[str]:
    """Write the limits into a new cgroup; returns the options that this node does not apply.

    devices  grants those of the VPS, which is told between its CPUs and its disks
    Raises VzError 36 when the guarantees do not fit into the node."""
    asked = applied.of_config(vps.config)
    keys = tuple(asked.texts)
    limits = ubc.limits(asked)
    _admit(limits, cgroup)
    own = {field: x for field, x in limits.__dict__.items() if x != getattr(ubc.DEFAULTS, field)}
    refused = ubc.explain(cgroups.limit(cgroup, Limits(**own)), limits)
    for place, options in ((_place, _CPUSET), (_throttle, _IO)):
        if asks := [key for key in options if asked.value(key)]:
            try:
                refused += place(asked, cgroup, vps.private, keys)()
            except VzError:  # a configuration of another machine is no reason not to start
                refused += [key.lower() for key in asks]
    refused += _without_effect(asked, vps.private, keys)
    refused += _apply_others(asked, cgroup, keys, None, vps.ids)
    cgroupshare.weigh_host(os.path.dirname(cgroup), vps.config.value("VE0CPUUNITS"))
    cgroupshare.share(os.path.dirname(cgroup), cgroup)
    asked.write(cgroup)
    done = [key for key in keys if key.lower() not in refused]
    _tell(_TOLD_OF_CPUS, asked, done, report, birth=True)
    refused += devices()
    _tell(_TOLD_OF_DISKS, asked, done, report, birth=True)
    if "swappages" not in refused and _lacks_swap(limits):
        refused.append(_NO_SWAP)
    return list(dict.fromkeys(refused))


def born_with(config: Config) -> tuple[tuple[tuple[int, int], ...], str, int]:
    """What a new VPS is born with: rlimits, the size of its /dev/shm, how many ptys it may have
    (bounds.Birth)."""
    if not _has_bounds(config):
        return (), "", 0
    from vzpy.story import bounds

    born = bounds.of_birth(config)
    return born.rlimits, born.shm_size, born.ptys


def inside(config: Config, facts: Facts) -> list[str]:
    """Bound what has to be bounded in the namespaces of a new VPS, before anything runs there;
    returns the options that are not applied."""
    if not _has_bounds(config):
        return []
    from vzpy.story import bounds

    return bounds.inside(config, facts)


def _has_bounds(config: Config) -> bool:
    return any(config.raw(key) for key in OTHERS["bounds"])


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 1, 2, 28, 36, 148."""
    conf, keys, cgroup = change.after, change.keys, change.facts.cgroup
    if ubc.is_vswap(conf) and conf.value("SWAPPAGES") is None and "PHYSPAGES" in keys:
        raise VzError(
            "Error: required UB parameter (swap) not set", Exit.NOTENOUGHUBCPARAMS
        )
    before = applied.of_running(change.facts, change.before)
    undone = _before.pop(cgroup, None)
    asked = undone if change.undo and undone else before.changed(conf, keys)
    refused = _change(change.facts, asked, keys)
    _before[cgroup] = before
    asked.write(cgroup)
    done = [key for key in keys if key.lower() not in refused]
    if any(BY_KEY[key].room == UBC for key in done):
        report(UbSet())
    if "SWAPPAGES" in done and _lacks_swap(ubc.limits(asked)):
        report(NotApplied(what=_NO_SWAP))
    _tell(_TOLD_OF_CPUS + _TOLD_OF_DISKS, asked, done, report)
    return refused


def _change(facts: Facts, asked: Applied, keys: tuple[str, ...]) -> list[str]:
    """Write what follows from some parameters. What can fail for the value that is asked comes
    first, and leaves all as it was."""
    cgroup = facts.cgroup
    limits = ubc.limits(asked)
    fields = dict.fromkeys(field for key in keys for field in ubc.FIELDS.get(key, ()))
    wanted = Limits(**{field: getattr(limits, field) for field in fields})
    writes = [
        place(asked, cgroup, facts.private, keys)
        for place, options in ((_place, _CPUSET), (_throttle, _IO))
        if set(keys).intersection(options)
    ]
    _admit(wanted, cgroup)
    _make_room(cgroup, wanted)
    refused = ubc.explain(cgroups.limit(cgroup, wanted), wanted)
    for write in writes:
        refused += write()
    refused += _without_effect(asked, facts.private, keys)
    refused += _apply_others(asked, cgroup, keys, facts)
    cgroupshare.share(os.path.dirname(cgroup), cgroup)
    return list(dict.fromkeys(refused))


def reset(vps: VPS, facts: Facts, report: Report) -> None:
    """`set --reset_ub`: every beancounter as N.conf has it. Raises VzError as live() does."""
    from vzpy.story.live import Change

    if refused := live(Change(vps, facts, vps.config, vps.config, UBC_KEYS), report):
        report(NotApplied(what=", ".join(refused)))


def _tell(
    told: Told, asked: Applied, keys: Sequence[str], report: Report, birth: bool = False
) -> None:
    """In the order of the contract (vzctl-cli 2.2, step 12); at birth nothing of what is no
    limit."""
    for key, event, text in told:
        value = asked.value(key)
        if key == "CPUUNITS" and birth:
            value = value or ubc.DEFAULT_CPUUNITS
        elif key not in keys or (birth and not value):
            continue
        report(event(value=text(value)))


def _rate(unit: str) -> Callable[[int | None], str]:
    return lambda value: f"{value} {unit}" if value else "0 (unlimited)"


_TOLD_OF_CPUS: Told = (
    ("CPULIMIT", CpuLimit, lambda value: value or 0),
    ("CPUUNITS", CpuUnits, lambda value: value or ubc.DEFAULT_CPUUNITS),
    ("CPUS", Cpus, lambda value: value or 0),
    ("CPUMASK", CpuMask, lambda value: value or "all"),
    ("NODEMASK", NodeMask, lambda value: value or "all"),
)
_TOLD_OF_DISKS: Told = (
    ("IOLIMIT", IoLimit, _rate("bytes/sec")),
    ("IOPSLIMIT", IopsLimit, _rate("iops")),
)


# --- memory ----------------------------------------------------------------------------------


def _admit(limits: Limits, cgroup: str) -> None:
    """A new guarantee fits, with those of all running VPSs, into RAM and swap; one against the OOM
    killer into RAM alone. Raises VzError 36."""
    low, least = limits.memory_low or 0, limits.memory_min or 0
    if not low and not least:
        return
    ram, swap = memory()
    others_low, others_least = cgroupshare.guaranteed(os.path.dirname(cgroup), cgroup)
    for name, knob, asked, others, room in (
        ("vmguarpages", "memory.low", low, others_low, ram + swap),
        ("oomguarpages", "memory.min", least, others_least, ram),
    ):
        if asked + others > room and asked > (cgroupread.number(cgroup, knob) or 0):
            raise VzError(
                f"Hardware node is overcommitted: {name} of {asked // ubc.PAGE} pages, other"
                f" containers have {others // ubc.PAGE}, the node {room // ubc.PAGE}",
                Exit.OVERCOMMIT,
                hint=f"Lower {name} of this container, or stop others.",
            )


def _make_room(cgroup: str, wanted: Limits) -> None:
    """Before a lower limit is written the use is below it. Raises VzError 1, nothing changed."""
    swap = wanted.swap_max
    used = cgroupread.number(cgroup, "memory.swap.current") or 0
    if swap is not None and swap != NO_LIMIT and used > swap:
        raise _in_use("swappages", swap, used)
    if used := cgroups.lower_memory(cgroup, wanted):
        raise _in_use("physpages", wanted.memory_max or 0, used)


def _lacks_swap(limits: Limits) -> bool:
    """Swap is allowed, and the node has none: /proc/swaps is but its head line."""
    return limits.swap_max not in (0, NO_LIMIT) and slurp("/proc/swaps").count(b"\n") < 2


def _in_use(name: str, asked: int, used: int) -> VzError:
    return VzError(
        f"Error: unable to lower {name} to {asked // ubc.PAGE} pages: "
        f"{used // ubc.PAGE} pages are in use",
        Exit.SETUBC,
    )


# --- CPUs ------------------------------------------------------------------------------------


def _place(asked: Applied, cgroup: str, private: str, keys: Sequence[str]) -> Write:
    """What writes cpuset.cpus and cpuset.mems, and returns the options that are not applied.

    Raises VzError 2 when no CPU or no node would be left."""
    cpuset = _cpuset(asked, cgroup)
    options = [key.lower() for key in _CPUSET if key in keys and asked.value(key)]

    def write() -> list[str]:
        done = [cgroupshare.write_cpuset(cgroup, kind, numbers) for kind, numbers in cpuset]
        return [] if done and all(done) else options

    return write


def _cpuset(asked: Applied, cgroup: str) -> list[tuple[str, list[int]]]:
    """Numbers of the kind `cpus` and `mems`, none for no restriction; without that controller
    nothing at all."""
    node = os.path.dirname(cgroup)
    online, nodes = cgroupshare.allowed(node), cgroupshare.allowed(node, "mems")
    if online is None or nodes is None:
        return []
    cpumask, nodemask = asked.value("CPUMASK") or "all", asked.value("NODEMASK") or "all"
    mems = [] if nodemask == "all" else _among(nodes, cgroupshare.cpus_of(nodemask), "nodemask")
    cpus: list[int] = []
    if cpumask == "auto":
        cpus = _among(online, cgroupshare.cpus_of_nodes(mems or nodes), "cpumask")
    elif cpumask != "all":
        cpus = _among(online, cgroupshare.cpus_of(cpumask), "cpumask")
    count = asked.value("CPUS") or 0
    if 0 < count < len(cpus or online):
        cpus = cgroupshare.least_loaded(cgroup, count, cpus or online)
    return [("cpus", cpus), ("mems", mems)]


def _among(have: list[int], wanted: list[int], option: str) -> list[int]:
    if found := [number for number in wanted if number in have]:
        return found
    listed = ",".join(map(str, have))
    raise VzError(f"Error: nothing of --{option} is online: the node has {listed}", Exit.SETFSHD)


# --- disks -----------------------------------------------------------------------------------


def _throttle(asked: Applied, cgroup: str, private: str, keys: Sequence[str]) -> Write:
    """What writes io.max, and returns the options that are not applied.

    Raises VzError 148 when there is a limit and no disk."""
    from vzpy import disks

    found = disks.under(private)
    limit, operations = asked.value("IOLIMIT") or 0, asked.value("IOPSLIMIT") or 0
    if (limit or operations) and not found:
        raise VzError(
            f"Error: no I/O limit is possible: {private} lies on no block device", Exit.SET_IO
        )
    options = [key.lower() for key in _IO if key in keys and asked.value(key)]

    def write() -> list[str]:
        try:
            for disk in found:
                cgroups.write(cgroup, "io.max", f"{disk} {ubc.io_max(limit, operations)}")
        except OSError:
            return options
        return []

    return write


def _without_effect(asked: Applied, private: str, keys: Sequence[str]) -> list[str]:
    """An ioprio that no scheduler of the disks looks at."""
    if "IOPRIO" not in keys or asked.value("IOPRIO") in (None, ubc.DEFAULT_IOPRIO):
        return []
    from vzpy import disks

    top = cgroups.mountpoint()
    return [] if any(disks.weighs(disk, top) for disk in disks.under(private)) else ["ioprio"]


# --- other means -----------------------------------------------------------------------------


def _apply_others(
    asked: Applied,
    cgroup: str,
    keys: Sequence[str],
    facts: Facts | None,
    ids: IdRange | None = None,
) -> list[str]:
    """Beancounters that are no file of a cgroup; returns those that nobody enforces."""
    refused, enforced = [], set(_HERE)
    for module, served in OTHERS.items():
        if set(served).intersection(keys):
            refused += other(module).apply(asked, cgroup, facts, ids)
        enforced.update(key.lower() for key in served)
    unenforced = [name for name in ubc.unenforced(asked, enforced) if name.upper() in keys]
    return refused + unenforced
