"""veth pairs on bridges, and network devices of the host that a VPS is given."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from test_net_spoof import ARP, IP6, ethernet, ndp, udp4
from wire import inner, inside, ping

import tools
from vzpy import antispoof
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.story import netdevices

MAC, HOST_MAC = "00:18:51:AA:00:01", "00:18:51:AA:00:02"


@pytest.fixture
def bridge(lan):
    """br0 of the node, with the Ethernet on it."""
    lan.node.ip("link add br0 type bridge")
    lan.node.ip("link set br0 up")
    lan.node.ip("link set eth0 master br0")
    return "br0"


def links(lan) -> set[str]:
    rows = lan.node.ip("-br link").splitlines()
    return {row.split()[0].split("@")[0] for row in rows} - {"lo", "eth0", "br0", "br1"}


def on_lan(vps) -> None:
    inner(vps, "ip addr add 192.0.2.50/24 dev eth0")
    inner(vps, "ip link set eth0 up")


def test_a_veth_on_a_bridge(lan, bridge, vps, vzctl):
    vps.start()
    ran = vzctl("set", 101, "--netif_add", f"eth0,{MAC},veth101.0,{HOST_MAC},br0", "--save")
    assert ran.code == 0 and ran.stdout.startswith("Configure veth devices: eth0 \n"), ran
    assert MAC.lower() in inner(vps, "ip link show eth0")
    assert HOST_MAC.lower() in lan.node.ip("link show veth101.0 master br0 up")
    on_lan(vps)
    assert ping(lan.neighbour, "192.0.2.50") == 2
    assert vzctl("restart", 101, "--fast").stdout.count("Configure veth devices: eth0 \n") == 1
    on_lan(vps)
    assert ping(lan.neighbour, "192.0.2.50") == 2
    ran = vzctl("set", 101, "--netif_del", "eth0", "--save")
    assert ran.code == 0 and ran.stdout.startswith("Deleting veth devices: eth0 \n"), ran
    assert links(lan) == set() and "eth0" not in inner(vps, "ip link")
    assert 'NETIF=""' in Path(vps.conf_path).read_text()


def test_names_and_addresses_are_chosen(lan, vps, vzctl):
    assert vzctl("set", 101, "--netif_add", "eth0", "--netif_add", "eth7", "--save").code == 0
    assert "Configure veth devices: eth0 eth7 \n" in vzctl("start", 101).stdout
    assert links(lan) == {"veth101.0", "veth101.7"}
    assert "link/ether 00:18:51" in inner(vps, "ip link show eth7")
    ran = vzctl("set", 101, "--netif_del", "all", "--save")
    assert ran.stdout.startswith("Deleting veth devices: eth0 eth7 \n") and links(lan) == set()
    assert vzctl("set", 101, "--netif_add", "eth1").code == 0  # in no file
    assert links(lan) == {"veth101.1"}
    assert vps.stop(fast=True) is None and links(lan) == set()


def test_a_veth_is_changed(lan, bridge, vps, vzctl):
    vps.set(netif_add=f"eth0,{MAC},veth101.0,{HOST_MAC}")
    vps.start()
    on_lan(vps)
    assert ping(lan.neighbour, "192.0.2.50") == 0
    assert vzctl("set", 101, "--ifname", "eth0", "--bridge", "br0", "--save").code == 0
    assert ping(lan.neighbour, "192.0.2.50") == 2
    ran = vzctl("set", 101, "--ifname", "eth0", "--host_ifname", "outer0", "--mac",
                "00:18:51:BB:00:01", "--host_mac", "00:18:51:BB:00:02", "--save")
    assert ran.code == 0 and links(lan) == {"outer0"}, ran
    assert "00:18:51:bb:00:01" in inner(vps, "ip link show eth0")
    assert "00:18:51:bb:00:02" in lan.node.ip("link show outer0")
    lan.neighbour.ip("neigh flush dev eth0")
    assert ping(lan.neighbour, "192.0.2.50") == 2
    assert vps.stop(fast=True) is None and links(lan) == set()


def send(vps, frame: bytes) -> None:
    with inside(vps.facts().pid):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("eth0", 0))
    sock.send(frame.ljust(60, b"\0"))
    sock.close()


def test_mac_filter(lan, bridge, vps, vzctl, cli):
    """On unless it is switched off: other hardware addresses, ARP in their name and router
    advertisements stay inside."""
    vps.set(netif_add=f"eth0,{MAC},veth101.0,{HOST_MAC},br0")
    vps.start()
    on_lan(vps)
    own, other = bytes.fromhex(MAC.replace(":", "")), bytes.fromhex("020000000099")
    group = b"\xff" * 6
    arp = bytes.fromhex("0001080006040002") + other + socket.inet_aton("192.0.2.2") + bytes(10)
    forged = {
        "from-mac": ethernet(udp4("192.0.2.50"), 0x0800, other, group),
        "from-arp": ethernet(arp, ARP, own, group),
        "from-ndp": ethernet(ndp(134, "fe80::1"), IP6, own, group),
    }
    with lan.neighbour:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        ear.bind(("eth0", 0))

    def heard() -> set[str]:
        for frame in forged.values():
            send(vps, frame)
        ear.settimeout(0.3)
        got = []
        try:
            while True:
                got.append(ear.recv(2048)[12:])
        except TimeoutError:
            return {why for why, frame in forged.items() if any(
                g.startswith(frame[12:]) for g in got)}

    assert heard() == set()
    with Socket() as sock:
        link = rtnetlink.find_link(sock, "veth101.0")
        counts = antispoof.dropped(sock, link.index)
    assert all(counts[why] == 1 for why in forged), counts
    assert ping(lan.neighbour, "192.0.2.50") == 2
    assert vzctl("set", 101, "--ifname", "eth0", "--mac_filter", "off").code == 0
    assert heard() == set(forged)
    ear.close()
    assert "nothing is checked: mac_filter=off" in cli("vznetstat", "-d").stdout


REFUSED = [
    ("--netif_add eth1,,,,br7", 130, "br7"),
    ("--netif_add eth1,,,,eth0", 130, "eth0: it is no bridge"),
    ("--netif_add eth1,,taken0", 130, "taken0"),
    ("--netif_add eth1,01:18:51:00:00:01", 21, "Invalid container MAC address format"),
    ("--netif_add eth1,00:18:51:00:00", 21, "Invalid container MAC address length"),
    ("--netif_add eth1,,x,ff:ff:ff:ff:ff:ff", 21, "Invalid host MAC address"),
    ("--netif_add sixteen-letters-", 21, "netif_add"),
    ("--netif_add lo", 130, "lo"),
    ("--ifname eth9 --bridge br0", 20, "eth9 is not configured"),
    ("--netdev_add nosuch0", 104, "nosuch0"),
    ("--netdev_add lo", 21, "lo"),
]


def test_what_cannot_be(lan, bridge, vps, vzctl):
    lan.node.ip("link add taken0 type bridge")
    vps.set(netif_add=f"eth0,{MAC},veth101.0,{HOST_MAC},br0")
    vps.start()

    def links() -> list[tuple[str, str]]:
        """Names and MACs: a link that is up needs its time until it has a carrier."""
        rows = (line.split() for line in lan.node.ip("-br link").splitlines())
        return [(name, mac) for name, _, mac, *_ in rows]

    before, config = links(), Path(vps.conf_path).read_text()
    for words, code, why in REFUSED:
        ran = vzctl("set", 101, *words.split(), "--save")
        assert ran.code == code and why in ran.stderr + ran.stdout, ran
        assert links() == before and Path(vps.conf_path).read_text() == config


def test_external_script(lan, vps, vzctl, tmp_path):
    script, said = tmp_path / "script", tmp_path / "said"
    script.write_text(f"#!/bin/sh\necho $VEID $* >>{said}; ip link set $3 mtu 1400 up\n")
    Path(vps.node.paths.etc, "vznet.conf").write_text(f'# x\nEXTERNAL_SCRIPT="{script}"\n')
    vps.start()
    assert vzctl("set", 101, "--netif_add", "eth0").code == 0 and not said.exists()
    script.chmod(0o755)
    assert vzctl("set", 101, "--netif_add", "eth1").code == 0
    assert said.read_text() == "101 init veth veth101.1\n"
    assert "mtu 1400" in lan.node.ip("link show veth101.1 up")
    script.write_text("#!/bin/sh\nexit 3\n")
    ran = vzctl("set", 101, "--netif_add", "eth2")
    assert ran.code == 130 and "exit status 3" in ran.stderr
    assert links(lan) == {"veth101.0", "veth101.1"}
    vps.stop(fast=True)
    vps.set(netif_add="eth0")
    assert vzctl("start", 101).code == 130 and links(lan) == set()


def on_ports(lan) -> set[str]:
    """What is on vmbr0."""
    rows = lan.node.ip("-br link show master vmbr0").splitlines()
    return {row.split()[0].split("@")[0] for row in rows}


def test_vznetaddbr(lan, vps, vzctl, cli, tmp_path):
    """As EXTERNAL_SCRIPT, of a node beside the default one, and by hand."""
    script, paths = tmp_path / "script", vps.node.paths
    script.write_text(f"#!/bin/sh\nexport VZ_ETC={paths.etc} VZ_RUN={paths.run}\n"
                      f"exec {tools.ROOT}/bin/vznetaddbr \"$@\" >>{tmp_path}/said\n")
    script.chmod(0o755)
    Path(paths.etc, "vznet.conf").write_text(f'EXTERNAL_SCRIPT="{script}"\n')
    vps.start()
    ran = vzctl("set", 101, "--netif_add", "eth0")
    assert ran.code == 130 and links(lan) == set(), ran
    assert "Unable to add veth101.0 to vmbr0: vmbr0: No such device" in ran.stderr
    for bridge in ("vmbr0", "br1"):
        lan.node.ip(f"link add {bridge} type bridge")
    assert vzctl("set", 101, "--netif_add", "eth0", "--save").code == 0
    assert on_ports(lan) == {"veth101.0"}
    vps.stop(fast=True)
    vps.set(netif_add="eth1,,,,br1")
    assert vzctl("start", 101).code == 0
    assert on_ports(lan) == {"veth101.0"} and lan.node.ip("link show master br1 up")
    assert (tmp_path / "said").read_text().splitlines()[-2:] == [
        "Adding interface veth101.0 to bridge vmbr0 on CT0 for CT101",
        "Adding interface veth101.1 to bridge br1 on CT0 for CT101",
    ]
    with lan.node:
        for switch in ("proxy_arp", "forwarding"):
            path = Path("/proc/sys/net/ipv4/conf/veth101.0", switch)
            assert path.read_text() == "1\n"

    def by_hand(device: str, veid: str = "101") -> tuple[int, str]:
        ran = cli("vznetaddbr", "init", "veth", device, env={"VEID": veid})
        return ran.code, ran.stdout + ran.stderr

    lan.node.ip("link set veth101.0 nomaster")
    assert by_hand("veth101.0")[0] == 0 and on_ports(lan) == {"veth101.0"}
    assert by_hand("eth0") == (0, "")
    assert by_hand("veth101.0", "")[0] == 20
    vps.node.create(102)
    assert by_hand("veth101.0", "102") == (
        1, f"According to {paths.conf}/102.conf, CT102 has no veth interface configured.\n")


def test_vznetcfg(lan, vps, vzctl, cli, tmp_path):
    vps.start()
    assert vzctl("set", 101, "--netif_add", "eth0").code == 0
    lan.node.ip("link set veth101.0 down")
    assert cli("vznetcfg", "init", "veth", "veth101.0").code == 0
    assert lan.node.ip("link show veth101.0 up")
    ran = cli("vznetcfg", "init", "veth", "nosuch0")
    assert (ran.code, ran.stderr) == (130, "Unable to set up nosuch0: link set nosuch0 up: "
                                           "No such device\n")
    assert cli("vznetcfg", "init", "veth").stderr == "vznetcfg init veth <dev>\n"
    ran = cli("vznetcfg", "stop", "veth", "veth101.0")
    assert (ran.code, ran.stdout) == (1, "invalid action\n")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $VEID $*; exit 7\n")
    script.chmod(0o755)
    Path(vps.node.paths.etc, "vznet.conf").write_text(f'EXTERNAL_SCRIPT="{script}"\n')
    ran = cli("vznetcfg", "init", "veth", "veth101.0", env={"VEID": "101"})
    assert (ran.code, ran.stdout) == (7, "101 init veth veth101.0\n")


# Devices of the host


@pytest.fixture
def device(lan):
    lan.node.ip("link add link eth0 name mv0 type macvlan mode bridge")
    return "mv0"


@pytest.mark.parametrize("end", ["stop", "crash", "netdev_del", "halt", "renamed"])
def test_a_device_moves_in_and_comes_back(lan, device, vps, vzctl, end):
    before = lan.node.ip("-br link show mv0").split()[2]
    vps.set(netdev_add=[device])
    vps.start()
    assert links(lan) == set() and "mv0" in inner(vps, "ip link")
    inner(vps, "ip addr add 192.0.2.60/24 dev mv0")
    inner(vps, "ip link set mv0 up")
    assert ping(lan.neighbour, "192.0.2.60") == 2
    if end == "stop":
        assert vzctl("stop", 101).code == 0
    elif end == "netdev_del":
        assert vzctl("set", 101, "--netdev_del", device).code == 0
    elif end == "renamed":
        inner(vps, "ip link set mv0 down")  # before Linux 6.2 it has to be, for a new name
        inner(vps, "ip link set mv0 name other0 address 02:00:00:00:00:77")
        inner(vps, "ip link set other0 up")
        vps.stop(fast=True)
    elif end == "halt":
        tools.sh(vps, "halt -f")
    else:
        os.kill(vps.facts().pid, 9)
    tools.wait_for(lambda: vps.settle() is None and "mv0" in links(lan), 5)
    assert lan.node.ip("-br link show mv0").split()[2] == before
    assert links(lan) == {"mv0"}
    assert not any("netns" in line for line in Path("/proc/self/mountinfo").read_text().split("\n")
                   if str(vps.node.paths.run) in line)


def test_a_device_that_the_vps_destroyed(lan, device, vps, vzctl):
    vps.set(netdev_add=[device])
    vps.start()
    inner(vps, "ip link del mv0")
    assert vzctl("stop", 101, "--fast").code == 0 and links(lan) == set()
    ran = vzctl("start", 101)
    assert ran.code == 104 and "mv0" in ran.stderr and not vps.status.running


@pytest.mark.parametrize("by", [("stop", 101, "--fast"), ("set", 101, "--netdev_del", "mv0")])
def test_a_name_that_is_taken_meanwhile(lan, device, vps, vzctl, by):
    vps.set(netdev_add=[device])
    vps.start()
    lan.node.ip("link add mv0 type bridge")
    lan.node.ip("link add dev0 type bridge")
    ran = vzctl(*by)
    assert ran.code == 0 and links(lan) == {"mv0", "dev0", "dev1"}
    assert "network device mv0 came back as dev1: there is another mv0 now\n" in ran.stderr


@pytest.mark.needs("vlan")
def test_a_vlan(lan, vps, vzctl):
    lan.node.ip("link add link eth0 name eth0.5 type vlan id 5")
    vps.start()
    assert vzctl("set", 101, "--netdev_add", "eth0.5", "--save").code == 0
    assert "eth0.5" in inner(vps, "ip link") and links(lan) == set()
    vps.stop(fast=True)
    assert links(lan) == {"eth0.5"}


def test_cut_short(lan, bridge, vps, vzctl):
    """A start and a change, killed or failed at each step: the devices of the host are back."""
    lan.node.ip("link add link br0 name mv0 type macvlan mode bridge")
    for step in netdevices.STEPS:
        vps.start()
        add = ("set", 101, "--netif_add", "eth0", "--netdev_add", "mv0")
        ran = vzctl(*add, env={"VZ_TEST_FAIL_AT": step})
        assert ran.code in (104, 130) and links(lan) == {"mv0"}, step
        assert "eth0" not in inner(vps, "ip link")
        assert vzctl(*add, env={"VZ_TEST_STOP_AT": step}).code == -9
        vps.stop(fast=True)
        assert links(lan) == {"mv0"}, step
    vps.set(netif_add="eth0", netdev_add=["mv0"])
    for step in netdevices.STEPS:
        for how in ("VZ_TEST_FAIL_AT", "VZ_TEST_STOP_AT"):
            assert vzctl("start", 101, env={how: step}).code
            tools.wait_for(lambda: vps.settle() is None and links(lan) == {"mv0"}, 5)
    assert vzctl("start", 101).code == 0 and links(lan) == {"veth101.0"}


def test_a_change_of_a_veth_that_fails_is_taken_back(lan, bridge, vps, vzctl):
    vps.set(netif_add=f"eth0,{MAC},veth101.0,{HOST_MAC},br0")
    vps.start()
    on_lan(vps)
    change = ("set", 101, "--ifname", "eth0", "--host_ifname", "outer0", "--host_mac",
              "00:18:51:BB:00:02", "--save")
    for step in ("net-veth", "net-veth-up"):
        before = Path(vps.conf_path).read_text()
        ran = vzctl(*change, env={"VZ_TEST_FAIL_AT": step})
        assert ran.code == 130 and links(lan) == {"veth101.0"}, ran
        assert Path(vps.conf_path).read_text() == before
    assert vzctl(*change).code == 0 and links(lan) == {"outer0"}
    assert ping(lan.neighbour, "192.0.2.50") == 2
