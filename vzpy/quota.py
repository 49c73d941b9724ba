"""What the kernel counts and limits of a directory tree, and of the users in an id range.

    ext4, xfs   a project: its id is on every file of the tree, new ones inherit it
    btrfs       the qgroup of a subvolume (qgroup.py): hard limit of space only

A descriptor of the tree says which file system is meant. Limits of space are in KiB, use in bytes,
times in seconds since the epoch, as the kernel has them (kernel/quotactl.py)."""

from __future__ import annotations

import errno
import os
import time

from vzpy import qgroup
from vzpy.kernel import quotactl as q
from vzpy.kernel.proc import mount_of
from vzpy.quotafile import Row, Ugid, range_of
from vzpy.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.model import IdRange
    from vzpy.quotafile import QuotaFile

KINDS = (q.USRQUOTA, q.GRPQUOTA)
_JUST = 5  # seconds
_OFF = (errno.ESRCH, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)

def open_tree(path: str) -> int:
    """A descriptor of the directory. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def enforced(fd: int, kind: int = q.PRJQUOTA) -> bool:
    """Limits of that kind hold on this file system."""
    if qgroup.is_btrfs(fd):
        return kind == q.PRJQUOTA and qgroup.is_enabled(fd)
    try:
        return bool(q.enforced(fd) & q.ENFORCED[kind])
    except OSError as err:
        if err.errno in _OFF:
            return False
        raise


def why_not(path: str) -> str:
    """What keeps project quota from being possible there."""
    return f"no project quota on {path}, {mount_of(path)[1]}: `vz doctor` tells the remedy"


# A project


def project_of(fd: int) -> int:
    """The project that new files of a directory inherit, 0 when they do not."""
    try:
        xflags, projid = q.fsgetxattr(fd)
    except OSError as err:
        if err.errno in _OFF:
            return 0
        raise
    return projid if xflags & q.FS_XFLAG_PROJINHERIT else 0


def read(fd: int, kind: int, qid: int) -> q.Dqblk:
    """What is counted and limited of an id; nothing, of one that is not recorded."""
    if qgroup.is_btrfs(fd):
        return qgroup.read(fd, qid)
    try:
        return q.getquota(fd, kind, qid)
    except OSError as err:
        if err.errno == errno.ENOENT:
            return q.Dqblk()
        raise


def is_unused(fd: int, project: int) -> bool:
    """Nothing is counted for a project, so nobody's files are in it."""
    found = read(fd, q.PRJQUOTA, project)
    return not found.curspace and not found.curinodes


def rows(fd: int, project: int, space: Row, inodes: Row) -> tuple[Row, Row]:
    """The same limits with what is counted now."""
    found = read(fd, q.PRJQUOTA, project)
    return (
        replace(space, used=found.curspace, expires=_shown(found.btime, found.curspace, space, 10)),
        replace(inodes, used=found.curinodes, expires=_shown(found.itime, found.curinodes, inodes)),
    )


def _shown(timer: int, used: int, row: Row, shift: int = 0) -> int:
    """When the soft limit turns hard, as far as it is exceeded. Without grace the kernel's limit
    is the soft one, and is never exceeded."""
    return timer if is_over(used, row, shift) else 0


def is_over(used: int, row: Row, shift: int = 0) -> bool:
    """The soft limit is exceeded; shift: 10 for space, whose limits are in KiB."""
    return bool(row.soft) and used > row.soft << shift


def limit(fd: int, project: int, space: Row, inodes: Row, slack: int = 0) -> None:
    """Set the limits of a project. What is over its soft limit already keeps its time, or gets
    the grace of now when it had none: the kernel would give that of the whole file system.

    slack  so many KiB and inodes more than the limits, or than what is used when that is more"""
    if qgroup.is_btrfs(fd):
        qgroup.limit(fd, project, _hard(space))
        return
    found = read(fd, q.PRJQUOTA, project)
    now = int(time.time())
    dqblk = q.Dqblk(
        bhardlimit=_slack(_hard(space), -(-found.curspace >> 10), slack),
        bsoftlimit=_slack(space.soft, -(-found.curspace >> 10), slack),
        ihardlimit=_slack(_hard(inodes), found.curinodes, slack),
        isoftlimit=_slack(inodes.soft, found.curinodes, slack),
        btime=_timer(found.curspace, space, now, 10),
        itime=_timer(found.curinodes, inodes, now),
    )
    q.setquota(fd, q.PRJQUOTA, project, dqblk, q.QIF_LIMITS | q.QIF_TIMES)


def _hard(row: Row) -> int:
    """Without grace the soft limit is hard at once."""
    return row.soft if row.soft and not row.grace else row.hard


def _slack(limit: int, used: int, slack: int) -> int:
    return max(limit, used) + slack if limit and slack else limit


def _timer(used: int, row: Row, now: int, shift: int = 0) -> int:
    return (row.expires or now + row.grace) if is_over(used, row, shift) else 0


def shorten(fd: int, kind: int, qid: int, graces: tuple[int, int], just: bool = False) -> bool:
    """The kernel starts the grace of the whole file system when a soft limit is exceeded: make
    that the grace of the VPS (space, inodes; seconds). Returns whether something was changed.

    just  it was exceeded this moment, so that a shorter time of the file system is lengthened"""
    if qgroup.is_btrfs(fd):
        return False
    found, now = read(fd, kind, qid), int(time.time())
    new, valid = found, 0
    kernel = q.getinfo(fd, kind)
    for name, timer, grace, usual, bit in (
        ("btime", found.btime, graces[0], kernel[0], q.QIF_BTIME),
        ("itime", found.itime, graces[1], kernel[1], q.QIF_ITIME),
    ):
        is_new = just and abs(timer - now - usual) <= _JUST
        if timer and grace != usual and (timer > now + grace or is_new):
            new = replace(new, **{name: now + grace})
            valid |= bit
    if valid:
        q.setquota(fd, kind, qid, new, valid)
    return bool(valid)


def shorten_project(fd: int, found: QuotaFile, just: bool = False) -> None:
    """The same of a quota, by its file."""
    shorten(fd, q.PRJQUOTA, found.project, (found.space.grace, found.inodes.grace), just)


def shorten_all(fd: int, found: QuotaFile) -> None:
    """The same of a quota and, where they are limited, its users and groups."""
    shorten_project(fd, found)
    if found.ugid_active:
        ids = range_of(found)
        for ugid in ugids(fd, ids):
            shorten(fd, ugid.kind, ids.base + ugid.number, found.graces_of(ugid.kind))


def unlimit(fd: int, project: int) -> None:
    """No limits; counting goes on, it cannot be stopped. Absence is success."""
    if qgroup.is_btrfs(fd):
        qgroup.unlimit(fd, project)
        return
    try:
        q.setquota(fd, q.PRJQUOTA, project, q.Dqblk(), q.QIF_LIMITS | q.QIF_TIMES)
    except OSError as err:
        if err.errno not in (*_OFF, errno.ENOENT):
            raise


# Users and groups of a range


def ugids(fd: int, ids: IdRange) -> Iterator[Ugid]:
    """The users and groups of a range that own or are limited in something, by their numbers
    inside."""
    for kind in KINDS:
        at = ids.base
        while ids.holds(at):
            try:
                at, dqblk = q.getnextquota(fd, kind, at)
            except OSError as err:
                if err.errno in (errno.ENOENT, *_OFF):
                    break
                raise
            if not ids.holds(at):
                break
            if dqblk != q.Dqblk():
                yield Ugid(kind, at - ids.base, dqblk)
            at += 1


def has_limits(dqblk: q.Dqblk) -> bool:
    return bool(dqblk.bsoftlimit or dqblk.bhardlimit or dqblk.isoftlimit or dqblk.ihardlimit)


def timed(new: q.Dqblk, had: q.Dqblk, graces: tuple[int, int]) -> q.Dqblk:
    """Limits with the time for what is over them already: the one that runs, or a whole grace."""
    now = int(time.time())
    over = new.bsoftlimit and had.curspace > new.bsoftlimit << 10
    btime = (had.btime or now + graces[0]) if over else 0
    over = new.isoftlimit and had.curinodes > new.isoftlimit
    itime = (had.itime or now + graces[1]) if over else 0
    return replace(new, btime=btime, itime=itime)


def limit_ugid(fd: int, ids: IdRange, ugid: Ugid) -> None:
    q.setquota(
        fd, ugid.kind, ids.base + ugid.number, ugid.dqblk, q.QIF_LIMITS | q.QIF_TIMES
    )


def unlimit_range(fd: int, ids: IdRange) -> None:
    """No limits for anybody of a range: before it is another VPS's. Absence is success."""
    for ugid in ugids(fd, ids):
        if has_limits(ugid.dqblk):
            limit_ugid(fd, ids, replace(ugid, dqblk=q.Dqblk()))
