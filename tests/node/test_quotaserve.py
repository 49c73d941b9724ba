"""What vzeventd answers to quotactl(2): a real task with a real listener, and a file system of the
test's own behind it, so that it runs on every kernel."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import struct

import abilities
import filters
import pytest
import stores

import tools
from vzpy import config
from vzpy.eventd import quotaserve
from vzpy.kernel import libc, seccomp
from vzpy.kernel import quotactl as q
from vzpy.kernel.numbers import NR
from vzpy.kernel.proc import boot_id
from vzpy.model import Facts
from vzpy.quotafile import QuotaFile, Row, save
from vzpy.quotaid import Quota
from vzpy.story import disk

BASE = 0x70000000
DEVICE = b"/dev/disk"
QUOTACTL = NR["quotactl"]


class Kernel:
    """quotactl_fd() over a dictionary: (kind, id of the host) -> fields of struct if_dqblk."""

    def __init__(self) -> None:
        self.records: dict[tuple[int, int], list[int]] = {}
        self.calls: list[tuple[int, int, int]] = []

    def quotactl_fd(self, fd, cmd, kind, qid, addr):
        self.calls.append((cmd, kind, qid))
        if cmd in (q.Q_GETQUOTA, q.Q_SETQUOTA):
            record = self.records.setdefault((kind, qid), [0] * 8)
            if cmd == q.Q_SETQUOTA:
                record[:] = q.DQBLK.unpack(addr)[:8]
            self.put(addr, q.DQBLK.pack(*record, 0))
        elif cmd == q.Q_GETNEXTQUOTA:
            later = sorted(n for k, n in self.records if k == kind and n >= qid)
            if not later:
                raise OSError(errno.ENOENT, "none")
            self.put(addr, q.NEXTDQBLK.pack(*self.records[kind, later[0]], 0, later[0]))
        elif cmd == q.Q_GETINFO:
            self.put(addr, q.DQINFO.pack(1, 2, 1 << 16, 7))
        elif cmd == q.Q_GETFMT:
            self.put(addr, struct.pack("=I", 4))
        else:
            raise OSError(errno.EINVAL, "?")

    @staticmethod
    def put(addr: bytes, data: bytes) -> None:
        ctypes.memmove(addr, data, len(addr))


@pytest.fixture
def kernel(monkeypatch):
    made = Kernel()
    monkeypatch.setattr(q, "quotactl_fd", made.quotactl_fd)
    return made


@pytest.fixture
def ask(kernel, tmp_path):
    """ask(PROGRAM): what a task that runs it, with call() at hand, has to say.

    PROGRAM gets call(command, kind, special, id, buffer) -> errno and returns a list of numbers."""
    abilities.require("root")

    def run(program, uid: int = 0, limit: int = 5) -> list[int]:
        own = Quota(7, str(tmp_path / "quota.7"))
        save(own.file, QuotaFile(
            str(tmp_path), 7, Row(), Row(), on=True, boot=boot_id(), ugid_on=True,
            ugid_active=True, ugid_limit=limit, base=BASE, count=65536, graces=(11, 12, 13, 14),
        ))  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            _task(theirs, program, uid)
        theirs.close()
        data, ancillary, _, _ = ours.recvmsg(100, socket.CMSG_SPACE(4))
        listener = array.array("i", ancillary[0][2])[0]
        facts = Facts(
            ctid=7, pid=pid, starttime=0, boot_id="", layout="simfs", private=str(tmp_path),
            root="", base=BASE, count=65536, cgroup="", init="", daemon=True, started=0.0,
        )  # fmt: skip
        server = quotaserve.Server(listener, facts, quotaserve.Records(str(tmp_path), own))
        server.device = DEVICE.decode()
        ours.sendall(b"go")
        quotaserve.serve(server)
        answer = ours.recv(65536)
        os.waitpid(pid, 0)
        os.close(listener)
        os.close(server.fd)
        ours.close()
        return list(map(int, answer.split()))

    return run


def _task(sock: socket.socket, program, uid: int) -> None:
    try:
        listener = filters.install(
            seccomp.handover((QUOTACTL, NR["quotactl_fd"])), filters.NEW_LISTENER
        )
        socket.send_fds(sock, [b"x"], [listener])
        os.close(listener)
        sock.recv(2)
        if uid:
            os.setresuid(uid, uid, uid)

        def call(command: int, kind: int, special: bytes | int | None, qid: int, addr) -> int:
            try:
                libc.syscall(QUOTACTL, command << 8 | kind, special, qid, addr)
            except OSError as err:
                return err.errno or 0
            return 0

        sock.sendall(" ".join(map(str, program(call))).encode())
    finally:
        os._exit(0)


def buffer(size: int = 256) -> bytes:
    return bytes(bytearray(size))


def test_limits_are_those_of_the_range(ask, kernel):
    def program(call):
        new = q.DQBLK.pack(200, 100, 0, 20, 10, 0, 0, 0, q.QIF_LIMITS)
        found = buffer(72)
        after = buffer(72)
        done = [call(q.Q_SETQUOTA, 0, DEVICE, 1000, new)]
        done += [call(q.Q_GETQUOTA, 0, DEVICE, 1000, found)]
        done += q.DQBLK.unpack(found)[:2]
        done += [call(q.Q_GETNEXTQUOTA, 0, DEVICE, 5, after), q.NEXTDQBLK.unpack(after)[-1]]
        done += [call(q.Q_GETNEXTQUOTA, 0, DEVICE, 1001, after)]
        return done

    kernel.records[0, BASE + 70000] = [9] * 8  # of the next VPS
    assert ask(program) == [0, 0, 200, 100, 0, 1000, errno.ENOENT]
    assert kernel.records[0, BASE + 1000] == [200, 100, 0, 20, 10, 0, 0, 0]
    assert {qid for _, _, qid in kernel.calls if qid} <= {BASE, *range(BASE, BASE + 65536)}


def test_what_is_exceeded_gets_the_grace_of_the_vps(ask, kernel):
    kernel.records[1, BASE + 5] = [0, 0, 1 << 30, 0, 0, 50, 0, 0]

    def program(call):
        return [call(q.Q_SETQUOTA, 1, DEVICE, 5, q.DQBLK.pack(0, 1, 0, 0, 1, 0, 0, 0, 5))]

    import time

    assert ask(program) == [0]
    *_, btime, itime = kernel.records[1, BASE + 5]
    assert 0 <= btime - time.time() <= 13 and 0 <= itime - time.time() <= 14


def test_graces_are_its_own(ask, kernel):
    def program(call):
        before, after = buffer(24), buffer(24)
        call(q.Q_GETINFO, 1, DEVICE, 0, before)
        done = call(q.Q_SETINFO, 1, DEVICE, 0, q.DQINFO.pack(77, 78, 0, q.IIF_BGRACE))
        call(q.Q_GETINFO, 1, DEVICE, 0, after)
        return [*q.DQINFO.unpack(before)[:2], done, *q.DQINFO.unpack(after)[:2]]

    assert ask(program) == [13, 14, 0, 77, 14]
    assert q.Q_SETINFO not in [command for command, _, _ in kernel.calls]


REFUSED = {
    "project quota": (q.Q_GETQUOTA, 2, DEVICE, 7, errno.ESRCH),
    "a kind that is none": (q.Q_GETQUOTA, 9, DEVICE, 7, errno.ESRCH),
    "beyond the range": (q.Q_GETQUOTA, 0, DEVICE, 65536, errno.ESRCH),
    "below it": (q.Q_GETQUOTA, 0, DEVICE, -1, errno.ESRCH),
    "another device": (q.Q_GETQUOTA, 0, b"/dev/sda", 0, errno.ENODEV),
    "a long name": (q.Q_GETQUOTA, 0, b"x" * 9999, 0, errno.ENODEV),
    "no name": (q.Q_GETQUOTA, 0, 8, 0, errno.EFAULT),
    "switching off": (q.Q_QUOTAOFF, 0, DEVICE, 0, errno.EPERM),
    "switching on": (q.Q_QUOTAON, 0, DEVICE, 4, errno.EPERM),
    "removing": (q.Q_XQUOTARM, 0, DEVICE, 0, errno.EPERM),
    "unknown": (0x123456, 0, DEVICE, 0, errno.EPERM),
    "sync": (q.Q_SYNC, 0, None, 0, 0),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(ask, kernel, what):
    command, kind, special, qid, expected = REFUSED[what]
    assert ask(lambda call: [call(command, kind, special, qid, buffer())]) == [expected]
    assert not [c for c in kernel.calls if c[0] != q.Q_GETNEXTQUOTA]


def test_bad_buffers(ask, kernel):
    def program(call):
        return [call(c, 0, DEVICE, 1, 8) for c in (q.Q_GETQUOTA, q.Q_SETQUOTA, q.Q_XSETQLIM)]

    assert ask(program) == [errno.EFAULT] * 3


def test_what_is_used_cannot_be_set(ask, kernel):
    def program(call):
        return [call(q.Q_SETQUOTA, 0, DEVICE, 1, q.DQBLK.pack(*[9] * 8, valid))
                for valid in (q.QIF_SPACE, q.QIF_INODES | q.QIF_LIMITS, 0xFFFFFFFF)]  # fmt: skip

    assert ask(program) == [errno.EPERM] * 3
    assert not kernel.records


def test_no_more_users_than_allowed(ask, kernel):
    def program(call):
        new = q.DQBLK.pack(9, 9, 0, 0, 0, 0, 0, 0, q.QIF_LIMITS)
        return [call(q.Q_SETQUOTA, 0, DEVICE, n, new) for n in (1, 2, 3, 2)]

    kernel.records[1, BASE] = [0, 0, 5, 0, 0, 1, 0, 0]
    assert ask(program, limit=3) == [0, 0, errno.EDQUOT, 0]


def test_a_user_sees_himself_and_sets_nothing(ask, kernel):
    def program(call):
        new = q.DQBLK.pack(*[0] * 8, q.QIF_LIMITS)
        return [
            call(q.Q_GETQUOTA, 0, DEVICE, 1000, buffer()),
            call(q.Q_GETQUOTA, 0, DEVICE, 1001, buffer()),
            call(q.Q_GETNEXTQUOTA, 0, DEVICE, 0, buffer()),
            call(q.Q_SETQUOTA, 0, DEVICE, 1000, new),
            call(q.Q_SETINFO, 0, DEVICE, 0, buffer()),
            call(q.Q_GETINFO, 0, DEVICE, 0, buffer()),
        ]

    eperm = errno.EPERM
    assert ask(program, uid=BASE + 1000) == [0, eperm, eperm, eperm, eperm, 0]


def test_root_of_a_namespace_made_inside_is_nobody(ask, kernel):
    def program(call):
        from vzpy.kernel import process

        process.unshare(process.CLONE_NEWUSER)
        return [call(q.Q_SETQUOTA, 0, DEVICE, 1, q.DQBLK.pack(*[0] * 8, q.QIF_LIMITS)),
                call(q.Q_GETQUOTA, 0, DEVICE, 0, buffer())]  # fmt: skip

    # The test's "init" is the task itself, so the namespace is compared with that of another.
    import vzpy.eventd.quotaserve as serve

    made = serve.Caller.__init__

    def elsewhere(self, pid, init):
        made(self, pid, os.getpid())

    serve.Caller.__init__ = elsewhere
    try:
        assert ask(program) == [errno.EPERM, errno.EPERM]
    finally:
        serve.Caller.__init__ = made


# --- the way there: filter, listener, daemon -----------------------------------------------------

ASK = r"""
my $buf = "\0" x 256; my @found;
for my $call ([0x800001, 0], [0x800007, "nowhere"], [0x800003, "nowhere"]) {
  $! = 0; my $r = syscall(179, $call->[0] << 8, $call->[1], 0, $buf);
  push @found, $r < 0 ? $!+0 : 0;
}
print "@found\n";
"""
# What the kernel itself says of such a name is ENOENT; of sync 0, of switching off EPERM.
ANSWERED = f"0 {errno.ENODEV} {errno.EPERM}\n"


@pytest.fixture
def limited(make_node, monkeypatch):
    """A VPS whose quotactl is answered, on a node where no quota is possible."""
    abilities.require("quota template")
    monkeypatch.setattr(disk, "device_inside", lambda *_: "mapper/disk")
    node = make_node(stores.debian_store(stores.QUOTA))
    vps = node.create(101, ostemplate=stores.QUOTA, layout="overlay")
    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)
    config.save(vps.conf_path, {"QUOTAUGIDLIMIT": "5"})
    vps.reload()
    vps.start()
    return vps


def asked(vps) -> str:
    return vps.exec(["perl", "-e", ASK]).stdout.decode()


def listeners(vps) -> int:
    """Of how many the daemon holds an end."""
    daemon = tools.run_tool(vps.node, ("vzeventd", "--status")).stdout.split("pid ")[1]
    folder = f"/proc/{daemon.split(',')[0]}/fd"
    names = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return names.count("anon_inode:seccomp notify")


def test_quotactl_reaches_the_daemon(limited, cli):
    vps = limited
    assert tools.sh(vps, "stat -c '%F %a' /dev/mapper/disk") == "block special file 0\n"
    assert vps.exec(["chmod", "600", "/dev/mapper/disk"]).returncode
    assert asked(vps) == ANSWERED
    # What was exec'ed has ended, and its listener with it; that of init stays.
    tools.wait_for(lambda: listeners(vps) == 1)

    # The daemon changes its program, or is killed: the next one answers.
    assert cli("vzeventd", "--replace").code == 0
    assert listeners(vps) == 1
    assert asked(vps) == ANSWERED
    daemon = cli("vzeventd", "--status").stdout.split("pid ")[1]
    os.kill(int(daemon.split(",")[0]), 9)
    assert cli("vzeventd").code == 0
    tools.wait_for(lambda: listeners(vps) == 1)
    assert asked(vps) == ANSWERED
    vps.stop(fast=True)
    assert listeners(vps) == 0


def test_a_child_of_init_is_answered(limited):
    """Not what is exec'ed: what init has started, by the listener of the start."""
    vps = limited
    vps.stop(fast=True)
    asks = f"#!/bin/sh\nperl -e '{ASK}' >/answer\nexec sleep 1000000\n"
    tools.plant(vps, "/sbin/init", asks, 0o755)
    vps.start()
    tools.wait_for(lambda: vps.exec(["cat", "/answer"]).stdout.decode() == ANSWERED)
    assert listeners(vps) >= 1


def test_many_at_once(limited):
    ask = "perl -e 'for (1..20) {syscall(179, 0x80000700, \"x\", 0, \"\")}'"
    line = f"for i in $(seq 20); do {ask} & done; wait"
    assert limited.exec(["sh", "-c", line]).returncode == 0
    assert asked(limited) == ANSWERED
