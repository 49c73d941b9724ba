"""Only its own addresses: two BPF programs on the host end of a VPS's network device (tc-bpf(8)).

They stand on the device, so that no packet passes before or beside them, nothing of the host's
firewall is touched or can take them away (`nft flush ruleset`), and they go with the device. What
they let pass meets the host's own rules as ever.

What the VPS sends passes when it is plain IP, from the device's own hardware address and from an
address in the map, and no neighbour discovery: a venet needs no ARP, and who needs none can forge
none. What is sent to it passes when it goes to an address in the map. The rest is counted by its
reason, and dropped."""

from __future__ import annotations

import errno

from vzpy import venet
from vzpy.kernel import bpf, rtnetlink
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R10, Code, Opened
from vzpy.once import once
from vzpy.venet import FROM, TO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vzpy.kernel.netlink import Socket

# Why a packet was dropped, in the order of the counters.
REASONS = {
    "from-mac": "sent by another hardware address than its own",
    "from-ip4": "sent by an IPv4 address that it has not",
    "from-ip6": "sent by an IPv6 address that it has not",
    "from-arp": "sent ARP; on a bridge only in the name of another hardware address",
    "from-ndp": "sent neighbour discovery; on a bridge only router advertisements, redirects",
    "from-other": "sent what is no IP, or has a VLAN tag",
    "to-ip4": "sent to an IPv4 address that it has not, as the node's broadcasts are",
    "to-ip6": "sent to an IPv6 address that it has not, as the node's multicasts are",
    "to-other": "sent to it and no IP, or on a bridge to another hardware address",
}
_REASONS = tuple(REASONS)
_ADDRESSES, _DROPPED = "vz_addresses", "vz_dropped"
MAX_ADDRESSES = 4096
# The one value of _DROPPED: a counter for each reason, and the hardware address of a venet.
_MAC = 8 * len(REASONS)
_ROW = _MAC + 8

# struct __sk_buff (linux/bpf.h)
_PROTOCOL, _VLAN_PRESENT = 16, 20
# A frame: addresses of receiver and sender, type, then IP (RFC 894, RFC 791, RFC 8200)
_SENDER, _IP = 6, 14
_IP4_SOURCE, _IP4_DESTINATION = _IP + 12, _IP + 16
_IP6_NEXT_HEADER, _IP6_SOURCE, _IP6_DESTINATION, _ICMP6_TYPE = _IP + 6, _IP + 8, _IP + 24, _IP + 40
_ETH_IP, _ETH_IP6, _ETH_ARP = 0x0008, 0xDD86, 0x0608  # as a little-endian host sees them
_ICMP6, _TCP, _UDP = 58, 6, 17
_NDP_FIRST, _ROUTER_ADVERTISEMENT, _NDP_LAST = 133, 134, 137  # the last: redirect (RFC 4861)
_ARP_SENDER = 14 + 8
_TC_ACT_UNSPEC, _TC_ACT_SHOT = -1, 2  # go on with the next filter; drop
_KEY, _BYTES = -16, -32  # on the stack


class Guard:
    """The programs of a venet and their maps, loaded and not yet attached; close() lets go of them,
    also again. They let nothing pass until belong_to() has said whose they are, so that they can be
    made beforehand.

    programs  descriptors: of what judges packets from the VPS, and to it
    Raises OSError."""

    def __init__(self) -> None:
        self._opened = opened = Opened()
        try:
            self._known = known = opened(bpf.map_create(
                bpf.MAP_HASH, 4, _ADDRESSES, bpf.MAP_NO_PREALLOC, entries=MAX_ADDRESSES,
                key_size=16,
            ))
            self._row = row = opened(_counters())
            outward = _made(from_vps, known, row), FROM
            inward = _made(to_vps, known, row), TO
            self.programs = (
                opened(bpf.prog_load(bpf.PROG_SCHED_CLS, *outward)),
                opened(bpf.prog_load(bpf.PROG_SCHED_CLS, *inward)),
            )
        except BaseException:
            self.close()
            raise

    def belong_to(self, mac: bytes, addresses: Iterable[bytes]) -> None:
        """mac        the hardware address the VPS sends from
        addresses  its own, packed
        Raises OSError."""
        bpf.map_update(self._row, bytes(_MAC) + mac + bytes(_ROW - _MAC - len(mac)))
        for address in addresses:
            bpf.map_update(self._known, bytes(4), _key(address))

    def close(self) -> None:
        opened, self._opened = self._opened, Opened()
        with opened:
            pass


def _counters() -> int:
    return bpf.map_create(bpf.MAP_ARRAY, _ROW, _DROPPED)


def attach_bridged(sock: Socket, index: int, mac: bytes) -> None:
    """Guard a veth that lies on a bridge: hardware addresses, and no router advertisements. Which
    IP addresses are the VPS's nobody has said. Raises OSError."""
    with Opened() as opened:
        dropped = opened(_counters())
        outward = opened(bpf.prog_load(bpf.PROG_SCHED_CLS, from_port(dropped, mac), FROM))
        inward = opened(bpf.prog_load(bpf.PROG_SCHED_CLS, to_port(dropped, mac), TO))
        sock.send(venet.filters(index, (outward, inward)))


def detach(sock: Socket, index: int) -> None:
    """Absence is success. Raises OSError."""
    sock.send([rtnetlink.clsact_del(index)], (errno.ENOENT, errno.EINVAL))


def allow(sock: Socket, index: int, addresses: Iterable[bytes]) -> None:
    """Let more addresses pass. Raises OSError, ENOENT for a device that is not guarded."""
    with Opened() as opened:
        known = opened(_map(sock, index, _ADDRESSES))
        for address in addresses:
            bpf.map_update(known, bytes(4), _key(address))


def forbid(sock: Socket, index: int, addresses: Iterable[bytes]) -> None:
    """Let addresses pass no more; absence is success. Raises OSError."""
    with Opened() as opened:
        known = opened(_map(sock, index, _ADDRESSES))
        for address in addresses:
            try:
                bpf.map_delete(known, _key(address))
            except FileNotFoundError:
                pass


def dropped(sock: Socket, index: int) -> dict[str, int] | None:
    """Packets dropped since the device is there, by REASONS; None for one that is not guarded.

    Raises OSError."""
    with Opened() as opened:
        try:
            counters = opened(_map(sock, index, _DROPPED))
        except FileNotFoundError:
            return None
        row = bpf.map_lookup(counters, _ROW)
    return {
        reason: int.from_bytes(row[8 * i : 8 * i + 8], "little")
        for i, reason in enumerate(REASONS)
    }


def _map(sock: Socket, index: int, name: str) -> int:
    programs = rtnetlink.bpf_filters(sock, index, rtnetlink.TC_INGRESS)
    if FROM not in programs:
        raise FileNotFoundError(2, "no filter of ours on the network device")
    with Opened() as opened:
        return bpf.map_of(opened(bpf.prog_by_id(programs[FROM])), name)


def _key(address: bytes) -> bytes:
    """IPv4 as IPv4-mapped IPv6, so that one map holds both."""
    return address if len(address) == 16 else bytes(10) + b"\xff\xff" + address


# The programs


_programs: dict[tuple[object, ...], bytes] = {}


def _made(program: Callable[..., bytes], *of: int | bytes) -> bytes:
    """program(*of), made once: descriptors have mostly the same numbers the next time."""
    return once(_programs, (program, *of), lambda: program(*of))


def from_vps(known: int, counters: int) -> bytes:
    """Judges what the host end receives."""
    code = _begin()
    code.load(R0, R6, _VLAN_PRESENT, 4)
    code.jump_if("from-other", R0, "!=", 0)
    _fetch(code, _SENDER, _BYTES, 6, "from-other")
    code.map_value(R1, counters)
    for at, size in ((0, 4), (4, 2)):
        code.load(R0, R10, _BYTES + at, size)
        code.load(R2, R1, _MAC + at, size)
        code.jump_if_to("from-mac", R0, "!=", R2)
    code.load(R0, R6, _PROTOCOL, 4)
    code.jump_if("ip4", R0, "==", _ETH_IP)
    code.jump_if("from-arp", R0, "==", _ETH_ARP)
    code.jump_if("from-other", R0, "!=", _ETH_IP6)

    _fetch(code, _IP6_SOURCE, _KEY, 16, "from-ip6")
    _look_up(code, known, "from-ip6")
    _neighbour_discovery(code)
    code.set(R0, "-", _NDP_FIRST)
    code.jump_if("pass", R0, ">", _NDP_LAST - _NDP_FIRST)
    code.jump("from-ndp")

    code.label("ip4")
    _fetch4(code, _IP4_SOURCE, "from-ip4")
    _look_up(code, known, "from-ip4")
    _end(code, counters, [reason for reason in REASONS if reason.startswith("from-")])
    return code.assemble()


def _neighbour_discovery(code: Code) -> None:
    """R0 = the type of an ICMPv6 message that may be neighbour discovery; the rest has passed.

    It has hop limit 255 or is ignored; what is hidden behind an extension header and has it as well
    is taken for such."""
    _fetch(code, _IP6_NEXT_HEADER, _BYTES, 2, "from-ip6")  # and hop limit
    code.load(R0, R10, _BYTES + 1, 1)
    code.jump_if("pass", R0, "!=", 255)
    code.load(R0, R10, _BYTES, 1)
    code.jump_if("pass", R0, "==", _TCP)
    code.jump_if("pass", R0, "==", _UDP)
    code.jump_if("from-ndp", R0, "!=", _ICMP6)
    _fetch(code, _ICMP6_TYPE, _BYTES, 1, "from-ndp")
    code.load(R0, R10, _BYTES, 1)


def to_vps(known: int, counters: int) -> bytes:
    """Judges what the host end sends."""
    code = _begin()
    code.load(R0, R6, _PROTOCOL, 4)
    code.jump_if("ip4", R0, "==", _ETH_IP)
    code.jump_if("to-other", R0, "!=", _ETH_IP6)
    _fetch(code, _IP6_DESTINATION, _KEY, 16, "to-ip6")
    _look_up(code, known, "to-ip6")
    code.jump("pass")
    code.label("ip4")
    _fetch4(code, _IP4_DESTINATION, "to-ip4")
    _look_up(code, known, "to-ip4")
    _end(code, counters, [reason for reason in REASONS if reason.startswith("to-")])
    return code.assemble()


def from_port(counters: int, mac: bytes) -> bytes:
    """The same for a port of a bridge: ARP and neighbour discovery pass, with the own address."""
    code = _begin()
    _fetch(code, _SENDER, _BYTES, 6, "from-other")
    _compare(code, mac, "from-mac")
    code.load(R0, R6, _PROTOCOL, 4)
    code.jump_if("arp", R0, "==", _ETH_ARP)
    code.jump_if("pass", R0, "!=", _ETH_IP6)
    _neighbour_discovery(code)
    for kind in (_ROUTER_ADVERTISEMENT, _NDP_LAST):
        code.jump_if("from-ndp", R0, "==", kind)
    code.jump("pass")
    code.label("arp")
    _fetch(code, _ARP_SENDER, _BYTES, 6, "from-arp")
    _compare(code, mac, "from-arp")
    _end(code, counters, ["from-mac", "from-ip6", "from-arp", "from-ndp", "from-other"])
    return code.assemble()


def to_port(counters: int, mac: bytes) -> bytes:
    """To the own hardware address, or to a group."""
    code = _begin()
    _fetch(code, 0, _BYTES, 6, "to-other")
    code.load(R0, R10, _BYTES, 1)
    code.set(R0, "&", 1)
    code.jump_if("pass", R0, "!=", 0)
    _compare(code, mac, "to-other")
    _end(code, counters, ["to-other"])
    return code.assemble()


def _compare(code: Code, mac: bytes, otherwise: str) -> None:
    """What was fetched last is that hardware address."""
    for at in (0, 2, 4):
        code.load(R0, R10, _BYTES + at, 2)
        code.jump_if(otherwise, R0, "!=", int.from_bytes(mac[at : at + 2], "little"))


def _begin() -> Code:
    code = Code()
    code.set_to(R6, "=", R1)  # the packet; a call loses R1 to R5
    return code


def _fetch(code: Code, offset: int, to: int, size: int, otherwise: str) -> None:
    """Copy bytes of the packet onto the stack."""
    code.set_to(R1, "=", R6)
    code.set(R2, "=", offset)
    code.set_to(R3, "=", R10)
    code.set(R3, "+", to)
    code.set(R4, "=", size)
    code.call(bpf.SKB_LOAD_BYTES)
    code.jump_if(otherwise, R0, "!=", 0)


def _fetch4(code: Code, offset: int, otherwise: str) -> None:
    """The same for an IPv4 address, as _key() has it."""
    code.set(R0, "=", 0)
    code.store(R10, _KEY, R0)
    code.set(R0, "=", -65536)  # 00 00 ff ff
    code.store(R10, _KEY + 8, R0, 4)
    _fetch(code, offset, _KEY + 12, 4, otherwise)


def _look_up(code: Code, known: int, otherwise: str) -> None:
    code.map(R1, known)
    code.set_to(R2, "=", R10)
    code.set(R2, "+", _KEY)
    code.call(bpf.MAP_LOOKUP_ELEM)
    code.jump_if(otherwise, R0, "==", 0)


def _end(code: Code, counters: int, reasons: list[str]) -> None:
    code.label("pass")
    code.exit(_TC_ACT_UNSPEC)
    for reason in reasons:
        code.label(reason)
        code.set(R2, "=", 8 * _REASONS.index(reason))
        code.jump("drop")
    code.label("drop")
    code.map_value(R1, counters)
    code.set_to(R1, "+", R2)
    code.set(R2, "=", 1)
    code.fetch_add(R1, 0, R2)
    code.exit(_TC_ACT_SHOT)

