"""venet0 on a wire: the node in a network namespace of its own, beside it a neighbour, and a bridge
that sees all they say (wire.py)."""

from __future__ import annotations

import errno
import socket
import subprocess
from pathlib import Path

import pytest
import stores
from daemon import daemon_pid, kill
from wire import V4, V6, inner, inside, ip, ping

import tools
from vzpy import antispoof, config, dad, venet
from vzpy.errors import VzError
from vzpy.events import Event
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import Link
from vzpy.node import Node
from vzpy.story import net, parent, start

OTHER4, OTHER6 = "192.0.2.2", "2001:db8::2"  # the neighbour's


@pytest.fixture
def node(lan, make_node):
    made = make_node()
    config.save(f"{made.paths.etc}/vz.conf", {"SKIP_ARPDETECT": "yes"})
    return made


@pytest.fixture
def setting(node):
    def save(**values: str) -> None:
        config.save(f"{node.paths.etc}/vz.conf", values)

    return save


@pytest.fixture
def running(vps):
    vps.set(ipadd=[V4])
    vps.start()
    return vps


def said(ran) -> list[str]:
    """Lines of the standard error, without that of the limits this machine does not apply."""
    return [x for x in ran.stderr.splitlines() if not x.startswith("Warning: not applied")]


def traces(lan) -> list[str]:
    """What of a VPS's network is in the node's."""
    rows = lan.node.ip("-br link show type veth").splitlines()
    found = [row.split("@")[0] for row in rows if not row.startswith("eth0")]
    for what in ("route show proto static", "neigh show proxy"):
        found += lan.node.ip(what).splitlines() + lan.node.ip(f"-6 {what}").splitlines()
    return found


def hear(interface: str) -> socket.socket:
    """All frames of an interface of the namespace we are in."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((interface, 0))
    return sock


def heard(sock: socket.socket) -> list[bytes]:
    sock.settimeout(0.2)
    frames = []
    try:
        while True:
            frames.append(sock.recv(2048))
    except TimeoutError:
        return frames


def test_a_vps_is_reached_from_the_wire(lan, vps, vzctl):
    assert vzctl("set", 101, "--ipadd", V4, "--ipadd", f"{V6}/64", "--save").code == 0
    ran = vzctl("start", 101)
    assert (ran.code, said(ran)) == (0, []), ran
    assert ran.stdout.index(f"Adding IP address(es): {V4} {V6}\n") < ran.stdout.index("CPU units")
    assert f"inet {V4}/32" in inner(vps, "ip addr") and f"inet6 {V6}/64" in inner(vps, "ip addr")
    assert ping(lan.neighbour, V4) == 2 and ping(lan.neighbour, V6) == 2
    tools.sh(vps, f"ping -c 1 -W 2 {OTHER4}")
    assert vzctl("stop", 101, "--fast").code == 0
    assert traces(lan) == []


def test_a_vps_without_addresses_has_no_device(lan, vps):
    vps.start()
    assert traces(lan) == [] and "venet0" not in inner(vps, "ip link")
    vps.set(ipadd=[V4])
    assert ping(lan.neighbour, V4) == 2


def test_addresses_of_a_running_vps(lan, running, vzctl):
    ran = vzctl("set", 101, "--ipadd", "192.0.2.102/24", "--ipadd", V6, "--save")
    assert (ran.code, ran.stderr) == (0, ""), ran
    assert ran.stdout.startswith(f"Adding IP address(es): 192.0.2.102 {V6}\n")
    assert ping(lan.neighbour, "192.0.2.102") == ping(lan.neighbour, V6) == 2
    assert "inet 192.0.2.102/24" in inner(running, "ip addr")
    ran = vzctl("set", 101, "--ipadd", "192.0.2.102", "--save")  # another mask
    assert ran.stdout.startswith(
        "Deleting IP address(es): 192.0.2.102\nAdding IP address(es): 192.0.2.102\n"
    ), ran
    assert "inet 192.0.2.102/32" in inner(running, "ip addr")
    ran = vzctl("set", 101, "--ipdel", "192.0.2.102", "--ipdel", V6, "--save")
    assert ran.stdout.startswith(f"Deleting IP address(es): {V6} 192.0.2.102\n"), ran
    assert ping(lan.neighbour, "192.0.2.102") == ping(lan.neighbour, V6) == 0
    assert ping(lan.neighbour, V4) == 2
    ran = vzctl("set", 101, "--ipdel", "all", "--save")
    assert ran.stdout.startswith(f"Deleting all IP address(es): {V4}\n"), ran
    assert len(traces(lan)) == 1 and "inet" not in inner(running, "ip addr show dev venet0")
    assert 'IP_ADDRESS=""' in Path(running.conf_path).read_text()


def test_no_ping_of_another_address_is_lost(lan, running, vzctl):
    changes = 0
    while changes < 2:  # a slow machine makes but one in the time of a thousand
        with lan.neighbour:
            pings = subprocess.Popen(
                ["ping", "-n", "-q", "-i", "0.001", "-c", "1000", "-W", "2", V4],
                stdout=subprocess.PIPE, text=True,
            )
        while pings.poll() is None:
            assert vzctl("set", 101, "--ipadd", "192.0.2.102", "--ipadd", V6).code == 0
            assert vzctl("set", 101, "--ipadd", V4, "--ipdel", f"192.0.2.102 {V6}").code == 0
            changes += 1
        assert "1000 received" in pings.communicate()[0]


def test_an_address_in_use(lan, node, running, vzctl):
    node.create(102)
    node.vps(102).start()
    before = traces(lan)
    for address, code, why in (
        (V4, 78, f"Unable to add IP {V4}: Address already in use\n"),
        ("192.0.2.1", 78, "Unable to add IP 192.0.2.1: Address already in use\n"),
        ("2001:db8::1", 78, "Unable to add IP 2001:db8::1: Address already in use\n"),
        ("192.0.2.255", 71, "Unable to add IP 192.0.2.255: it is the broadcast address"),
    ):
        ran = vzctl("set", 102, "--ipadd", f"192.0.2.110 {address} {V6}")
        assert ran.code == code and why in ran.stderr, ran
        ran = vzctl("set", 102, "--ipadd", f"192.0.2.110 {address} {V6}", "--save")
        assert ran.code == code and why in ran.stderr + ran.stdout, ran
        assert "failed to apply some parameters" in ran.stderr
        assert [t for t in traces(lan) if not t.endswith("102")] == before
        assert "192.0.2.110" not in Path(node.vps(102).conf_path).read_text()
        assert "inet 192" not in inner(node.vps(102), "ip addr")
    node.vps(102).stop(fast=True)
    node.vps(102).set(ipadd=[V4])
    ran = vzctl("start", 102)
    assert ran.code == 78 and node.vps(102).status.running is False
    assert ping(lan.neighbour, V4) == 2


IMPOSSIBLE = [
    "1.2.3", "224.0.0.1", "255.255.255.255", "127.0.0.1", "169.254.1.1", "::ffff:1.2.3.4", "::1",
    "ff02::1", "fe80::1", "192.0.2.9/33", "192.0.2.9/255.0.255.0", "2001:db8::9/129", "x",
]


def test_an_address_that_cannot_be(vps, vzctl):
    before = Path(vps.conf_path).read_text()
    for address in IMPOSSIBLE:
        ran = vzctl("set", 101, "--ipadd", f"192.0.2.7 {address}", "--save")
        assert (ran.code, ran.stdout) == (21, "") and address in ran.stderr
        assert Path(vps.conf_path).read_text() == before


def test_five_hundred_addresses_at_once(lan, node, running, vzctl):
    many = [f"198.51.{100 + i // 250}.{1 + i % 250}" for i in range(250)]
    many += [f"2001:db8:1::{i:x}" for i in range(1, 251)]
    assert vzctl("set", 101, "--ipadd", " ".join(many), "--save").code == 0
    assert len(lan.node.ip("route show proto static").splitlines()) == 251
    assert len(lan.node.ip("-6 route show proto static").splitlines()) == 250
    lan.neighbour.ip("route add 198.51.0.0/16 dev eth0")
    assert ping(lan.neighbour, many[249]) == 2 and ping(lan.neighbour, many[0]) == 2
    node.create(102)
    node.vps(102).start()
    ran = vzctl("set", 102, "--ipadd", " ".join([f"198.18.0.{i}" for i in range(1, 251)] + many))
    assert ran.code == 78 and "198.18" not in lan.node.ip("route") + inner(node.vps(102), "ip addr")
    assert len(lan.node.ip("route show proto static").splitlines()) == 251
    node.vps(102).stop(fast=True)
    running.stop(fast=True)
    assert traces(lan) == []


def test_ipv6_switched_off(lan, vps, vzctl, setting):
    setting(IPV6="no")
    vps.set(ipadd=[V4, V6])
    ran = vzctl("start", 101)
    assert ran.code == 0 and "WARNING: IPv6 support is disabled" in said(ran)
    assert f"Adding IP address(es): {V4}\n" in ran.stdout
    assert "inet6" not in inner(vps, "ip addr show dev venet0") and ping(lan.neighbour, V4) == 2


def test_forwarding_that_is_off_is_told(lan, vps, vzctl):
    lan.switch("ipv4/ip_forward", "0")
    vps.set(ipadd=[V4])
    lines = said(vzctl("start", 101))
    assert len(lines) == 1 and "net.ipv4.ip_forward is off" in lines[0]
    assert ping(lan.node, V4) == 2


def test_a_second_owner_on_the_wire(lan, vps, vzctl, setting):
    setting(SKIP_ARPDETECT="no")
    vps.set(ipadd=[OTHER4, OTHER6, V4])
    mac = lan.mac("neighbour")
    ran = vzctl("start", 101)
    assert ran.code == 0 and sorted(said(ran)) == [
        f"vps-net_add WARNING: {address} is detected on another computer: {mac} on eth0"
        for address in (OTHER4, OTHER6)
    ], ran
    vps.stop(fast=True)
    setting(ERROR_ON_ARPFAIL="yes")
    ran = vzctl("start", 101)
    assert ran.code == 34 and "vps-net_add ERROR: " in ran.stderr and traces(lan) == []
    vps.set(ipdel=["all"])
    vps.start()
    for address in (OTHER4, OTHER6):
        assert vzctl("set", 101, "--ipadd", f"{V4} {address}").code == 34
        assert V4 not in lan.node.ip("route") and V4 not in inner(vps, "ip addr")
        ran = vzctl("set", 101, "--ipadd", address, "--skip_arpdetect")
        assert (ran.code, ran.stderr) == (0, "")
        assert vzctl("set", 101, "--ipdel", address).code == 0
        assert address not in lan.node.ip("route") + lan.node.ip("-6 route")


def test_who_is_not_asked_hears_nothing(lan, vps, vzctl, setting):
    def questions() -> int:
        with lan.neighbour:
            wire = hear("eth0")
        vzctl("start", 101)
        frames = heard(wire)
        wire.close()
        vps.stop(fast=True)
        arp = socket.inet_pton(socket.AF_INET, V4)
        ndp = socket.inet_pton(socket.AF_INET6, V6)
        # an ARP probe is from nobody
        return len([f for f in frames if f[38:42] == arp and f[28:32] == bytes(4)]) + len(
            [f for f in frames if f[62:78] == ndp and f[54] == 135])

    vps.set(ipadd=[V4, V6])
    assert questions() == 0
    setting(SKIP_ARPDETECT="no")
    assert questions() == 4  # two each


def test_neighbours_learn_where_an_address_has_gone(lan, vps, running):
    """An announcement corrects what they knew."""
    lan.neighbour.ip("neigh replace 192.0.2.102 lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
    running.set(ipadd=["192.0.2.102"])
    mac = lan.mac("node")
    tools.wait_for(lambda: mac in lan.neighbour.ip("neigh show 192.0.2.102"), 2)


def test_devices_that_answer(lan, vps, vzctl, setting):
    lan.node.ip("link add br9 type bridge")
    lan.node.ip("link set br9 up")
    lan.node.ip("addr add 198.51.100.1/24 dev br9")
    vps.set(ipadd=[V4])

    def answering() -> set[str]:
        assert vzctl("start", 101).code == 0
        found = {x.split()[2] for x in lan.node.ip("neigh show proxy").splitlines()}
        vps.stop(fast=True)
        return found

    assert answering() == {"eth0", "br9"}
    setting(NEIGHBOUR_DEVS="detect")
    assert answering() == {"eth0"}
    setting(NEIGHBOUR_DEVS="list:br9")
    assert answering() == {"br9"}
    setting(NEIGHBOUR_DEVS="list:br9 eth7")
    ran = vzctl("start", 101)
    assert ran.code == 34 and "eth7" in ran.stderr and traces(lan) == []


def test_source_of_routes(lan, vps, vzctl, setting):
    lan.node.ip("addr add 192.0.2.9/32 dev lo")
    setting(VE_ROUTE_SRC_DEV="lo")
    vps.set(ipadd=[V4])
    assert vzctl("start", 101).code == 0
    assert "src 192.0.2.9" in lan.node.ip(f"route show {V4}")
    assert ping(lan.node, V4) == 2


def test_a_device_that_the_vps_removed_comes_back(lan, running, vzctl):
    inner(running, "ip link del venet0")
    assert ping(lan.neighbour, V4) == 0
    assert vzctl("set", 101, "--ipadd", "192.0.2.102").code == 0
    assert ping(lan.neighbour, V4) == ping(lan.neighbour, "192.0.2.102") == 2
    inner(running, "ip link set venet0 down")
    inner(running, "ip link set venet0 name other0")
    inner(running, "ip link set other0 up")
    assert vzctl("set", 101, "--ipadd", "192.0.2.103").code == 0
    assert "192.0.2.103" in inner(running, "ip addr show dev other0")


def test_a_start_that_is_cut(lan, vps, vzctl, setting):
    setting(SKIP_ARPDETECT="no")
    vps.set(ipadd=[V4, V6])
    for step in net.STEPS:
        for how in ("VZ_TEST_STOP_AT", "VZ_TEST_FAIL_AT"):
            assert vzctl("start", 101, env={how: step}).code, step
            # The first task may take a moment to end.
            tools.wait_for(lambda: vps.settle() is None and not traces(lan), 10)
    assert vzctl("start", 101).code == 0 and ping(lan.neighbour, V4) == 2


@pytest.mark.parametrize("step", start.STEPS)
def test_a_start_whose_daemon_is_killed(lan, vps, step):
    """It may hold a filter for it, or be about to have the pair made."""

    def report(event: Event) -> None:
        if getattr(event, "name", "") == step:
            kill(daemon_pid(vps.node))

    vps.set(ipadd=[V4])
    vps.start()
    vps.stop(fast=True)
    vps.start(report=report)
    assert ping(lan.neighbour, V4) == 2
    vps.stop(fast=True)
    assert traces(lan) == []


def test_a_filter_that_the_kernel_refuses(lan, vps, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    vps.set(ipadd=[V4])
    with monkeypatch.context() as patched, pytest.raises(VzError, match="not permitted") as no:
        patched.setattr(antispoof.Guard, "__init__", refuse)
        vps.start()
    assert no.value.code == 34 and not vps.status.running and traces(lan) == []
    vps.start()
    assert ping(lan.neighbour, V4) == 2


def test_without_a_daemon(lan, vps, monkeypatch):
    """The launcher is the tool's child then."""
    vps.set(ipadd=[V4])
    made, make = [], venet.Ends.make
    monkeypatch.setattr(parent, "of", lambda *_: parent.Caller())
    monkeypatch.setattr(
        venet.Ends, "make",
        lambda ends, programs, ready: made.append(ready) or make(ends, programs, ready))
    vps.start()
    assert made == [True] and ping(lan.neighbour, V4) == 2
    vps.stop(fast=True)
    assert traces(lan) == []


def test_a_filter_that_was_loaded_beforehand(lan, vps, monkeypatch):
    """vzeventd has one for the second start, and makes another when that is over; a start that
    comes sooner loads its own."""
    loaded, load = [], antispoof.Guard.__init__
    monkeypatch.setattr(
        antispoof.Guard, "__init__", lambda *words: loaded.append(1) or load(*words))
    vps.set(ipadd=[V4, V6])
    vps.start()

    def again() -> bool:
        loaded.clear()
        vps.stop(fast=True)
        vps.start()
        assert ping(lan.neighbour, V4) == ping(lan.neighbour, V6) == 2
        return not loaded

    for _ in range(2):
        tools.wait_for(again, what="a start that loads nothing")
    inner(vps, "ip addr add 192.0.2.29/32 dev venet0")
    with inside(vps.facts().pid), socket.socket(type=socket.SOCK_DGRAM) as forged:
        forged.bind(("192.0.2.29", 0))
        forged.sendto(b"forged", ("192.0.2.1", 9))
    with lan.node, Socket() as sock:
        link = rtnetlink.find_link(sock, venet.host_end(vps.node.paths.cgroup, 101))
        counts = antispoof.dropped(sock, link.index)
    assert counts["from-ip4"] and not counts["from-mac"]


def test_of_venets_nobody_is_woken(lan):
    """vzeventd hears of devices that come and go, but not of those without neighbours."""
    with lan.node, Socket(groups=rtnetlink.RTMGRP_LINK) as sock:
        rtnetlink.hear_of_neighbourly(sock)
        ip("link add vz8 arp off type veth peer name vz9 arp off")
        for name in ("vz8", "vz9"):
            ip(f"link set {name} up")
        ip("link add vz7 type bridge")
        assert {Link.of(body).name for _, body in sock.heard()} == {"vz7"}
        for name in ("vz8", "vz7"):
            ip(f"link del {name}")


@pytest.mark.parametrize("refused", [False, True])
def test_who_makes_the_pair(lan, vps, monkeypatch, refused):
    """The launcher, as soon as there is a namespace; where nothing has come of that, the tool."""
    made, make = [], venet.Ends.make

    def recorded(ends: venet.Ends, programs: tuple[int, int], by_launcher: bool) -> Link:
        made.append(by_launcher)
        return make(ends, programs, by_launcher)

    vps.set(ipadd=[V4])
    monkeypatch.setattr(venet.Ends, "make", recorded)
    if refused:
        monkeypatch.setattr(venet, "pair", lambda *_: rtnetlink.veth_add_to(
            "eth0", venet.mac(1), "venet0", venet.mac(1)))
    vps.start()
    assert made == [not refused] and ping(lan.neighbour, V4) == 2


def test_a_filter_that_cannot_be_put_on(lan, vps, monkeypatch):
    """The launcher has made the pair by then: it never goes up."""
    vps.set(ipadd=[V4])
    with monkeypatch.context() as patched, pytest.raises(VzError, match="filter add bpf") as no:
        patched.setattr(venet, "guarded", lambda index, _: venet.filters(index, (0, 0)))
        vps.start()
    assert no.value.code == 34 and not vps.status.running and traces(lan) == []
    vps.start()
    assert ping(lan.neighbour, V4) == 2


def test_a_change_that_is_cut(lan, running, vzctl, setting):
    setting(SKIP_ARPDETECT="no")
    before = traces(lan)
    add = ("set", 101, "--ipadd", "192.0.2.102")
    for step in net.STEPS:
        assert vzctl(*add, env={"VZ_TEST_FAIL_AT": step}).code == 34
        assert traces(lan) == before and "192.0.2.102" not in inner(running, "ip addr"), step
        assert vzctl(*add, env={"VZ_TEST_STOP_AT": step}).code == -9
        assert vzctl(*add, "--save").code == 0 and ping(lan.neighbour, "192.0.2.102", 1) == 1
        assert vzctl("set", 101, "--ipdel", "192.0.2.102", "--save").code == 0
        assert traces(lan) == before, step
    running.stop(fast=True)
    assert traces(lan) == []


def test_an_uplink_that_goes_down_and_up(lan, node, running, vzctl):
    """The kernel forgets proxy entries then; the daemon puts them back, also one that was not
    there meanwhile."""
    assert vzctl("set", 101, "--ipadd", V6).code == 0

    def flap() -> None:
        lan.node.ip("link set eth0 down")
        assert "proxy" not in lan.node.ip("neigh show proxy") + lan.node.ip("-6 neigh show proxy")
        lan.node.ip("link set eth0 up")
        lan.node.ip("addr replace 2001:db8::1/64 dev eth0 nodad")

    def answered() -> bool:
        return "proxy" in lan.node.ip("neigh show proxy") and V6 in lan.node.ip(
            "-6 neigh show proxy")

    for _ in range(3):
        flap()
        tools.wait_for(answered, 2)
    assert ping(lan.neighbour, V4) == ping(lan.neighbour, V6) == 2
    assert tools.run_tool(node, ("vzeventd", "--stop")).code == 0
    flap()
    assert not answered()
    tools.run_tool(node, ("vzeventd",))
    tools.wait_for(answered, 2)
    running.stop(fast=True)
    assert traces(lan) == []
    flap()
    assert traces(lan) == []


@tools.slow
@tools.needs("debian template")
def test_networkd_inside_leaves_it_alone(lan, make_node):
    """Even where it sets up whatever device there is (gotcha G32)."""
    vps = make_node(stores.debian_store()).create(101, ostemplate=stores.DEBIAN, ipadd=[V4, V6])
    tools.plant(vps, "/etc/systemd/network/05-all.network",
                "[Match]\nName=*\n\n[Network]\nDHCP=yes\nAddress=198.51.100.9/24\n")
    unit = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    tools.plant(vps, unit, link="/lib/systemd/system/systemd-networkd.service")
    vps.start(wait=True)
    tools.wait_for(
        lambda: "unmanaged" in vps.exec(["networkctl", "list", "venet0"]).stdout.decode(), 10)
    assert ping(lan.neighbour, V4) == ping(lan.neighbour, V6) == 2
    assert "198.51.100.9" not in inner(vps, "ip addr show dev venet0")
    assert "venet0" in inner(vps, "ip route show default")


@pytest.mark.parametrize("address", [OTHER4, OTHER6])
def test_an_answer_is_heard_though_the_time_is_over(lan, vps, setting, monkeypatch, address):
    """On a busy machine all else may take longer than the patience of the question."""
    monkeypatch.setattr(dad, "PATIENCE", 1e-6)
    setting(SKIP_ARPDETECT="no", ERROR_ON_ARPFAIL="yes")
    vps.set(ipadd=[address])
    again = Node(etc=vps.node.paths.etc, run=vps.node.paths.run)  # which reads vz.conf
    with pytest.raises(VzError, match="is detected on another computer"):
        again.vps(101).start()
