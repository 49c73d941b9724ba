"""What the cgroup of a VPS tells: use, peaks, refusals; and what is kept where the kernel forgets.

Kept things lie on the cgroup vz/N itself, as extended attributes that only the host's root sees
(trusted.*, xattr(7)): they go when it goes, and need no clean-up."""

from __future__ import annotations

import os

from vzpy.cgroupwalk import below
from vzpy.kernel.proc import slurp
from vzpy.record import record

_KEPT = "trusted.vz.counters"
_APPLIED = "trusted.vz.applied"
_SEEN_MAX = 2000  # cgroups with refusals that are remembered; an attribute holds 64 KiB


def number(path: str, name: str) -> int | None:
    """A file of one number; None when there is no such file, or `max` stands in it."""
    try:
        return int(slurp(f"{path}/{name}"))
    except (OSError, ValueError):
        return None


def flat(path: str, name: str) -> dict[str, int]:
    """A file of `key number` lines, as memory.stat; empty when there is no such file."""
    try:
        rows = slurp(f"{path}/{name}").decode().split("\n")
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (row.partition(" ") for row in rows) if value}


# --- refused forks ---------------------------------------------------------------------------


def fork_refusals(path: str) -> dict[int, int] | None:
    """How often a fork was refused, by the inode of the cgroup that counted it, without zeros;
    None where the controller is missing.

    Since Linux 6.11 the count stands where the limit is (pids.events.local); before, where the
    task is that forks, wherever the limit was."""
    if local := flat(path, "pids.events.local"):
        # For an exec into a full VPS the limit stands one level lower for a while.
        count = local["max"] + flat(f"{path}/ve", "pids.events.local").get("max", 0)
        return {0: count} if count else {}
    if not flat(path, "pids.events"):
        return None
    counts = ((inode, flat(where, "pids.events").get("max", 0)) for where, inode in below(path))
    return {inode: count for inode, count in counts if count}


@record
class Kept:
    """lost   refused forks that cgroups counted which are gone
    seen   cgroup -> the count it had when it was looked at last
    peaks  beancounter -> the greatest use that was seen"""

    lost: int
    seen: dict[int, int]
    peaks: dict[str, int]


def kept(path: str) -> Kept:
    """What was kept of vz/N; nothing when there is nothing, or no such cgroup."""
    lost, seen, peaks = 0, {}, {}
    try:
        lines = os.getxattr(path, _KEPT).decode().split("\n")
    except OSError:
        lines = []
    for line in lines:
        word, key, value = line.split(" ")
        if word == "lost":
            lost = int(value)
        elif word == "seen":
            seen[int(key)] = int(value)
        else:
            peaks[key] = int(value)
    return Kept(lost, seen, peaks)


def keep(path: str, forks: dict[int, int] | None, held: dict[str, int]) -> Kept:
    """Take note of a look at vz/N: counts of cgroups that were there at the last look and are not
    any more are added to what is lost, and maxima grow.

    forks  what fork_refusals() said, None to leave that alone
    Raises nothing: what cannot be stored is returned all the same."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Kept(0, {}, {})
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        old = kept(path)
        new = _merged(old, forks, held)
        if new != old:
            _store(fd, new)
        return new
    finally:
        os.close(fd)


def _merged(old: Kept, forks: dict[int, int] | None, held: dict[str, int]) -> Kept:
    peaks = dict(old.peaks)
    for name, value in held.items():
        if value > peaks.get(name, 0):
            peaks[name] = value
    if forks is None:
        return Kept(old.lost, old.seen, peaks)
    gone = sum(count for inode, count in old.seen.items() if inode not in forks)
    return Kept(old.lost + gone, forks, peaks)


def _store(fd: int, what: Kept) -> None:
    seen = sorted(what.seen.items(), key=lambda item: -item[1])[:_SEEN_MAX]
    lines = [f"lost - {what.lost}"]
    lines += [f"seen {inode} {count}" for inode, count in seen]
    lines += [f"peak {name} {value}" for name, value in what.peaks.items()]
    try:
        os.setxattr(fd, _KEPT, "\n".join(lines).encode())
    except OSError:
        pass  # not on this kernel's cgroup2: the maxima are those of this look


def note_leaf(vps: str, leaf: str) -> None:
    """Before a leaf is removed: remember what it counted, for the next look to find it gone."""
    count = flat(leaf, "pids.events").get("max", 0)
    if not count or "max" in flat(vps, "pids.events.local"):
        return
    import fcntl

    try:
        fd = os.open(vps, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        old = kept(vps)
        _store(fd, Kept(old.lost, {**old.seen, os.stat(leaf).st_ino: count}, old.peaks))
    except OSError:
        pass  # removed by somebody else, who has noted it
    finally:
        os.close(fd)


# --- what was applied ------------------------------------------------------------------------


def applied(path: str) -> dict[str, str] | None:
    """The parameters that hold for a running VPS, as texts; None when nobody wrote them down."""
    try:
        text = os.getxattr(path, _APPLIED).decode()
    except OSError:
        return None
    return dict(line.split("=", 1) for line in text.split("\n") if line)


def write_applied(path: str, texts: dict[str, str]) -> None:
    try:
        os.setxattr(path, _APPLIED, "\n".join(f"{k}={v}" for k, v in texts.items()).encode())
    except OSError:
        pass  # then N.conf is asked
