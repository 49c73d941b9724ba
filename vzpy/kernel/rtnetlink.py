"""Requests of rtnetlink(7): links, addresses, routes, proxy neighbours, traffic control.

Each function makes one request, for netlink.Socket. Addresses are packed (inet_pton(3)), links are
meant by index, or by name where the kernel lets them."""

from __future__ import annotations

import _socket
import _struct as struct
import os

from vzpy.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    Socket,
    attr,
    attributes,
    nested,
)
from vzpy.record import record

RTMGRP_LINK = 1
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_RTM_NEWQDISC, _RTM_DELQDISC = 36, 37
_RTM_NEWTFILTER, _RTM_GETTFILTER = 44, 46

IFF_UP, IFF_BROADCAST, IFF_LOOPBACK, IFF_NOARP = 0x1, 0x2, 0x8, 0x80
ARPHRD_ETHER = 1
LOOPBACK = 1  # index of lo in each network namespace
PID, IFNAMSIZ = 4, 16  # bytes
INDEX_AT = 20  # of a request with its header: where the index of its link is

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 1, 3, 5, 10
_IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_STATS64, _IFLA_AF_SPEC = 18, 19, 23, 26
_IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 28, 29, 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE = 8, 1
_RTEXT_FILTER_SKIP_STATS = 8

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST, _RTNH_F_ONLINK = 254, 4, 1, 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253

_NDA_DST, _NTF_PROXY, _NUD_PERMANENT = 1, 8, 0x80

TC_INGRESS, TC_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_TC_CLSACT = 0xFFFFFFF1
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_TCA_BPF_FLAG_ACT_DIRECT = 1
_ETH_P_ALL = 3


def family(address: bytes) -> int:
    return _socket.AF_INET if len(address) == 4 else _socket.AF_INET6


def text(address: bytes) -> str:
    return _socket.inet_ntop(family(address), address)


# Links


@record
class Link:
    """What is asked of a network device here."""

    index: int
    name: str
    hardware: int  # ARPHRD_*
    flags: int  # IFF_*
    address: bytes
    master: int  # index of its bridge, 0 without one
    peer: int  # index of the other end of a veth in its namespace, of what a vlan lies on

    @classmethod
    def of(cls, body: bytes) -> Link:
        """From the body of an RTM_NEWLINK."""
        _, kind, index, flags, _ = _ifinfo.unpack_from(body)
        found = attributes(body, _ifinfo.size)

        def number(name: int) -> int:
            return int.from_bytes(found.get(name, b"\0"), "little")

        return cls(
            index, os.fsdecode(found.get(_IFLA_IFNAME, b"").rstrip(b"\0")), kind, flags,
            found.get(_IFLA_ADDRESS, b""), number(_IFLA_MASTER), number(_IFLA_LINK),
        )


_ifinfo = struct.Struct("=HHiII")  # struct ifinfomsg


def _link(link: int | str, flags: int = 0, change: int = 0) -> bytes:
    index = link if isinstance(link, int) else 0
    head = _ifinfo.pack(0, 0, index, flags, change)
    return head if isinstance(link, int) else head + attr(_IFLA_IFNAME, link)


def veth_add(
    name: str, mac: bytes, peer: str, peer_mac: bytes, netns: int, flags: int = 0
) -> Request:
    """A pair, both ends down: `name` here, `peer` in the namespace of a descriptor.

    flags  IFF_* that both get"""
    return _veth(name, mac, peer, peer_mac, flags, attr(_IFLA_NET_NS_FD, netns))


def veth_add_to(name: str, mac: bytes, peer: str, peer_mac: bytes, flags: int = 0) -> Request:
    """The same, `peer` in the namespace of a process, whose pid are the last PID bytes of the
    request: zeros here."""
    return _veth(name, mac, peer, peer_mac, flags, attr(_IFLA_NET_NS_PID, 0))


def _veth(
    name: str, mac: bytes, peer: str, peer_mac: bytes, flags: int, netns: bytes
) -> Request:
    """One queue, as they are used: of those that the kernel makes for each processor it takes all
    but one away again, and waits each time until nobody looks at them (synchronize_net)."""
    queues = attr(_IFLA_NUM_TX_QUEUES, 1) + attr(_IFLA_NUM_RX_QUEUES, 1)
    there = _link(peer, flags, flags) + attr(_IFLA_ADDRESS, peer_mac) + queues + netns
    data = nested(_IFLA_INFO_DATA, attr(_VETH_INFO_PEER, there))
    body = _link(name, flags, flags) + attr(_IFLA_ADDRESS, mac) + queues
    body += nested(_IFLA_LINKINFO, attr(_IFLA_INFO_KIND, "veth"), data)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"link add {name} type veth")


def link_up(link: int | str, up: bool = True) -> Request:
    body = _link(link, IFF_UP if up else 0, IFF_UP)
    return Request(RTM_NEWLINK, 0, body, f"link set {link} {'up' if up else 'down'}")


def link_rename(index: int, name: str) -> Request:
    """The device has to be down (before Linux 6.2)."""
    return _set(index, attr(_IFLA_IFNAME, name), f"name {name}")


def link_address(index: int, mac: bytes) -> Request:
    return _set(index, attr(_IFLA_ADDRESS, mac), f"address {mac.hex(':')}")


def link_master(index: int, bridge: int) -> Request:
    """Make it a port of a bridge; 0 of none."""
    return _set(index, attr(_IFLA_MASTER, bridge), f"master {bridge}")


def link_move(index: int, netns: int, name: str) -> Request:
    """To the network namespace of a descriptor, by a name that must be free there."""
    return _set(index, attr(_IFLA_NET_NS_FD, netns) + attr(_IFLA_IFNAME, name), f"netns, {name}")


def _set(index: int, attributes: bytes, what: str) -> Request:
    return Request(RTM_NEWLINK, 0, _link(index) + attributes, f"link set {index} {what}")


def link_no_ll6(link: int | str) -> Request:
    """No IPv6 link-local address by itself (addrgenmode none)."""
    none = attr(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
    body = _link(link) + nested(_IFLA_AF_SPEC, nested(_socket.AF_INET6, none))
    return Request(RTM_NEWLINK, 0, body, f"link set {link} addrgenmode none")


def link_del(link: int | str) -> Request:
    return Request(RTM_DELLINK, 0, _link(link), f"link del {link}")


def find_link(sock: Socket, link: int | str) -> Link | None:
    """A network device, None when there is none of that name or index."""
    body = _link(link) + attr(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    try:
        return Link.of(sock.ask(Request(RTM_GETLINK, 0, body, f"link show {link}"))[0][1])
    except OSError as err:
        if err.errno == 19:  # ENODEV
            return None
        raise


def hear_of_neighbourly(sock: Socket) -> None:
    """Of the devices that RTMGRP_LINK tells of only those whose neighbours are asked for hardware
    addresses (IFF_NOARP is not set): not of the venets, whose number has no bound."""
    flags = 16 + 8  # of the first message: after its header, in struct ifinfomsg
    code = ((0x30, 0, 0, flags), (0x45, 0, 1, IFF_NOARP), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    sock.filter(b"".join(struct.pack("=HBBI", *one) for one in code))


def statistics(sock: Socket, link: int | str) -> tuple[int, int, int, int] | None:
    """Bytes and packets that a device has received, then those it has sent (rtnl_link_stats64);
    None when there is no such device."""
    try:
        body = sock.ask(Request(RTM_GETLINK, 0, _link(link), f"link show {link}"))[0][1]
    except OSError as err:
        if err.errno == 19:  # ENODEV
            return None
        raise
    found = attributes(body, _ifinfo.size)[_IFLA_STATS64]
    in_packets, out_packets, in_bytes, out_bytes = struct.unpack_from("=4Q", found)
    return in_bytes, in_packets, out_bytes, out_packets


def links(sock: Socket) -> list[Link]:
    body = _link(0) + attr(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    answers = sock.ask(Request(RTM_GETLINK, NLM_F_DUMP, body, "link show"))
    return [Link.of(body) for kind, body in answers if kind == RTM_NEWLINK]


# Addresses


@record
class Assigned:
    """An address of a network device."""

    index: int
    address: bytes
    prefix: int


_ifaddr = struct.Struct("=BBBBI")  # struct ifaddrmsg


def addr_add(index: int, address: bytes, prefix: int) -> Request:
    """Without a route to its prefix, and without a search for a second owner."""
    flags = _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE
    body = _address(index, address, prefix) + attr(_IFA_FLAGS, flags)
    what = f"addr add {text(address)}/{prefix}"
    return Request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, what)


def addr_del(index: int, address: bytes, prefix: int) -> Request:
    what = f"addr del {text(address)}/{prefix}"
    return Request(_RTM_DELADDR, 0, _address(index, address, prefix), what)


def _address(index: int, address: bytes, prefix: int) -> bytes:
    body = _ifaddr.pack(family(address), prefix, 0, _SCOPE_UNIVERSE, index)
    return body + attr(_IFA_LOCAL, address) + attr(_IFA_ADDRESS, address)


def addresses(sock: Socket) -> list[Assigned]:
    """Of all network devices."""
    found = []
    request = Request(_RTM_GETADDR, NLM_F_DUMP, _ifaddr.pack(0, 0, 0, 0, 0), "addr show")
    for kind, body in sock.ask(request):
        if kind == _RTM_NEWADDR:
            _, prefix, _, _, index = _ifaddr.unpack_from(body)
            given = attributes(body, _ifaddr.size)
            address = given.get(_IFA_LOCAL) or given.get(_IFA_ADDRESS, b"")
            found.append(Assigned(index, address, prefix))
    return found


# Routes


def route_add(index: int, address: bytes, source: bytes = b"", replace: bool = False) -> Request:
    """To one address, of which there must be no other route (EEXIST), or in its place."""
    body = _route(index, address) + (attr(_RTA_PREFSRC, source) if source else b"")
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(_RTM_NEWROUTE, flags, body, f"route add {text(address)}")


def route_del(index: int, address: bytes) -> Request:
    return Request(_RTM_DELROUTE, 0, _route(index, address), f"route del {text(address)}")


def _route(index: int, address: bytes) -> bytes:
    scope = _SCOPE_LINK if len(address) == 4 else _SCOPE_UNIVERSE
    head = struct.pack("=8BI", family(address), 8 * len(address), 0, 0, _RT_TABLE_MAIN,
                       _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
    return head + attr(_RTA_DST, address) + attr(_RTA_OIF, index)


def default_add(index: int, gateway: bytes) -> Request:
    """A default route, unless there is one (EEXIST); the gateway needs no route to itself."""
    head = struct.pack("=8BI", family(gateway), 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC,
                       _SCOPE_UNIVERSE, _RTN_UNICAST, _RTNH_F_ONLINK)
    body = head + attr(_RTA_GATEWAY, gateway) + attr(_RTA_OIF, index)
    what = f"route add default via {text(gateway)}"
    return Request(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, what)


def route_get(sock: Socket, address: bytes) -> tuple[int, bytes]:
    """Where packets to an address would go: index of the device, gateway or b"".

    Raises OSError: ENETUNREACH without a route."""
    bits = 8 * len(address)
    head = struct.pack("=8BI", family(address), bits, 0, 0, 0, 0, 0, 0, 0)
    body = head + attr(_RTA_DST, address)
    request = Request(_RTM_GETROUTE, 0, body, f"route get {text(address)}")
    given = attributes(sock.ask(request)[0][1], len(head))
    return int.from_bytes(given.get(_RTA_OIF, b"\0"), "little"), given.get(_RTA_GATEWAY, b"")


# Proxy neighbours


def proxy_add(index: int, address: bytes) -> Request:
    """Answer for an address on a link: ARP or neighbour discovery, by the address."""
    return _proxy(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, index, address, "add")


def proxy_del(index: int, address: bytes) -> Request:
    return _proxy(_RTM_DELNEIGH, 0, index, address, "del")


def _proxy(kind: int, flags: int, index: int, address: bytes, verb: str) -> Request:
    head = struct.pack("=BBHiHBB", family(address), 0, 0, index, _NUD_PERMANENT, _NTF_PROXY, 0)
    what = f"neigh {verb} proxy {text(address)}"
    return Request(kind, flags, head + attr(_NDA_DST, address), what)


# Traffic control

_tcmsg = struct.Struct("=BBHiIII")  # struct tcmsg


def clsact_add(index: int) -> Request:
    """The place where filters see what comes from and goes to a device (tc-bpf(8))."""
    body = _tcmsg.pack(0, 0, 0, index, 0xFFFF0000, _TC_CLSACT, 0) + attr(_TCA_KIND, "clsact")
    return Request(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, "qdisc add clsact")


def clsact_del(index: int) -> Request:
    """With all its filters."""
    body = _tcmsg.pack(0, 0, 0, index, 0xFFFF0000, _TC_CLSACT, 0)
    return Request(_RTM_DELQDISC, 0, body, "qdisc del clsact")


def bpf_filter_add(index: int, parent: int, priority: int, prog: int, name: str) -> Request:
    """A program that judges by itself (direct-action).

    parent  TC_INGRESS, what the device receives; TC_EGRESS, what it sends"""
    body = _filter(index, parent, priority) + attr(_TCA_KIND, "bpf") + nested(
        _TCA_OPTIONS, attr(_TCA_BPF_FD, prog), attr(_TCA_BPF_NAME, name),
        attr(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
    )
    return Request(_RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body, f"filter add bpf {name}")


def bpf_filters(sock: Socket, index: int, parent: int) -> dict[str, int]:
    """Ids of the programs at one place of a device, by name."""
    head = _tcmsg.pack(0, 0, 0, index, 0, parent, 0)
    found = {}
    for kind, body in sock.ask(Request(_RTM_GETTFILTER, NLM_F_DUMP, head, "filter show")):
        given = attributes(body, _tcmsg.size)
        if kind == _RTM_NEWTFILTER and given.get(_TCA_KIND) == b"bpf\0":
            options = attributes(given.get(_TCA_OPTIONS, b""))
            if _TCA_BPF_ID in options:
                name = options.get(_TCA_BPF_NAME, b"").rstrip(b"\0").decode()
                found[name] = int.from_bytes(options[_TCA_BPF_ID], "little")
    return found


def _filter(index: int, parent: int, priority: int) -> bytes:
    info = priority << 16 | _socket.htons(_ETH_P_ALL)
    return _tcmsg.pack(0, 0, 0, index, 0, parent, info)
