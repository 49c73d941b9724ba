"""Disk quota by descriptor, and the project of a file: quotactl(2), quotactl_fd (Linux 5.14),
ioctl_xfs_fsgetxattr(2). The generic commands below reach ext4 and xfs alike (fs/quota/quota.c)."""

from __future__ import annotations

import _struct as struct
import fcntl

from vzpy.kernel.libc import syscall
from vzpy.kernel.numbers import NR
from vzpy.record import record

USRQUOTA, GRPQUOTA, PRJQUOTA = 0, 1, 2

Q_SYNC, Q_QUOTAON, Q_QUOTAOFF, Q_GETFMT, Q_GETINFO, Q_SETINFO = range(0x800001, 0x800007)
Q_GETQUOTA, Q_SETQUOTA, Q_GETNEXTQUOTA = range(0x800007, 0x80000A)
Q_XQUOTAON, Q_XQUOTAOFF, Q_XGETQUOTA, Q_XSETQLIM, Q_XGETQSTAT, Q_XQUOTARM, Q_XQUOTASYNC = range(
    0x5801, 0x5808
)
Q_XGETQSTATV, Q_XGETNEXTQUOTA = 0x5808, 0x5809

QIF_BLIMITS, QIF_SPACE, QIF_ILIMITS, QIF_INODES, QIF_BTIME, QIF_ITIME = (1 << n for n in range(6))
QIF_LIMITS, QIF_TIMES = QIF_BLIMITS | QIF_ILIMITS, QIF_BTIME | QIF_ITIME
IIF_BGRACE, IIF_IGRACE = 1, 2
# Bits of enforced(): limits of that type hold (linux/dqblk_xfs.h).
ENFORCED = {USRQUOTA: 1 << 1, GRPQUOTA: 1 << 3, PRJQUOTA: 1 << 5}

DQBLK = struct.Struct("=8QI4x")  # struct if_dqblk; if_nextdqblk has the id in the padding
NEXTDQBLK = struct.Struct("=8QII")
DQINFO = struct.Struct("=QQII")
_STATV = struct.Struct("=bBH252x")  # fs_quota_statv begins: version, padding, flags

_FSXATTR = struct.Struct("=5I8x")  # xflags extsize nextents projid cowextsize
_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
FS_XFLAG_PROJINHERIT = 0x200


@record
class Dqblk:
    """struct if_dqblk: limits of space in KiB (0: none), space in bytes, times in epoch seconds."""

    bhardlimit: int = 0
    bsoftlimit: int = 0
    curspace: int = 0
    ihardlimit: int = 0
    isoftlimit: int = 0
    curinodes: int = 0
    btime: int = 0
    itime: int = 0


def quotactl_fd(fd: int, cmd: int, kind: int, qid: int, addr: bytes | None) -> None:
    """A command on the file system that a descriptor lies on; what it returns is written to addr.

    Raises OSError: ESRCH quota of that kind is off, ENOSYS the file system knows none."""
    syscall(NR["quotactl_fd"], fd, (cmd << 8 | kind) & 0xFFFFFFFF, qid, addr)


def enforced(fd: int) -> int:
    """Which kinds have limits that hold, as bits of ENFORCED (Q_XGETQSTATV).

    Raises OSError as quotactl_fd()."""
    addr = _STATV.pack(1, 0, 0)
    quotactl_fd(fd, Q_XGETQSTATV, USRQUOTA, 0, addr)
    flags: int = _STATV.unpack(addr)[2]
    return flags


def getquota(fd: int, kind: int, qid: int) -> Dqblk:
    """Raises OSError: ENOENT, on xfs, when nothing is recorded of that id."""
    addr = DQBLK.pack(*(0,) * 9)
    quotactl_fd(fd, Q_GETQUOTA, kind, qid, addr)
    return Dqblk(*DQBLK.unpack(addr)[:8])


def getnextquota(fd: int, kind: int, qid: int) -> tuple[int, Dqblk]:
    """The first recorded id that is not below `qid`. Raises OSError: ENOENT, there is none."""
    addr = NEXTDQBLK.pack(*(0,) * 10)
    quotactl_fd(fd, Q_GETNEXTQUOTA, kind, qid, addr)
    *fields, _, found = NEXTDQBLK.unpack(addr)
    return found, Dqblk(*fields)


def setquota(fd: int, kind: int, qid: int, dqblk: Dqblk, valid: int) -> None:
    """Set what the QIF_ bits of `valid` name."""
    quotactl_fd(fd, Q_SETQUOTA, kind, qid, DQBLK.pack(*dqblk.__dict__.values(), valid))


def getinfo(fd: int, kind: int) -> tuple[int, int]:
    """Grace of space and of inodes, seconds, for all of that kind on the file system."""
    addr = DQINFO.pack(0, 0, 0, 0)
    quotactl_fd(fd, Q_GETINFO, kind, 0, addr)
    bgrace, igrace, _, _ = DQINFO.unpack(addr)
    return bgrace, igrace


def fsgetxattr(fd: int) -> tuple[int, int]:
    """(FS_XFLAG_ bits, project id) of a file or directory."""
    fields = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))
    return fields[0], fields[3]


def fssetxattr(fd: int, xflags: int, projid: int) -> None:
    """Set both; what else the struct holds stays. Needs the initial user namespace."""
    fields = list(_FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))))
    fields[0], fields[3] = xflags, projid
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, _FSXATTR.pack(*fields))
