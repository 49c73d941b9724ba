"""numtcpsock and numothersock: who is refused, with which errno, and what is counted."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest

import tools
from tools import needs, sh
from vzpy import cgroups
from vzpy.kernel import process
from vzpy.story import counted

pytestmark = needs("BPF programs")


def held(vps, key: str = "NUMTCPSOCK") -> tuple[int, int, int]:
    """held, maxheld, failcnt"""
    return counted.read(vps.facts())[key]


def within(vps, act):
    """What act() returns, called in a process of the VPS's cgroup and network: the tests' Python,
    since templates have none."""
    facts = vps.facts()
    leaf = cgroups.leaf(facts.cgroup, vps.ids)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cgroups.write(leaf, "cgroup.procs", "0")
            process.setns(os.pidfd_open(facts.pid), process.CLONE_NEWNET)
            os.write(writer, repr(act()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    os.rmdir(leaf)
    return eval(said)


def make(count: int, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol: int = 0):
    """Make sockets that are closed when the process ends; the errnos of those refused."""

    def act() -> list[int]:
        errors = []
        for _ in range(count):
            try:
                KEPT.append(socket.socket(family, kind, protocol))
            except OSError as err:
                errors.append(err.errno)
        return errors

    return act


KEPT: list[socket.socket] = []


@pytest.fixture
def limited(vps, vzctl):
    assert vzctl("set", 101, "--numtcpsock", "20", "--numothersock", "30", "--save").code == 0
    ran = vzctl("start", 101)
    assert ran.code == 0 and "sock" not in ran.stderr, ran
    tools.wait_for(lambda: held(vps)[0] == 0)
    others(vps)
    vps.reload()
    return vps


def others(vps) -> int:
    """NUMOTHERSOCK that is held while nothing comes and goes: where they count, UNIX sockets of
    what the VPS has started."""
    before, now = -1, held(vps, "NUMOTHERSOCK")[0]
    while before != now:
        time.sleep(0.2)
        before, now = now, held(vps, "NUMOTHERSOCK")[0]
    return now


def test_one_too_many(limited, node):
    """Refused with ENOBUFS, counted exactly; the neighbour and the host are not touched."""
    other = node.create(102)
    other.start()
    errors = within(limited, make(25))
    assert errors == [errno.ENOBUFS] * 5
    assert held(limited) == (0, 20, 5)
    there = others(limited)
    errors = within(limited, make(31, socket.AF_INET6, socket.SOCK_DGRAM))
    assert errors == [errno.ENOBUFS] * (1 + there)
    assert held(limited, "NUMOTHERSOCK") == (there, 30, 1 + there)
    assert held(limited) == (0, 20, 5)
    assert within(other, make(100)) == []
    KEPT.clear()
    assert make(100)() == []
    KEPT.clear()


def test_the_guests_own_programs_are_refused(limited):
    """In words of the C library's: No buffer space available."""
    line = "for i in $(seq 22); do nc -l -p $((7000 + i)) 2>/tmp/err.$i & done; sleep 1; jobs -l"
    sh(limited, line + " >/dev/null; cat /tmp/err.*; killall nc")
    assert "No buffer space available" in sh(limited, "cat /tmp/err.*")
    tools.wait_for(lambda: held(limited)[0] == 0)
    assert held(limited)[1] == 20 and held(limited)[2] in (2, 4)  # IPv6 alone, or IPv4 as well


@pytest.mark.parametrize(("family", "kind", "protocol", "key"), [
    (socket.AF_INET, socket.SOCK_STREAM, 0, "NUMTCPSOCK"),
    (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "NUMTCPSOCK"),
    (socket.AF_INET, socket.SOCK_DGRAM, 0, "NUMOTHERSOCK"),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, "NUMOTHERSOCK"),
    (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, "NUMOTHERSOCK"),
])
def test_which_counts_as_what(limited, family, kind, protocol, key):
    there = others(limited)

    def act() -> dict[str, int]:
        assert make(3, family, kind, protocol)() == []
        return {k: row[0] for k, row in counted.read(limited.facts()).items()}

    expected = {"NUMTCPSOCK": 0, "NUMOTHERSOCK": there}
    expected[key] += 3
    assert within(limited, act) == expected


def test_accepted_connections_leave_the_counter_alone(limited):
    def act() -> tuple[int, ...]:
        server = socket.create_server(("127.0.0.1", 0), backlog=64)
        for _ in range(1000):
            with socket.create_connection(server.getsockname()), server.accept()[0]:
                pass
        return held(limited)

    assert within(limited, act) == (1, 2, 0)
    assert held(limited) == (0, 2, 0)


def test_a_socket_counts_until_its_last_descriptor_is_closed(limited):
    def act() -> list[int]:
        found = []
        with socket.socket() as one:
            copy = os.dup(one.fileno())
            one.listen()
        found.append(held(limited)[0])
        os.close(copy)
        found.append(held(limited)[0])
        return found

    assert within(limited, act) == [1, 0]


def test_changed_while_it_runs(limited, vzctl):
    def act() -> tuple[list[int], list[int]]:
        before = make(18)()
        ran = vzctl("set", 101, "--numtcpsock", "10")
        assert ran.code == 0 and ran.stdout.startswith("UB limits were set successfully\n")
        return before, make(2)()

    assert within(limited, act) == ([], [errno.ENOBUFS] * 2)
    assert held(limited) == (0, 18, 2)
    assert within(limited, make(11)) == [errno.ENOBUFS]
    assert vzctl("set", 101, "--numtcpsock", "unlimited").code == 0
    assert within(limited, make(100)) == []
    assert held(limited) == (0, 100, 3)
    assert 'NUMTCPSOCK="20"' in Path(limited.conf_path).read_text()


def test_first_limited_while_it_runs(vps, vzctl):
    """The sockets that there are count, but for accepted ones."""
    vps.start()
    assert counted.read(vps.facts()) == {}

    def act() -> list[object]:
        server = socket.create_server(("127.0.0.1", 0), backlog=64)
        ends = [socket.create_connection(server.getsockname()) for _ in range(4)]
        accepted = [server.accept()[0] for _ in range(4)]
        copies = [os.dup(end.fileno()) for end in ends]
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM):
            ran = vzctl("set", 101, "--numtcpsock", "7", "--numothersock", "100", "--save")
            found: list[object] = [ran.code, held(vps)]
            there = held(vps, "NUMOTHERSOCK")[0]
        found += [there - held(vps, "NUMOTHERSOCK")[0], make(3)(), held(vps)]
        for one in (*ends, *accepted):
            one.close()
        found.append(held(vps))
        for copy in copies:
            os.close(copy)
        return [*found, held(vps)]

    assert within(vps, act) == [
        0, (5, 5, 0), 1, [errno.ENOBUFS], (7, 7, 1), (7, 7, 1), (3, 7, 1)
    ]
    assert held(vps) == (0, 7, 1)


def test_counters_outlive_the_daemon(limited, vzctl, cli):
    assert within(limited, make(25)) == [errno.ENOBUFS] * 5
    assert cli("vzeventd", "--stop").code == 0
    assert held(limited) == (0, 20, 5)
    assert within(limited, make(25)) == [errno.ENOBUFS] * 5
    assert held(limited) == (0, 20, 10)


def test_counters_begin_anew_with_a_start(limited, vzctl):
    within(limited, make(25))
    assert vzctl("restart", 101, "--fast").code == 0
    assert held(limited)[2] == 0


@pytest.mark.parametrize("escape", [
    "mkdir /sys/fs/cgroup/x && echo $$ >/sys/fs/cgroup/x/cgroup.procs;",
    "unshare -n", "unshare -U -r -n",
])
def test_a_hostile_root_stays_counted(limited, escape):
    """In cgroups and namespaces of its own; bpf(2) is refused (test_inside)."""
    for _ in range(2):
        sh(limited, f"{escape} nc -l -p 7000 >/dev/null 2>&1 &")
    tools.wait_for(lambda: held(limited)[1] >= 1, what=escape)
    sh(limited, "killall nc; true")
    tools.wait_for(lambda: held(limited)[0] == 0)


@needs("BPF LSM")
@pytest.mark.parametrize(("family", "kind"), [
    (socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_NETLINK, socket.SOCK_RAW),
    (socket.AF_PACKET, socket.SOCK_RAW),
])
def test_other_families(limited, family, kind):
    """They count with the datagram sockets; an accepted one does not, a pair is two."""
    before = others(limited)
    errors = within(limited, make(35, family, kind))
    assert errors == [errno.ENOBUFS] * (5 + before)
    assert held(limited, "NUMOTHERSOCK") == (before, 30, 5 + before)

    def act() -> list[int]:
        found = []
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("\0x")
            server.listen()
            client.connect("\0x")
            with server.accept()[0]:
                found.append(held(limited, "NUMOTHERSOCK")[0])
            KEPT.extend(socket.socketpair())
            found.append(held(limited, "NUMOTHERSOCK")[0])
        return [*found, held(limited, "NUMOTHERSOCK")[0]]

    if family == socket.AF_UNIX:
        assert within(limited, act) == [before + 2, before + 4, before + 2]
        assert held(limited, "NUMOTHERSOCK")[0] == before


@needs("BPF LSM")
def test_other_families_first_limited_while_it_runs(vps, vzctl):
    vps.start()

    def act() -> tuple[int, int]:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("\0x")
            server.listen()
            client.connect("\0x")
            with server.accept()[0], socket.socket(socket.AF_NETLINK, socket.SOCK_RAW):
                vzctl("set", 101, "--numothersock", "100")
                found = held(vps, "NUMOTHERSOCK")[0]
        return found, held(vps, "NUMOTHERSOCK")[0]

    most, least = within(vps, act)
    assert most == least + 3


def test_no_limit_no_program(vps):
    """A VPS without such limits has none."""
    from vzpy.kernel import bpf

    vps.start()
    fd = os.open(vps.facts().cgroup, os.O_RDONLY)
    try:
        assert bpf.prog_query(fd, bpf.CGROUP_INET_SOCK_CREATE) == []
        assert bpf.prog_query(fd, bpf.CGROUP_DEVICE) == []
    finally:
        os.close(fd)
