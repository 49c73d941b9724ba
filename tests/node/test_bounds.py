"""Beancounters that bound single things inside: ptys, locked memory, signals, shared memory,
buffers of sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
from contextlib import suppress

import pytest
from test_sockets import within
from tinyelf import DATA, RESULT, Call, refused

from tools import needs, plant, sh
from vzpy.story import bounds


def set_and_start(vps, vzctl, *words) -> None:
    assert vzctl("set", 101, *words, "--save").code == 0
    ran = vzctl("start", 101)
    assert ran.code == 0, ran
    refused = ran.stderr.replace(",", "").split()
    assert not [word for word in words if word.removeprefix("--") in refused], ran
    vps.reload()


def limit(vps, name: str, pid: str = "1") -> list[str]:
    """soft and hard"""
    line = next(x for x in sh(vps, f"cat /proc/{pid}/limits").splitlines() if x.startswith(name))
    return line[26:].split()[:2]


def open_ptys(vps, count: int) -> tuple[int, int]:
    """How many can be opened at once, and the errno of the next one."""
    root = f"/proc/{vps.facts().pid}/root/dev/pts/ptmx"
    masters, code = [], 0
    try:
        for _ in range(count):
            masters.append(os.open(root, os.O_RDWR | os.O_NOCTTY))
    except OSError as err:
        code = err.errno
    finally:
        for fd in masters:
            os.close(fd)
    return len(masters), code


def test_ptys(vps, vzctl, parent):
    set_and_start(vps, vzctl, "--numpty", "3")
    spare = 0 if vps.facts().daemon else 1  # nobody has the console's
    assert open_ptys(vps, 10) == (3 + spare, errno.ENOSPC)
    assert "gid=" in sh(vps, "grep ' /dev/pts ' /proc/mounts")
    root_cannot = "mount -o remount,max=100 /dev/pts"
    assert vps.exec(["sh", "-c", root_cannot]).returncode != 0
    ran = vzctl("set", 101, "--numpty", "5")
    assert ran.code == 0 and ran.stdout.startswith("UB limits were set successfully\n"), ran
    assert open_ptys(vps, 10)[0] == 5 + spare
    assert bounds.read(vps.facts())["NUMPTY"] == (0, 0, 0)
    sh(vps, "mount -t tmpfs none /dev/pts")  # something of its own: nobody looks at it
    assert bounds.read(vps.facts()) == {}
    assert "numpty" in vzctl("set", 101, "--numpty", "6").stderr
    sh(vps, "umount /dev/pts")
    assert sh(vps, "stat -c '%a %G' /dev/pts/ptmx").startswith("666")


def test_one_that_has_all_its_ptys_can_be_entered(vps, vzctl):
    set_and_start(vps, vzctl, "--numpty", "3")
    root = f"/proc/{vps.facts().pid}/root/dev/pts/ptmx"
    masters = []
    with suppress(OSError):
        while True:
            masters.append(os.open(root, os.O_RDWR | os.O_NOCTTY))
    try:
        ran = vzctl("enter", 101, stdin=b"test -t 0 && echo <>/dev/tty is $((40 + 2)); exit\n")
        assert ran.code == 0 and "is 42" in ran.stdout, ran
    finally:
        for fd in masters:
            os.close(fd)
    assert vzctl("enter", 101, stdin=b"tty; exit\n").stdout.count("/dev/pts/") == 1


def test_a_pty_belongs_to_who_opens_it(vps, vzctl):
    """A terminal of the VPS's root is the same with a limit as without."""
    set_and_start(vps, vzctl, "--numpty", "3")
    root = f"/proc/{vps.facts().pid}/root/dev/pts"

    def act() -> tuple[int, int, int]:
        master = os.open(f"{root}/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, 0x40045431, bytes(4))  # TIOCSPTLCK: unlocked
        number = int.from_bytes(fcntl.ioctl(master, 0x80045430, bytes(4)), "little")  # TIOCGPTN
        about = os.stat(f"{root}/{number}")
        return about.st_uid, about.st_gid, about.st_mode & 0o777

    assert within_user(vps, act) == (0, 5, 0o620)


def test_shared_memory(vps, vzctl):
    set_and_start(vps, vzctl, "--shmpages", "1000")
    assert sh(vps, "cat /proc/sys/kernel/shmall") == "1000\n"
    assert "size=4000k" in sh(vps, "grep ' /dev/shm ' /proc/mounts")
    assert vps.exec(["sh", "-c", "echo 99999 >/proc/sys/kernel/shmall"]).returncode != 0
    assert vps.exec(["sh", "-c", "echo 99999 >/dev/.vz/proc/sys/kernel/shmall"]).returncode != 0
    assert sh(vps, "cat /proc/sys/kernel/shmall") == "1000\n"
    full = vps.exec(["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=4k", "count=1001"])
    assert b"No space left" in full.stderr
    assert vzctl("set", 101, "--shmpages", "2000").code == 0
    assert sh(vps, "cat /proc/sys/kernel/shmall") == "2000\n"
    assert "size=8000k" in sh(vps, "grep ' /dev/shm ' /proc/mounts")
    assert vzctl("set", 101, "--shmpages", "unlimited").code == 0
    assert int(sh(vps, "cat /proc/sys/kernel/shmall")) > 1 << 60
    sh(vps, "echo 5000 >/proc/sys/kernel/shmall")


@needs("BPF programs")
def test_socket_buffers(vps, vzctl):
    set_and_start(vps, vzctl, "--tcpsndbuf", "1M:1200K", "--tcprcvbuf", "200K", "--numtcpsock", "4",
                  "--othersockbuf", "128K", "--dgramrcvbuf", "256K")
    assert sh(vps, "cat /proc/sys/net/ipv4/tcp_wmem").split()[2] == str((1200 << 10) // 4)
    assert sh(vps, "cat /proc/sys/net/ipv4/tcp_rmem").split()[2] == str(64 << 10)
    assert vps.exec(["sh", "-c", "echo 4096 16384 9999999 >/proc/sys/net/ipv4/tcp_rmem"]).returncode

    def sizes(family, kind) -> list[int]:
        found = []
        with socket.socket(family, kind) as one:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, 1 << 28)
                found.append(one.getsockopt(socket.SOL_SOCKET, option))
        return found

    def act() -> list[list[int]]:
        return [sizes(socket.AF_INET, socket.SOCK_STREAM), sizes(socket.AF_UNIX, socket.SOCK_DGRAM)]

    assert within(vps, act) == [[(1200 << 10) // 4, 64 << 10], [128 << 10, 256 << 10]]
    assert sizes(socket.AF_UNIX, socket.SOCK_DGRAM)[0] > 128 << 10
    assert vzctl("set", 101, "--tcprcvbuf", "unlimited", "--othersockbuf", "unlimited").code == 0
    host = open("/proc/sys/net/ipv4/tcp_rmem").read().split()
    assert sh(vps, "cat /proc/sys/net/ipv4/tcp_rmem").split() == host
    assert within(vps, act)[1][0] > 128 << 10 and within(vps, act)[1][1] == 256 << 10


def test_private_memory_of_a_process(vps, vzctl):
    """Beyond the barrier an allocation fails; who asks for less is not disturbed."""
    set_and_start(vps, vzctl, "--privvmpages", "16384:20000")
    big = "dd if=/dev/zero of=/dev/null bs={}M count=1"
    assert limit(vps, "Max data size") == ["67108864", "67108864"]
    assert limit(vps, "Max data size", "self") == ["67108864", "67108864"]
    sh(vps, big.format(40))
    refused = vps.exec(["sh", "-c", big.format(80)])
    assert refused.returncode > 0 and b"memory" in refused.stderr, refused
    assert vps.exec(["sh", "-c", "ulimit -d unlimited"]).returncode != 0


@needs("CAP_SYS_RESOURCE")
def test_rlimits(vps, vzctl):
    set_and_start(vps, vzctl, "--lockedpages", "16", "--numsiginfo", "20")
    assert limit(vps, "Max locked memory") == ["65536", "65536"]
    assert limit(vps, "Max pending signals") == ["20", "20"]
    assert limit(vps, "Max locked memory", "self") == ["65536", "65536"]
    assert limit(vps, "Max pending signals", "self") == ["20", "20"]
    assert vps.exec(["sh", "-c", "ulimit -l 1000"]).returncode != 0
    assert vzctl("set", 101, "--lockedpages", "32", "--privvmpages", "16384").code == 0
    assert limit(vps, "Max data size", "self") == ["67108864", "67108864"]
    assert vzctl("set", 101, "--privvmpages", "unlimited").code == 0
    assert limit(vps, "Max data size") == ["unlimited", "unlimited"]
    assert limit(vps, "Max locked memory") == ["131072", "131072"]
    assert vzctl("set", 101, "--numsiginfo", "10").code == 0
    assert limit(vps, "Max pending signals", "self") == ["10", "10"]


def test_signals_are_queued_up_to_the_limit(vps, vzctl, node):
    """The count is of the VPS's user namespace: its users together, and no neighbour."""
    set_and_start(vps, vzctl, "--numsiginfo", "20")

    def act() -> int:
        import ctypes
        import signal

        libc = ctypes.CDLL(None, use_errno=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, [40])
        queued = 0
        while queued < 1000 and libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(0)) == 0:
            queued += 1
        return queued

    assert within_user(vps, act) in range(18, 22)  # its init may just have been told of a child
    assert limit(vps, "Max pending signals") == limit(vps, "Max pending signals", "self")


_PRIVATE, _LOCKED = 0x22, 0x2022  # flags of mmap(2)

# Beancounter -> what it is set to, a program that asks for one more than that, its errno.
ASKED = {
    "numpty": ("3", refused([Call(2, b"/dev/ptmx", 2)], rounds=8), errno.ENOSPC),
    "shmpages": ("1000", refused([Call(29, 0, 100 << 12, 0o1600)], rounds=16), errno.ENOSPC),
    "privvmpages": (
        "16384", refused([Call(9, 0, 1 << 20, 3, _PRIVATE, -1, 0)], rounds=80), errno.ENOMEM
    ),
    "lockedpages": ("16", refused([Call(149, DATA, 1 << 17)]), errno.ENOMEM),
    "lockedpages of mmap": (
        "16", refused([Call(9, 0, 1 << 14, 3, _LOCKED, -1, 0)], rounds=8), errno.EAGAIN
    ),
    "numsiginfo": (
        "20",
        refused([Call(39), Call(129, RESULT, 40, struct.pack("<iii", 40, 0, -1) + bytes(116))],
                [Call(14, 0, b"\xff" * 8, 0, 8)], rounds=64),
        errno.EAGAIN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ASKED)
def test_who_is_refused_and_who_is_not(vps, node, vzctl, tmp_path, what):
    """Programs inside: with which errno the limit is told; the neighbour and the host get it."""
    value, program, code = ASKED[what]
    other = node.create(102)
    for one in (vps, other):
        plant(one, "/ask", program, 0o755)
    set_and_start(vps, vzctl, f"--{what.split()[0]}", value)
    other.start()
    assert vps.exec(["/ask"]).returncode == code
    assert other.exec(["/ask"]).returncode == 0
    (tmp_path / "ask").write_bytes(program)
    (tmp_path / "ask").chmod(0o755)
    # System V memory outlives who asked for it, but not its namespace.
    assert subprocess.run(["unshare", "--ipc", tmp_path / "ask"]).returncode == 0


def within_user(vps, act):
    """As root of the VPS's user namespace."""
    from vzpy import ns
    from vzpy.kernel import process

    pid = vps.facts().pid

    def inside():
        process.setns(os.pidfd_open(pid), process.CLONE_NEWUSER)
        ns.become_root()
        return act()

    return within(vps, inside)
