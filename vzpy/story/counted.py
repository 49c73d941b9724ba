"""Limits that programs of ours in the kernel count: sockets (socketcount.py), open files
(filecount.py), file locks (lockcount.py) and entries of iptables (tablelimit.py).

Called for a VPS whose configuration has such a limit, and by live changes of one."""

from __future__ import annotations

from vzpy import cgroups, countmap, filecount, lockcount, socketcount, tablelimit
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.model import Facts
    from vzpy.ubc import Values

KEYS = socketcount.KINDS  # what can be counted of any cgroup, ids or not


def apply(
    conf: Values, cgroup: str, facts: Facts | None = None, ids: IdRange | None = None
) -> list[str]:
    """Write the limits of a cgroup, before its first process or later; the options that this node
    cannot apply.

    ids  of those whose files and locks count: they are needed for that, or the facts of a VPS that
         runs"""
    pids = cgroups.tasks(cgroup) if facts else []
    if facts:
        ids = IdRange(facts.base, facts.count)
    sockets = _wanted(conf, socketcount.KINDS)
    files = _wanted(conf, filecount.KINDS)
    locks = _wanted(conf, lockcount.KINDS)
    tables = _wanted(conf, tablelimit.KINDS)
    return [
        *_refused(sockets, lambda: socketcount.change(cgroup, sockets, pids)),
        *_refused(files, lambda: filecount.change(cgroup, ids, files)),
        *_refused(locks, lambda: lockcount.change(cgroup, ids, locks)),
        *_refused(tables, lambda: tablelimit.change(cgroup, tables)),
    ]


def _wanted(conf: Values, keys: tuple[str, ...]) -> dict[str, int]:
    """KEY -> the limit, of those that have one."""
    pairs = {key: conf.value(key) for key in keys}
    return {key: pair[1] for key, pair in pairs.items() if pair and pair[1] < countmap.NO_LIMIT}


def _refused(limits: dict[str, int], change: Callable[[], None]) -> list[str]:
    try:
        change()
    except OSError:
        return [key.lower() for key in limits]
    return []


def read(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """KEY -> held, maxheld, failcnt, of what is counted; nothing of a VPS that is down."""
    found: dict[str, tuple[int, int, int]] = {}
    for room in (socketcount, filecount, lockcount, tablelimit):
        try:
            found |= room.read(facts.cgroup)
        except OSError:
            pass  # no such cgroup, or a kernel without programs of that kind
    return found
