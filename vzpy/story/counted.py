"""Limits that programs of ours in the kernel count: sockets (see socketcount.py).

Called for a VPS whose configuration has such a limit, and by live changes of one."""

from __future__ import annotations

from vzpy import countmap, socketcount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import Facts
    from vzpy.ubc import Values

KEYS = socketcount.KINDS


def wanted(conf: Values) -> dict[str, int]:
    """KEY -> the limit, of those that have one."""
    pairs = {key: conf.value(key) for key in KEYS}
    return {k: pair[1] for k, pair in pairs.items() if pair and pair[1] < countmap.NO_LIMIT}


def apply(conf: Values, cgroup: str, facts: Facts | None = None) -> list[str]:
    """Write the limits of vz/N, before its first process or later; the options that this node
    cannot apply."""
    limits = wanted(conf)
    try:
        socketcount.change(cgroup, limits)
    except OSError:
        return [key.lower() for key in limits]
    return []


def read(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """KEY -> held, maxheld, failcnt, of what is counted; nothing of a VPS that is down."""
    try:
        return socketcount.read(facts.cgroup)
    except OSError:
        return {}
