"""Levels of netfilter, tried by the root of a VPS."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess

import filters
import pytest
from wire import ping

import tools
from vzpy import cgroups, netfilter, ns
from vzpy.kernel import process

OPTIONS = (64, 65, 96, 97, 128, 129)  # *_SO_SET_REPLACE and _ADD_COUNTERS
SOCKET_32, SOCKETCALL_32 = 359, 102


@pytest.fixture
def start(vps, vzctl):
    def go(level: str, *words: str) -> tools.Ran:
        assert vzctl("set", 101, "--netfilter", level, "--save").code == 0
        return vzctl("start", 101, *words)

    return go


def in_netns(pid: int, call) -> str:
    """What call() returns in the network namespace of a process, as its user root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process.setns(os.pidfd_open(pid), process.CLONE_NEWUSER | process.CLONE_NEWNET)
            ns.become_root()
            os.write(writer, str(call()).encode())
        except OSError as err:
            os.write(writer, f"{err.errno}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as f:
        return f.read()


@pytest.mark.needs("nftables")
def test_stateless_is_a_table_that_the_guest_cannot_touch(vps, start, vzctl, cli):
    assert "netfilter" not in start("stateless").stderr
    pid = vps.facts().pid
    nft = "nft {} 2>&1; echo $?"

    def run(words: str) -> str:
        return in_netns(pid, lambda: os.popen(nft.format(words)).read())

    assert "notrack" in run("list table inet vz_stateless")
    assert run("flush ruleset") == "0\n"
    assert "not permitted" in run("delete table inet vz_stateless")
    assert "not permitted" in run("flush chain inet vz_stateless prerouting")
    assert run("add table inet own") == "0\n"
    assert "notrack" in run("list table inet vz_stateless")
    # It outlives the daemon, and not the VPS.
    cli("vzeventd", "--replace")
    assert "notrack" in run("list table inet vz_stateless")
    assert vzctl("stop", 101, "--fast").code == 0


@pytest.mark.needs("nftables")
def test_a_guest_without_tracking_sees_none(vps, start):
    start("stateless")
    pid = vps.facts().pid
    rules = (
        "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        "add rule ip t o ct state untracked counter; add rule ip t o ct state new counter"
    )
    shell = f"nft '{rules}' && ping -c 2 -i 0.2 127.0.0.1 >/dev/null; nft list table ip t"
    text = in_netns(pid, lambda: os.popen(shell).read())
    untracked, new = (line for line in text.splitlines() if "counter" in line)
    assert "packets 0" not in untracked and "packets 0" in new


# Each changes an address of the packets of a ping, of its own to 10.9.9.x or of the neighbour's; as
# early and as late as nftables has it.
NAT = {
    "output": ("output", -100, "ip daddr 10.9.9.9 dnat to 127.0.0.1"),
    "early": ("output", -199, "ip daddr 10.9.9.9 dnat to 127.0.0.1"),
    "postrouting": ("postrouting", 100, "oif lo snat to 127.0.0.77"),
    "late": ("postrouting", 2147483647, "oif lo snat to 127.0.0.77"),
    "prerouting": ("prerouting", -100, "iif venet0 dnat to 192.0.2.101"),
    "input": ("input", 100, "iif venet0 snat to 192.0.2.99"),
}


@pytest.mark.needs("nftables")
@pytest.mark.parametrize("level", ["stateful", "full"])
def test_nat_by_the_level(lan, vps, start, cli, level):
    vps.set(ipadd=["192.0.2.101", "192.0.2.102"])
    assert "netfilter" not in start(level).stderr
    pid = vps.facts().pid

    def run(words: str) -> str:
        return shell_inside(pid, words)

    def answered(where: str = "10.9.9.8") -> bool:
        return run(f"ping -n -c 1 -W 1 {where} >/dev/null && echo yes") == "yes\n"

    run("ip route add local 10.9.9.8 dev lo; ip route add 10.9.9.9 dev lo; nft add table ip t")
    for name, (hook, priority, rule) in NAT.items():
        chain = f"'{{ type nat hook {hook} priority {priority}; }}'"
        assert run(f"nft add chain ip t c {chain}; nft add rule ip t c {rule}") == "", name
        if "venet0" in rule:
            got = ping(lan.neighbour, "192.0.2.102", 1) == 1
        else:
            got = answered("10.9.9.9" if "dnat" in rule else "10.9.9.8")
        assert got == (level == "full"), name
        run("nft flush table ip t; nft delete chain ip t c")
        assert answered() and ping(lan.neighbour, "192.0.2.101", 1) == 1
    run("ip route add fd00::9 dev lo; nft add table ip6 t; "
        "nft add chain ip6 t c '{ type nat hook output priority -100; }'; "
        "nft add rule ip6 t c ip6 daddr fd00::9 dnat to ::1")
    assert answered("fd00::9") == (level == "full") and answered("::1")
    run("nft add chain ip t o '{ type filter hook output priority 0; }'; "
        "nft add rule ip t o ct state new counter")
    assert answered() and "packets 1 " in run("nft list table ip t")
    if level == "stateful":
        assert "not permitted" in run("nft delete table inet vz_stateful")
        cli("vzeventd", "--replace")
        assert "ct status snat,dnat counter packets" in run("nft list table inet vz_stateful")


def refused() -> dict[str, str]:
    """What the filter of `disabled` says to each way in."""
    said = {}

    def attempt(name: str, call) -> None:
        try:
            call()
            said[name] = "ok"
        except OSError as err:
            said[name] = errno.errorcode[err.errno]

    raw = {0: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255),
           41: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)}  # fmt: skip
    filters.install(netfilter.refusal())
    for level, sock in raw.items():
        for option in OPTIONS:
            attempt(f"{level} {option}", lambda: sock.setsockopt(level, option, b""))  # noqa: B023
    attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
    attempt("route", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    attempt("tcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    attempt("ttl", lambda: raw[0].setsockopt(0, 2, 16))
    if os.uname().machine == "x86_64":
        call = int_80()
        said["netlink 32"] = errno.errorcode[-call(SOCKET_32, socket.AF_NETLINK, 3, 12)]
        said["tcp 32"] = "ok" if call(SOCKET_32, socket.AF_INET, 1, 0) > 0 else "refused"
        said["socketcall 32"] = errno.errorcode[-call(SOCKETCALL_32, 1, 0, 0)]
    return said


def int_80():
    """A function that makes a system call of 32-bit programs (int 0x80)."""
    code = bytes.fromhex("53 89f8 89f3 87ca cd80 5b c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 4)(address)
    call.page = page
    return call


def test_disabled_refuses_every_way_in():
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, json.dumps(refused()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.wait()
    with open(reader) as f:
        said = json.load(f)
    assert {said.pop(f"{level} {o}") for level in (0, 41) for o in OPTIONS} == {"ENOPROTOOPT"}
    assert said.pop("netlink") == "EPROTONOSUPPORT"
    assert said.pop("netlink 32", "EPROTONOSUPPORT") == "EPROTONOSUPPORT"
    assert said.pop("socketcall 32", "ENOSYS") == "ENOSYS"
    assert set(said.values()) == {"ok"}


def test_disabled_holds_for_init_and_for_exec(vps, start):
    assert "netfilter" not in start("disabled").stderr
    assert vps.facts().netfilter == netfilter.DISABLED
    told = tools.sh(vps, "grep -h Seccomp_filters /proc/1/status /proc/self/status")
    assert told == "Seccomp_filters:\t2\n" * 2


def test_full_is_no_different_from_nothing_said(vps, start):
    start("full")
    assert tools.sh(vps, "grep Seccomp_filters /proc/1/status") == "Seccomp_filters:\t1\n"


@pytest.mark.parametrize("level", ["stateless", "stateful"])
def test_without_a_daemon_it_is_told(vps, start, node, level):
    with tools.no_daemon(node):
        ran = start(level)
        assert ran.code == 0 and "netfilter" in ran.stderr
        vps.stop(fast=True)


def shell_inside(pid: int, line: str) -> str:
    """What the host's programs say, run as the root of a VPS in its network."""
    return in_netns(pid, lambda: os.popen(f"({line}) 2>&1").read())


@pytest.mark.needs("nftables")
def test_rules_and_routes_are_its_own(lan, vps):
    vps.set(ipadd=["192.0.2.101"])
    vps.start()
    pid = vps.facts().pid
    said = shell_inside(pid, """set -e
        nft add table inet mine; nft add chain inet mine in '{ type filter hook input priority 0; }'
        nft add rule inet mine in tcp dport 22 drop; nft list ruleset
        ip rule add from 192.0.2.101 table 7; ip route add unreachable 10.0.0.0/8 table 7
        ip rule show; ip route show table 7; sysctl -w net.ipv4.conf.all.rp_filter=1""")
    for part in ("dport 22 drop", "from 192.0.2.101 lookup 7", "unreachable 10.0.0.0/8", " = 1"):
        assert part in said, said
    outside = lan.node.run("nft", "list", "ruleset").stdout + lan.node.ip("rule show")
    assert "mine" not in outside and "lookup 7" not in outside


@pytest.mark.needs("iptables")
def test_iptables_of_both_kinds(vps, start):
    start("full")
    for kind in ("nft", "legacy"):
        said = shell_inside(vps.facts().pid, f"""set -e
            export XTABLES_LOCKFILE=$(mktemp); trap 'rm $XTABLES_LOCKFILE' EXIT
            iptables-{kind} -A INPUT -p tcp --dport 23 -j DROP; iptables-{kind} -S INPUT
            ip6tables-{kind} -A INPUT -p tcp --dport 23 -j DROP; echo done""")
        assert "--dport 23 -j DROP" in said and said.endswith("done\n"), said


@pytest.mark.needs("wireguard")
def test_a_tunnel_by_wireguard(vps):
    vps.start()
    said = shell_inside(vps.facts().pid, "ip link add wg0 type wireguard && ip -br link show wg0")
    assert said.startswith("wg0 "), said


@tools.needs("iptables", "BPF programs")
def test_a_table_with_too_many_entries(vps, vzctl):
    """ENOMEM, for its root as for whoever comes in; counted; one that is long is seen as well."""
    assert vzctl("set", 101, "--numiptent", "40", "--netfilter", "full", "--save").code == 0
    ran = vzctl("start", 101)
    assert ran.code == 0 and "numiptent" not in ran.stderr, ran
    vps.reload()

    def restored(count: int) -> int:
        rules = "-A INPUT -p udp -j ACCEPT\n" * count
        text = f"*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n{rules}COMMIT\n"
        netns = f"--net=/proc/{vps.facts().pid}/ns/net"

        def enter() -> None:
            cgroups.write(leaf, "cgroup.procs", str(os.getpid()))

        return subprocess.run(["nsenter", netns, "iptables-legacy-restore"], input=text.encode(),
                              stderr=subprocess.DEVNULL, preexec_fn=enter).returncode

    def row():
        return next(row for row in vps.beancounters() if row.name == "numiptent")

    leaf = cgroups.leaf(vps.facts().cgroup, vps.ids)
    assert restored(36) == 0 and row().held == 40 and row().failcnt == 0
    assert restored(37) != 0 and restored(200) != 0
    assert (row().held, row().failcnt, row().verdict) == (40, 2, "P")
    assert vzctl("set", 101, "--numiptent", "1000").code == 0
    assert restored(200) == 0 and row().held == 204
    os.rmdir(leaf)


@tools.needs("nftables", "iptables")
def test_rules_are_counted(vps):
    """Of nftables one by one, of tables of the older iptables their entries."""
    vps.start()

    def held() -> int:
        return next(row for row in vps.beancounters() if row.name == "numiptent").held

    def inside(*words: str) -> None:
        netns = f"--net=/proc/{vps.facts().pid}/ns/net"
        subprocess.run(["nsenter", netns, *words], check=True)

    before = held()  # those of its level of netfilter
    inside("nft", "add table inet t; add chain inet t c; add table ip x; add chain ip x c;"
           " add rule ip x c accept;" + "add rule inet t c drop;" * 5)
    assert held() == before + 6
    inside("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    assert held() == before + 6 + 5
    inside("nft", "delete table inet t")
    assert held() == before + 1 + 5
    row = next(row for row in vps.beancounters() if row.name == "numiptent")
    assert row.maxheld == before + 11
