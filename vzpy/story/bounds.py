"""Beancounters that are bounds of single things inside a VPS, each by what the kernel offers
(beancounters.md 2).

    lockedpages   RLIMIT_MEMLOCK of each process
    privvmpages   RLIMIT_DATA of each process: beyond the barrier it is refused with ENOMEM
    numsiginfo    RLIMIT_SIGPENDING of its user namespace, and of each process
    numpty        max= of its devpts, which is then a mount of the host's: its root cannot raise it
    shmpages      kernel.shmall, and the size of /dev/shm at start
    tcpsndbuf     the most that net.ipv4.tcp_wmem lets one socket have, and SO_SNDBUF
    tcprcvbuf     the same of tcp_rmem, and SO_RCVBUF
    othersockbuf  the most that SO_SNDBUF gives a socket that is not TCP
    dgramrcvbuf   the same of SO_RCVBUF

What its root could raise, programs on vz/N hold in place (knobs.py)."""

from __future__ import annotations

import errno
import os
import resource

from vzpy import cgroups, knobs, mountplan, ns
from vzpy.kernel import mount as m
from vzpy.kernel import process
from vzpy.kernel.proc import slurp
from vzpy.record import record
from vzpy.story import within

TYPE_CHECKING = False
if TYPE_CHECKING:

    from vzpy.model import Facts, IdRange
    from vzpy.ubc import Values

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST = 1 << 40  # a limit beyond it is none
_LEAST_BUFFER = 64 << 10  # bytes that a socket may always have, as far as the whole limit allows
_AT_BARRIER = "PRIVVMPAGES"
# Parameter -> resource, its unit in bytes, what an unlimited one gives a VPS that runs.
_RLIMITS = {
    "LOCKEDPAGES": (ns.MEMLOCK, _PAGE, None),
    "NUMSIGINFO": (ns.SIGPENDING, 1, None),
    _AT_BARRIER: (ns.DATA, _PAGE, resource.RLIM_INFINITY),
}
_TCP = {"TCPSNDBUF": "net/ipv4/tcp_wmem", "TCPRCVBUF": "net/ipv4/tcp_rmem"}
_BUFFERS = (*_TCP, "OTHERSOCKBUF", "DGRAMRCVBUF")  # to send, to receive; of TCP, of others
_SHM, _SHMALL, _SHMALL_MAX = "SHMPAGES", "kernel/shmall", 2**64 - 1 - (1 << 24)
_PTYS_MAX = 1 << 20
_CONSOLE = 1  # pty that the host takes from the VPS for its /dev/console


@record
class Birth:
    """What a new VPS has to be born with.

    rlimits   for the launcher
    shm_size  of /dev/shm, "" for the kernel's default
    ptys      at most so many, 0 for the kernel's default"""

    rlimits: tuple[tuple[int, int], ...] = ()
    shm_size: str = ""
    ptys: int = 0


def of_birth(asked: Values) -> Birth:
    return Birth(
        tuple(_rlimits(asked)),
        _shm_size(asked),
        _limit(asked, "NUMPTY"),
    )


def _shm_size(asked: Values) -> str:
    pages = _limit(asked, _SHM)
    return f"{pages * _PAGE // 1024}k" if pages else ""


def _limit(asked: Values, key: str) -> int:
    """0 for none."""
    pair = asked.value(key) or (_MOST, _MOST)
    limit = pair[0] if key == _AT_BARRIER else pair[1]
    return int(limit) if limit < _MOST else 0


def _rlimits(asked: Values) -> list[tuple[int, int]]:
    limits = ((which, _limit(asked, key) * unit) for key, (which, unit, _) in _RLIMITS.items())
    return [(which, value) for which, value in limits if value]


def devpts(ptys: int, ids: IdRange) -> int:
    """A detached devpts of the host's for a VPS, with so many ptys: its descriptor."""
    options: dict[str, str | None] = _pts_options(ptys, ids.base)
    return m.fsmount("devpts", m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC, **options)


def _pts_options(ptys: int, base: int) -> dict[str, str | None]:
    gid = int(mountplan.DEVPTS["gid"]) + base
    return {**mountplan.DEVPTS, "gid": str(gid), "max": str(ptys + _CONSOLE)}


def apply(
    asked: Values, cgroup: str, facts: Facts | None = None, ids: IdRange | None = None
) -> list[str]:
    """Put up the programs on vz/N; of a running VPS (facts) change what stands inside, too.

    Returns the options that this node cannot apply."""
    refused = _hold(asked, cgroup, again=bool(facts))
    if facts:
        refused += _change(asked, facts)
    return list(dict.fromkeys(refused))


def inside(asked: Values, facts: Facts) -> list[str]:
    """The sysctls of a new VPS's namespaces, before anything runs there; the options that could
    not be applied."""
    keys = [key for key in (*_TCP, _SHM) if _limit(asked, key)]
    return _write_sysctls(asked, facts, keys)


def read(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """NUMPTY -> held, maxheld (of this moment), failcnt (which the kernel does not count)."""
    try:
        with within.root_of(facts) as root:
            _check_mounted(facts.pid, "dev/pts", b"devpts")
            fd = m.openat2(root, "dev/pts", os.O_RDONLY | os.O_DIRECTORY)
        try:
            held = sum(name.isdigit() for name in os.listdir(fd)) - _CONSOLE * facts.daemon
        finally:
            os.close(fd)
    except OSError:
        return {}
    return {"NUMPTY": (max(held, 0), max(held, 0), 0)}


def _check_mounted(pid: int, mountpoint: str, kind: bytes) -> None:
    """Raises OSError when a VPS has something else there than at its start: a file system of the
    guest's own (FUSE) might keep who looks at it waiting."""
    found = {}
    for row in slurp(f"/proc/{pid}/mountinfo").splitlines():
        mount, _, source = row.partition(b" - ")
        found[mount.split(b" ")[4]] = source.split(b" ")[0]
    if (found.get(b"/dev"), found.get(b"/" + mountpoint.encode())) != (b"tmpfs", kind):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"/{mountpoint}")


def _hold(asked: Values, cgroup: str, again: bool) -> list[str]:
    """again: there may be programs of an earlier limit"""
    names = {name: key for key, name in {**_TCP, _SHM: _SHMALL}.items() if _limit(asked, key)}
    buffers = {key: _buffer(asked, key) for key in _BUFFERS}
    refused = []
    if names or again:
        try:
            knobs.keep_sysctls(cgroup, names)
        except OSError:
            refused += [key.lower() for key in names.values()]
    if any(buffers.values()) or again:
        try:
            sizes = list(buffers.values())
            knobs.clamp_buffers(cgroup, sizes[:2], sizes[2:])
        except OSError:
            refused += [key.lower() for key, size in buffers.items() if size]
    return refused


def _buffer(asked: Values, key: str) -> int:
    """Bytes that one socket may have: its share of the limit; 0 for no limit."""
    total = _limit(asked, key)
    sockets = _limit(asked, "NUMTCPSOCK" if key in _TCP else "NUMOTHERSOCK") or 1
    return min(total, max(total // sockets, _LEAST_BUFFER))


# Inside a running VPS


def _change(asked: Values, facts: Facts) -> list[str]:
    refused = _write_sysctls(asked, facts, [*_TCP, _SHM])
    ptys = _limit(asked, "NUMPTY") or _PTYS_MAX
    mounts: tuple[tuple[str, str, bytes, dict[str, str | None]], ...] = (
        ("NUMPTY", "dev/pts", b"devpts", _pts_options(ptys, facts.base)),
        (_SHM, "dev/shm", b"tmpfs", {"size": _shm_size(asked) or "50%"}),
    )
    for key, mountpoint, kind, options in mounts:
        if asked.value(key):
            try:
                with within.root_of(facts) as root:
                    _check_mounted(facts.pid, mountpoint, kind)
                    _remount(root, mountpoint, options)
            except OSError:
                refused.append(key.lower())
    for key, (which, unit, free) in _RLIMITS.items():
        limit = _limit(asked, key)
        value = limit * unit if limit else free if asked.value(key) else None
        if value is not None and not _set_rlimits(facts.cgroup, which, value) and limit:
            refused.append(key.lower())
    return refused


def _remount(root: int, mountpoint: str, options: dict[str, str | None]) -> None:
    fd = m.openat2(root, mountpoint, os.O_PATH | os.O_DIRECTORY)
    try:
        m.reconfigure(fd, **options)
    finally:
        os.close(fd)


def _set_rlimits(cgroup: str, which: int, value: int) -> bool:
    """Of every process that there is; whoever is forked meanwhile is found in another round."""
    seen: set[int] = set()
    try:
        while new := set(cgroups.tasks(cgroup)) - seen:
            for pid in new:
                try:
                    resource.prlimit(pid, which, (value, value))
                except ProcessLookupError:
                    pass
            seen |= new
    except (OSError, ValueError):
        return False
    return True


def _write_sysctls(asked: Values, facts: Facts, keys: list[str]) -> list[str]:
    """As the root of the VPS, whom its namespaces belong to; the options that were not applied."""
    texts = {}
    for key in keys:
        if key == _SHM:
            texts[_SHMALL] = str(_limit(asked, key) or _SHMALL_MAX)
        else:
            size = _buffer(asked, key) or _MOST
            sizes = slurp(f"/proc/sys/{_TCP[key]}").split()
            texts[_TCP[key]] = " ".join(str(min(int(x), size)) for x in sizes)

    def write() -> None:
        for name, text in texts.items():
            fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, text.encode())
            os.close(fd)

    try:
        if texts:
            within.as_root(facts.pid, process.CLONE_NEWIPC | process.CLONE_NEWNET, write)
    except OSError:
        return [key.lower() for key in keys if _limit(asked, key)]
    return []
