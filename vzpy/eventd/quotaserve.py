"""Answers quotactl(2) of one VPS, in a process of its own (quotabroker.py).

    what a process inside names            what is done on the host
    the device that / shows in its mounts  the file system of its private area
    user or group N                        N + the first id of the VPS, if it is within its range
    grace times                            those in its quota file; the kernel has one for all

The rules are the kernel's, with the VPS in the place of the machine: its root may do all, others
look at themselves. Switching on and off, project quota, and setting what is used are refused.
What the guest hands over is read once, checked, and never trusted to stay."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import time

from vzpy import quota, quotaugids
from vzpy.kernel import proc, process, seccomp
from vzpy.kernel import quotactl as q
from vzpy.kernel.numbers import NR
from vzpy.model import IdRange
from vzpy.node import Node
from vzpy.quotafile import QuotaError, QuotaFile, Row, Ugid, range_of
from vzpy.quotaid import Quota
from vzpy.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.kernel.seccomp import Notification
    from vzpy.model import Facts, NodePaths

_IDLE = 500  # milliseconds without a call, after which the process ends
_LONGEST = 10  # seconds for one call
# What it costs to answer no limit of the VPS counts: so many calls in so many seconds.
_CALLS, _WINDOW = 50, 0.1
_CAP_SYS_ADMIN = 1 << 21
_DEVICE_MAX = 256
_FREE = (q.Q_GETFMT, q.Q_GETINFO, q.Q_XGETQSTAT, q.Q_XGETQSTATV)
_SIZES = {
    q.Q_GETFMT: 4, q.Q_GETINFO: 24, q.Q_SETINFO: 24, q.Q_GETQUOTA: 72, q.Q_SETQUOTA: 72,
    q.Q_GETNEXTQUOTA: 72, q.Q_XGETQUOTA: 112, q.Q_XSETQLIM: 112, q.Q_XGETNEXTQUOTA: 112,
    q.Q_XGETQSTAT: 80, q.Q_XGETQSTATV: 160,
}  # fmt: skip
_X_ID = struct.Struct("=I")  # at 4 in struct fs_disk_quota
_X_LIMITS, _X_GRACES, _X_TIMERS = 0x3F, 0xC0, 0x1C0  # bits of d_fieldmask, a __u16 at 2
_X_BTIMER, _X_ITIMER = 0x40, 0x80
# Where fs_quota_stat and _statv have i32 times of space and inodes, their flags are a u16 at 2.
_X_TIMES_AT = {q.Q_XGETQSTAT: 60, q.Q_XGETQSTATV: 80}
_X_OURS = 0x0F  # users' and groups' bits among the flags


def run(paths: NodePaths, facts: Facts, listener: int) -> None:
    """The whole life of the process; does not return."""
    try:
        os.dup2(listener, 3)
        process.close_range(4)
        serve(Server(3, facts, records_of(paths, facts)))
    finally:
        os._exit(0)


def serve(server: Server) -> None:
    poll = select.poll()
    poll.register(server.listener, select.POLLIN)
    answered, since = 0, time.monotonic()
    while any(events & select.POLLIN for _, events in poll.poll(_IDLE)):
        if answered == _CALLS:
            time.sleep(max(since + _WINDOW - time.monotonic(), 0))
            answered, since = 0, time.monotonic()
        signal.alarm(_LONGEST)  # its default: the end, whatever we wait for
        server.one()
        signal.alarm(0)
        answered += 1


class Refused(OSError):
    """The answer is an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))


class Caller:
    """The thread that waits for an answer."""

    def __init__(self, pid: int, init: int) -> None:
        self.pid = pid
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        with open(f"/proc/{pid}/status") as file:
            rows = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        self.uid = int(rows["Uid"].split()[1])
        self.gids = {int(rows["Gid"].split()[1]), *map(int, rows["Groups"].split())}
        # A user namespace that somebody made inside has powers over itself alone.
        self.is_at_home = (
            os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat(f"/proc/{init}/ns/user").st_ino
        )
        self.is_admin = self.is_at_home and bool(int(rows["CapEff"], 16) & _CAP_SYS_ADMIN)

    def read(self, address: int, size: int) -> bytes:
        """Raises Refused EFAULT."""
        try:
            data = os.pread(self.memory, size, address)
        except (OSError, OverflowError):
            raise Refused(errno.EFAULT) from None
        if len(data) != size:
            raise Refused(errno.EFAULT)
        return data

    def text(self, address: int) -> bytes:
        """Page by page, since what follows a string need not be mapped."""
        found = b""
        while b"\0" not in found and len(found) < _DEVICE_MAX:
            found += self.read(address + len(found), 16 - (address + len(found)) % 16)
        return found.partition(b"\0")[0]

    def write(self, address: int, data: bytes) -> None:
        try:
            os.pwrite(self.memory, data, address)
        except (OSError, OverflowError):
            raise Refused(errno.EFAULT) from None

    def device_of(self, fd: int) -> int:
        """st_dev of the file system of a descriptor, without touching the file."""
        try:
            with open(f"/proc/{self.pid}/fdinfo/{fd}") as file:
                mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
            with open(f"/proc/{self.pid}/mountinfo", "rb") as rows:
                row = next(r.split() for r in rows if r.split()[0] == mount.encode())
        except (OSError, StopIteration):
            raise Refused(errno.EBADF) from None
        major, _, minor = row[2].partition(b":")
        return os.makedev(int(major), int(minor))

    def close(self) -> None:
        os.close(self.memory)


class Records:
    """Users and groups of a private area, among those of the node's file system."""

    def __init__(self, tree: str, own: Quota) -> None:
        self.tree, self.own = tree, own
        self.fd = quota.open_tree(tree)

    def now(self) -> QuotaFile:
        """Raises QuotaError, which is ESRCH, when they are not limited."""
        return self.own.running()

    def set_graces(self, kind: int, bgrace: int, igrace: int) -> None:
        quotaugids.set_graces(self.own, (kind,), bgrace, igrace)


class ImageRecords(Records):
    """Those of a file system of the VPS's own, which has their own ids, and grace times for all."""

    def __init__(self, facts: Facts, own: Quota, limit: int) -> None:
        super().__init__(facts.root, own)
        self.count, self.limit = facts.count, limit

    def now(self) -> QuotaFile:
        graces = (*q.getinfo(self.fd, q.USRQUOTA), *q.getinfo(self.fd, q.GRPQUOTA))
        return QuotaFile(
            self.tree, 0, Row(), Row(), ugid_active=bool(self.limit), ugid_limit=self.limit,
            count=self.count, graces=graces,
        )  # fmt: skip

    def set_graces(self, kind: int, bgrace: int, igrace: int) -> None:
        info = q.DQINFO.pack(bgrace, igrace, 0, q.IIF_BGRACE | q.IIF_IGRACE)
        q.quotactl_fd(self.fd, q.Q_SETINFO, kind, 0, info)


def records_of(paths: NodePaths, facts: Facts) -> Records:
    own = Quota(facts.ctid, paths.quota_file(facts.ctid))
    if facts.layout != "image":
        return Records(facts.private, own)
    vps = Node(etc=paths.etc, run=paths.run).vps(facts.ctid)
    return ImageRecords(facts, own, vps.config.value("QUOTAUGIDLIMIT") or 0)


class Server:
    def __init__(self, listener: int, facts: Facts, records: Records) -> None:
        self.listener, self.init, self.base = listener, facts.pid, facts.base
        self.records, self.fd = records, records.fd
        self.device = proc.mount_of(records.tree)[0]

    def one(self) -> None:
        """Hear one call and answer it."""
        try:
            call = seccomp.receive(self.listener)
        except OSError:
            return  # its caller was killed
        number = 0
        try:
            caller = Caller(call.pid, self.init)
            try:
                if not seccomp.is_waiting(self.listener, call.id):
                    return  # whoever has this pid now has called nothing
                self.answer(caller, call)
            finally:
                caller.close()
        except QuotaError as err:
            number = err.errno or errno.ESRCH
        except OSError as err:
            number = err.errno or errno.EIO
        except (ValueError, KeyError, struct.error):
            number = errno.EINVAL
        seccomp.respond(self.listener, call.id, number)

    def answer(self, caller: Caller, call: Notification) -> None:
        """Raises OSError: what the call returns."""
        if call.nr == NR["quotactl_fd"]:
            fd, command = (arg & 0xFFFFFFFF for arg in call.args[:2])
        else:
            fd, command = -1, call.args[0] & 0xFFFFFFFF
        command, kind = command >> 8, command & 0xFF
        if command in (q.Q_SYNC, q.Q_XQUOTASYNC):
            return  # the kernel keeps it right
        if command not in _SIZES:
            raise Refused(errno.EPERM)
        if fd < 0 and caller.text(call.args[1]) != os.fsencode(self.device):
            raise Refused(errno.ENODEV)
        if fd >= 0 and caller.device_of(fd) != os.fstat(self.fd).st_dev:
            raise Refused(errno.ENOSYS)
        if kind not in quota.KINDS:
            raise Refused(errno.ESRCH)
        found = self.records.now()
        if not found.ugid_active:
            raise Refused(errno.ESRCH)
        number, address = call.args[2] & 0xFFFFFFFF, call.args[3]
        self.permit(caller, command, kind, number)
        self.carry_out(caller, found, command, kind, number, address)

    def permit(self, caller: Caller, command: int, kind: int, number: int) -> None:
        """check_quotactl_permission() of fs/quota/quota.c. Raises Refused EPERM."""
        if command in _FREE or caller.is_admin:
            return
        if command in (q.Q_GETQUOTA, q.Q_XGETQUOTA) and caller.is_at_home:
            host = self.base + number
            if host == caller.uid if kind == q.USRQUOTA else host in caller.gids:
                return
        raise Refused(errno.EPERM)

    def carry_out(
        self, caller: Caller, found: QuotaFile, command: int, kind: int, number: int, address: int
    ) -> None:
        ids = range_of(found)
        if command not in _FREE and command != q.Q_SETINFO and not 0 <= number < ids.count:
            raise Refused(errno.ESRCH)
        if command == q.Q_SETINFO:
            bgrace, igrace, _, valid = q.DQINFO.unpack(caller.read(address, 24))
            self.set_graces(
                found, kind,
                bgrace if valid & q.IIF_BGRACE else None,
                igrace if valid & q.IIF_IGRACE else None,
            )
        elif command == q.Q_SETQUOTA:
            *fields, valid = q.DQBLK.unpack(caller.read(address, 72))
            self.set_quota(found, Ugid(kind, number, q.Dqblk(*fields)), valid)
        elif command == q.Q_XSETQLIM:
            self.set_xfs(found, kind, number, bytearray(caller.read(address, 112)))
        else:
            data = self.looked_up(found, command, kind, number)
            caller.write(address, data)

    def looked_up(self, found: QuotaFile, command: int, kind: int, number: int) -> bytes:
        """What the kernel tells, in the words of the VPS."""
        ids = range_of(found)
        data = bytes(bytearray(_SIZES[command]))
        if command == q.Q_XGETQSTATV:
            data = struct.pack("=b159x", 1)
        q.quotactl_fd(
            self.fd, command, kind, number if command in _FREE else ids.base + number, data
        )
        changed = bytearray(data)
        bgrace, igrace = found.graces_of(kind)
        if command == q.Q_GETINFO:
            struct.pack_into("=QQ", changed, 0, bgrace, igrace)
        elif command in _X_TIMES_AT:
            struct.pack_into("=ii", changed, _X_TIMES_AT[command], bgrace, igrace)
            struct.pack_into("=H", changed, 2, struct.unpack_from("=H", data, 2)[0] & _X_OURS)
        elif command == q.Q_GETNEXTQUOTA:
            _shift_id(changed, 68, ids)
        elif command in (q.Q_XGETQUOTA, q.Q_XGETNEXTQUOTA):
            _shift_id(changed, 4, ids)
        return bytes(changed)

    def set_graces(
        self, found: QuotaFile, kind: int, bgrace: int | None, igrace: int | None
    ) -> None:
        had = found.graces_of(kind)
        bgrace = had[0] if bgrace is None else bgrace
        igrace = had[1] if igrace is None else igrace
        self.records.set_graces(kind, bgrace, igrace)

    def set_quota(self, found: QuotaFile, ugid: Ugid, valid: int) -> None:
        """Limits and times; what is exceeded by the new limits gets the grace of the VPS."""
        if valid & ~(q.QIF_LIMITS | q.QIF_TIMES):
            raise Refused(errno.EPERM)  # what is used is the kernel's to say
        ids = range_of(found)
        had = quota.read(self.fd, ugid.kind, ids.base + ugid.number)
        self.refuse_surplus(found, had, ids)
        new = ugid.dqblk
        if not valid & q.QIF_BLIMITS:
            new = replace(new, bsoftlimit=had.bsoftlimit, bhardlimit=had.bhardlimit)
        if not valid & q.QIF_ILIMITS:
            new = replace(new, isoftlimit=had.isoftlimit, ihardlimit=had.ihardlimit)
        own = quota.timed(new, had, found.graces_of(ugid.kind))
        if not valid & q.QIF_BTIME:
            new = replace(new, btime=own.btime)
        if not valid & q.QIF_ITIME:
            new = replace(new, itime=own.itime)
        quota.limit_ugid(self.fd, ids, replace(ugid, dqblk=new))

    def refuse_surplus(self, found: QuotaFile, had: q.Dqblk, ids: IdRange) -> None:
        """Raises Refused EDQUOT for a user or group beyond QUOTAUGIDLIMIT."""
        if had == q.Dqblk() and sum(1 for _ in quota.ugids(self.fd, ids)) >= found.ugid_limit:
            raise Refused(errno.EDQUOT)

    def set_xfs(self, found: QuotaFile, kind: int, number: int, data: bytearray) -> None:
        """struct fs_disk_quota: limits and times; the times of id 0 are the graces of all."""
        ids = range_of(found)
        (mask,) = struct.unpack_from("=H", data, 2)
        if mask & ~(_X_LIMITS | _X_TIMERS):
            raise Refused(errno.EPERM)
        if number == 0 and mask & _X_GRACES:
            itimer, btimer = struct.unpack_from("=ii", data, 56)
            self.set_graces(
                found, kind,
                max(btimer, 0) if mask & _X_BTIMER else None,
                max(itimer, 0) if mask & _X_ITIMER else None,
            )
            mask &= ~_X_TIMERS
        if not mask:
            return
        self.refuse_surplus(found, quota.read(self.fd, kind, ids.base + number), ids)
        struct.pack_into("=HI", data, 2, mask, ids.base + number)
        q.quotactl_fd(self.fd, q.Q_XSETQLIM, kind, ids.base + number, bytes(data))
        if not mask & _X_TIMERS:  # what is exceeded by the new limits
            quota.shorten(
                self.fd, kind, ids.base + number, found.graces_of(kind), just=True
            )


def _shift_id(data: bytearray, at: int, ids: IdRange) -> None:
    """An id of the host as the VPS's. Raises Refused ENOENT for one of somebody else."""
    (host,) = _X_ID.unpack_from(data, at)
    if not ids.holds(host):
        raise Refused(errno.ENOENT)
    _X_ID.pack_into(data, at, host - ids.base)
