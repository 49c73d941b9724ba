"""The second level of a quota: limits of users and groups inside a VPS, by vzquota's own commands
(quota.md 6.2). Without a VPS that runs they are kept in the quota file."""

from __future__ import annotations

import errno
import os

from vzpy import quota
from vzpy.kernel import quotactl as q
from vzpy.quotafile import QuotaError, Ugid, range_of, save
from vzpy.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.quotaid import Quota


def setlimit2(own: Quota, kind: int, number: int, limits: tuple[int, int, int, int]) -> None:
    """Soft and hard limit of space (KiB) and inodes, of a user (0) or group (1) inside."""
    bsoft, bhard, isoft, ihard = limits
    with own.locked():
        found = own.with_ugids(own.load("setlimit2"))
        others = [u for u in found.ugids if (u.kind, u.number) != (kind, number)]
        had = next(
            (u.dqblk for u in found.ugids if (u.kind, u.number) == (kind, number)), q.Dqblk()
        )
        if had == q.Dqblk() and found.ugid_limit and len(others) >= found.ugid_limit:
            raise QuotaError.of(
                "Ugid limit is exceeded", OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            )
        dqblk = replace(
            had, bsoftlimit=bsoft, bhardlimit=bhard, isoftlimit=isoft, ihardlimit=ihard
        )
        new = Ugid(kind, number, quota.timed(dqblk, had, found.graces_of(kind)))
        if found.ugid_active:
            fd = own.open(found.path)
            try:
                quota.limit_ugid(fd, range_of(found), new)
            finally:
                os.close(fd)
        ordered = sorted((*others, new), key=lambda u: (u.kind, u.number))
        save(own.file, replace(found, ugids=tuple(ordered)))


def set_graces(own: Quota, kinds: tuple[int, ...], bgrace: int, igrace: int) -> None:
    with own.locked():
        found = own.load("setlimit2")
        graces = list(found.graces)
        for kind in kinds:
            graces[2 * kind : 2 * kind + 2] = [bgrace, igrace]
        save(own.file, replace(found, graces=(graces[0], graces[1], graces[2], graces[3])))


def reload2(own: Quota) -> None:
    """The kernel gets the second-level limits of the file. Raises QuotaError 6."""
    with own.locked():
        found = own.running()
        fd = own.open(found.path)
        try:
            quota.unlimit_range(fd, range_of(found))
            for ugid in found.ugids:
                quota.limit_ugid(fd, range_of(found), ugid)
        finally:
            os.close(fd)
