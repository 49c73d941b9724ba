"""Nothing but its own addresses leaves or enters a VPS: forged frames of every kind, sent as its
root can send them, by a raw socket in its network namespace. What gets past the host's end of
venet0 is seen by the node's own packet filter, and by the neighbour."""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess

import pytest
from wire import V4, V6, inner, inside, ping

import tools
from vzpy import antispoof, venet
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket

OWN_MAC = venet.mac(101)
NEIGHBOUR4, NEIGHBOUR6 = "192.0.2.2", "2001:db8::2"
ALL_NODES = "ff02::1"


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(payload: bytes, kind: int, source: bytes = OWN_MAC, to: bytes = OWN_MAC) -> bytes:
    return to + source + struct.pack("!H", kind) + payload


def udp4(source: str, to: str = NEIGHBOUR4) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    data = struct.pack("!HHHH", 999, 999, 12, 0) + b"vzpy"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data


def ip6(source: str, to: str, protocol: int, payload: bytes, hops: int = 64, before=b"") -> bytes:
    """before: an extension header in front of the payload, whose first byte is set here"""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    pseudo = addresses + struct.pack("!II", len(payload), protocol)
    at = 6 if protocol == 17 else 2
    payload = payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]
    first = 0 if before else protocol
    payload = (bytes([protocol]) + before[1:] if before else b"") + payload
    return struct.pack("!IHBB", 6 << 28, len(payload), first, hops) + addresses + payload


def udp6(source: str, to: str = NEIGHBOUR6) -> bytes:
    return ip6(source, to, 17, struct.pack("!HHHH", 999, 999, 12, 0) + b"vzpy")


def arp(operation: int, sender: str, target: str) -> bytes:
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + (
        OWN_MAC + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target))


def ndp(kind: int, source: str, to: str = ALL_NODES, before: bytes = b"") -> bytes:
    """A solicitation, advertisement or redirect about the neighbour; a router advertisement."""
    if kind == 134:
        body = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    else:
        body = bytes(4) + socket.inet_pton(socket.AF_INET6, NEIGHBOUR6)
        body += socket.inet_pton(socket.AF_INET6, NEIGHBOUR6) if kind == 137 else b""
        body += bytes((2, 1)) + OWN_MAC
    return ip6(source, to, 58, struct.pack("!BBH", kind, 0, 0) + body, 255, before)


IP, IP6, ARP = 0x0800, 0x86DD, 0x0806
HOP_BY_HOP = bytes((0, 0, 1, 4, 0, 0, 0, 0))
# What is forged -> the frame, and the counter that says why it was dropped.
FORGED = {
    "neighbour's IPv4": (ethernet(udp4(NEIGHBOUR4, "192.0.2.1"), IP), "from-ip4"),
    "the node's IPv4": (ethernet(udp4("192.0.2.1"), IP), "from-ip4"),
    "another VPS's IPv4": (ethernet(udp4("192.0.2.102"), IP), "from-ip4"),
    "some IPv4": (ethernet(udp4("10.9.9.9"), IP), "from-ip4"),
    "no IPv4": (ethernet(udp4("0.0.0.0", "255.255.255.255"), IP), "from-ip4"),
    "loopback": (ethernet(udp4("127.0.0.1", "192.0.2.1"), IP), "from-ip4"),
    "cut short": (ethernet(udp4(V4)[:14], IP), "from-ip4"),
    "neighbour's IPv6": (ethernet(udp6(NEIGHBOUR6, "2001:db8::1"), IP6), "from-ip6"),
    "the node's IPv6": (ethernet(udp6("2001:db8::1"), IP6), "from-ip6"),
    "mapped IPv6": (ethernet(udp6("::ffff:192.0.2.2"), IP6), "from-ip6"),
    "link-local": (ethernet(udp6("fe80::1", ALL_NODES), IP6), "from-ip6"),
    "ARP reply": (ethernet(arp(2, NEIGHBOUR4, "192.0.2.1"), ARP), "from-arp"),
    "ARP announcement": (ethernet(arp(1, NEIGHBOUR4, NEIGHBOUR4), ARP, to=b"\xff" * 6), "from-arp"),
    "ARP with its own": (ethernet(arp(1, V4, "192.0.2.1"), ARP), "from-arp"),
    "solicitation": (ethernet(ndp(135, V6, "2001:db8::1"), IP6), "from-ndp"),
    "advertisement": (ethernet(ndp(136, V6, "2001:db8::1"), IP6), "from-ndp"),
    "link-local advertisement": (ethernet(ndp(136, "fe80::1"), IP6), "from-ip6"),
    "router": (ethernet(ndp(134, "fe80::1"), IP6), "from-ip6"),
    "router by its own": (ethernet(ndp(134, V6), IP6), "from-ndp"),
    "redirect": (ethernet(ndp(137, V6, "2001:db8::1"), IP6), "from-ndp"),
    "hidden": (ethernet(ndp(136, V6, "2001:db8::1", HOP_BY_HOP), IP6), "from-ndp"),
    "hardware address": (ethernet(udp4(V4), IP, source=bytes.fromhex("0218000000ff")), "from-mac"),
    "hardware address, IPv6": (ethernet(udp6(V6), IP6, source=b"\2" * 6), "from-mac"),
    "VLAN": (ethernet(struct.pack("!HH", 5, IP) + udp4(V4), 0x8100), "from-other"),
    "priority": (ethernet(struct.pack("!HH", 0x2000, IP) + udp4(V4), 0x8100), "from-other"),
    "LLDP": (ethernet(bytes(50), 0x88CC), "from-other"),
    "802.3": (ethernet(bytes(50), 50), "from-other"),
}
GENUINE = {
    "IPv4": ethernet(udp4(V4), IP),
    "IPv6": ethernet(udp6(V6), IP6),
    "IPv6 with a header and 255 hops to spare": ethernet(
        ip6(V6, NEIGHBOUR6, 17, struct.pack("!HHHH", 9, 9, 12, 0) + b"vzpy", 254, HOP_BY_HOP), IP6),
    "ping with 255 hops": ethernet(
        ip6(V6, NEIGHBOUR6, 58, struct.pack("!BBHI", 128, 0, 0, 1), 255), IP6),
}
COUNT = """
table inet seen {
    chain arrived {
        type filter hook prerouting priority raw; policy accept;
        iifname "%s" counter
    }
}
table arp seen {
    chain arrived {
        type filter hook input priority filter; policy accept;
        iifname "%s" counter
    }
}
"""


@pytest.fixture
def guarded(lan, vps):
    vps.set(ipadd=[V4, V6])
    vps.start()
    for name in ("all", "eth0"):  # a node that believes everybody
        lan.switch(f"ipv6/conf/{name}/accept_ra", "2")
    name = venet.host_end(vps.node.paths.cgroup, 101)
    lan.node.run("nft", "-f", "-", input=COUNT % (name, name))
    return vps


def send(vps, frame: bytes, device: str = "venet0") -> None:
    with inside(vps.facts().pid):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((device, 0))
    sock.send(frame.ljust(60, b"\0") if len(frame) > 33 else frame)
    sock.close()


def arrived(lan) -> int:
    ruleset = json.loads(lan.node.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    rules = [x["rule"] for x in ruleset if "rule" in x]
    return sum(e["counter"]["packets"] for r in rules for e in r["expr"] if "counter" in e)


def dropped(vps, towards: str = "from-") -> dict[str, int]:
    """By reason; the node's own multicast is dropped towards the VPS at any time."""
    with Socket() as sock:
        link = rtnetlink.find_link(sock, venet.host_end(vps.node.paths.cgroup, 101))
        found = antispoof.dropped(sock, link.index)
    return {reason: count for reason, count in found.items() if count and towards in reason}


def test_forged_frames_do_not_arrive(lan, guarded):
    known = lan.node.ip("neigh") + lan.node.ip("-6 route") + lan.node.ip("route")
    for what, (frame, reason) in FORGED.items():
        before = dropped(guarded).get(reason, 0)
        send(guarded, frame)
        assert dropped(guarded).get(reason, 0) == before + 1, f"{what}: {dropped(guarded)}"
        assert arrived(lan) == 0, what
    for number, (what, frame) in enumerate(GENUINE.items()):
        send(guarded, frame)
        assert arrived(lan) == number + 1, f"{what}: {dropped(guarded)}"
    assert sum(dropped(guarded).values()) == len(FORGED)
    strangers = (lan.node.ip("neigh") + lan.node.ip("-6 route") + lan.node.ip("route")).split("\n")
    assert [x for x in strangers if x not in known and "eth0" not in x] == []
    assert ping(lan.neighbour, V4) == ping(lan.neighbour, V6) == 2


def test_the_counters_are_told(lan, guarded, cli):
    for what in ("neighbour's IPv4", "the node's IPv4", "ARP reply", "router by its own"):
        send(guarded, FORGED[what][0])
    told = cli("vznetstat", "-d", "-v", 101).stdout.splitlines()
    assert told[0].split() == ["CTID", "Device", "Dropped(pkts)", "Reason"]
    sent = [row.split(maxsplit=3) for row in told if " from-" in row]
    assert sent == [
        ["101", "venet0", "2", "from-ip4: sent by an IPv4 address that it has not"],
        ["101", "venet0", "1", f"from-arp: {antispoof.REASONS['from-arp']}"],
        ["101", "venet0", "1", f"from-ndp: {antispoof.REASONS['from-ndp']}"],
    ]
    (row,) = json.loads(cli("vznetstat", "--dropped", "--json").stdout)
    assert (row["ctid"], row["device"], row["dropped"]["from-ip4"]) == (101, "venet0", 2)
    assert list(row["dropped"]) == list(antispoof.REASONS)
    assert cli("vznetstat", "-d", "-v", 102).stdout.splitlines() == told[:1]


def test_its_root_cannot_undo_it(lan, guarded, vzctl):
    """With all that it may do to its own end of the pair."""
    inner(guarded, "ip link set venet0 arp on")
    inner(guarded, f"ip addr add {NEIGHBOUR4}/32 dev venet0")
    inner(guarded, "ip link set venet0 promisc on")
    for frame, _ in FORGED.values():
        send(guarded, frame)
    assert arrived(lan) == 0
    inner(guarded, "ip link add link venet0 name other0 type macvlan mode bridge")
    inner(guarded, "ip link set other0 up")
    send(guarded, ethernet(udp4(V4), IP, source=b"\2\2\2\2\2\2"), "other0")
    inner(guarded, "ip link set venet0 address 02:02:02:02:02:03")
    send(guarded, ethernet(udp4(V4), IP, source=b"\2\2\2\2\2\3"))
    assert arrived(lan) == 0 and dropped(guarded)["from-mac"] >= 4
    assert vzctl("exec", 101, "ip link set venet0 down; ip link set venet0 up").code == 0


def test_nothing_foreign_enters(lan, guarded):
    """Broadcasts and multicasts of the node, and what is sent on its device to another address."""
    with inside(guarded.facts().pid):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        ear.bind(("venet0", 0))
    name = venet.host_end(guarded.node.paths.cgroup, 101).encode()
    for family, to in (
        (socket.AF_INET, "255.255.255.255"), (socket.AF_INET, "224.0.0.1"),
        (socket.AF_INET, "192.0.2.77"), (socket.AF_INET6, "ff02::1"),
        (socket.AF_INET6, "2001:db8::77"),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
            try:
                sock.sendto(b"foreign", (to, 999))
            except OSError:
                pass  # no route: as good
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind((name.decode(), 0))
    frames = [f for f, _ in FORGED.values()]
    for frame in frames:
        try:
            raw.send(frame.ljust(60, b"\0"))
        except OSError as err:  # the device's sender is told
            assert err.errno == errno.ENOBUFS
    raw.send(ethernet(udp4(NEIGHBOUR4, V4), IP, to=OWN_MAC))
    raw.close()
    ear.settimeout(0.5)
    got = []
    try:
        while True:
            frame, about = ear.recvfrom(2048)
            if about[2] != socket.PACKET_OUTGOING:
                got.append(frame[14:])
    except TimeoutError:
        ear.close()
    assert got == [udp4(NEIGHBOUR4, V4)]
    assert {"to-ip4", "to-ip6", "to-other"} <= set(dropped(guarded, "to-"))


def test_what_the_administrator_has_stays(lan, vps, vzctl):
    """Firewall and traffic control are his; and when he takes away all of his, ours stands."""
    rules = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; " \
            "policy drop;\n\t}\n}\n"
    lan.node.run("nft", "-f", "-", input=rules)
    before = lan.node.run("nft", "list", "ruleset").stdout
    vps.set(ipadd=[V4])
    vps.start()
    assert lan.node.run("nft", "list", "ruleset").stdout == before
    assert ping(lan.neighbour, V4) == 0 and ping(lan.node, V4) == 2
    lan.node.run("nft", "flush", "ruleset")
    assert ping(lan.neighbour, V4) == 2
    send(vps, FORGED["neighbour's IPv4"][0])
    assert dropped(vps) == {"from-ip4": 1}
    vps.stop(fast=True)


def test_an_address_taken_away_passes_no_more(lan, guarded, vzctl):
    assert vzctl("set", 101, "--ipadd", "192.0.2.102").code == 0
    frame = ethernet(udp4("192.0.2.102"), IP)
    send(guarded, frame)
    assert arrived(lan) == 1
    assert vzctl("set", 101, "--ipdel", "192.0.2.102").code == 0
    send(guarded, frame)
    assert arrived(lan) == 1 and dropped(guarded) == {"from-ip4": 1}


def test_two_vpss_cannot_speak_for_each_other(lan, node, guarded):
    other = node.create(102, ipadd=["192.0.2.102"])
    other.start()
    assert tools.sh(other, f"ping -c 1 -W 2 {V4}")
    with inside(other.facts().pid):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("venet0", 0))

    sock.send(ethernet(udp4(V4), IP, source=venet.mac(102)))
    sock.close()
    name = venet.host_end(node.paths.cgroup, 102)
    done = subprocess.run(["tc", "-s", "filter", "show", "dev", name, "ingress"],
                          capture_output=True, text=True)
    assert "vz_from" in done.stdout
