"""venet0: the routed network device of a VPS, without a bridge, hardware addresses or broadcast.

It is one end of a veth pair (veth(4)), set up from outside. Both ends have the same hardware
address and NOARP: what one sends the other takes for its own, so nobody has to resolve anything,
and the neighbour tables of the host stay empty however many VPSs there are. The VPS sends all by a
gateway that needs not exist; the host has a route to each address. On its own network devices the
host answers for them (proxy ARP, proxy NDP)."""

from __future__ import annotations

import errno
import os

from vzpy.kernel import process, rtnetlink
from vzpy.kernel.netlink import Request, Socket
from vzpy.kernel.rtnetlink import IFF_NOARP, IFF_UP, Link
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy import antispoof, dad

DEVICE = "venet0"
FROM, TO = "vz_from", "vz_to"  # names of the filters on a host end, and of their programs
_GATEWAYS = {4: bytes((169, 254, 0, 1)), 16: bytes.fromhex("fe80") + bytes(13) + b"\1"}
_GONE = (errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)
_THERE = (errno.EEXIST,)


@record
class Address:
    """An address as it is packed on the wire, with the mask it is shown with inside."""

    packed: bytes
    prefix: int

    @classmethod
    def of(cls, text: str) -> Address:
        """From `ADDR[/prefix]` as N.conf has it."""
        from _socket import AF_INET, AF_INET6, inet_pton

        host, _, prefix = text.partition("/")
        packed = inet_pton(AF_INET6 if ":" in host else AF_INET, host)
        return cls(packed, int(prefix) if prefix else 8 * len(packed))

    def __str__(self) -> str:
        return rtnetlink.text(self.packed)

    @property
    def masked(self) -> str:
        """With its prefix."""
        return f"{self}/{self.prefix}"


def host_end(node: str, ctid: int) -> str:
    """The name of the host's end: venet101; on nodes beside the default one something short that
    is their own (a name has at most 15 characters).

    node  name of its cgroup (model.NodePaths)"""
    return f"venet{ctid}" if node == "vz" else f"v{node[-4:]}{ctid}"


def mac(ctid: int) -> bytes:
    """Of both ends: locally administered, and the VPS's own, since it goes into UUIDs."""
    return b"\x02\x18" + ctid.to_bytes(4, "big")


def pair(name: str, ctid: int) -> Request:
    """That of a VPS that is being born (rtnetlink.veth_add_to)."""
    return rtnetlink.veth_add_to(name, mac(ctid), DEVICE, mac(ctid), IFF_NOARP)


def guarded(index: int, programs: tuple[int, int]) -> list[Request]:
    """What the host end of a new pair needs before it goes up."""
    return [*_without_ll6(index), *filters(index, programs)]


def filters(index: int, programs: tuple[int, int]) -> list[Request]:
    """What guards a device that is still down, by the programs of antispoof.py."""
    outward, inward = programs
    return [
        rtnetlink.clsact_add(index),
        rtnetlink.bpf_filter_add(index, rtnetlink.TC_INGRESS, 1, outward, FROM),
        rtnetlink.bpf_filter_add(index, rtnetlink.TC_EGRESS, 1, inward, TO),
    ]


def guard(
    ctid: int, addresses: Sequence[Address], spare: antispoof.Guard | None = None
) -> antispoof.Guard:
    """For the venet of a VPS that has these addresses.

    spare  one that is loaded already
    Raises OSError."""
    from vzpy import antispoof

    found = spare or antispoof.Guard()
    try:
        found.belong_to(mac(ctid), [a.packed for a in addresses])
    except BaseException:
        found.close()
        raise
    return found


class Ends:
    """The two ends of a VPS's venet, with a socket in the network namespace of each.

    netns  descriptor of the VPS's network namespace; ours to close
    host   a socket here that there is already; ours to close, too"""

    def __init__(self, name: str, ctid: int, netns: int, host: Socket | None = None) -> None:
        self.name, self.mac, self.netns = name, mac(ctid), netns
        self.host = host or Socket()
        self.guest = socket_in(netns)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()
        self.guest.close()
        os.close(self.netns)

    @property
    def link(self) -> Link | None:
        """The host end, None when there is none: also the VPS may remove the pair."""
        return rtnetlink.find_link(self.host, self.name)

    def make(self, programs: tuple[int, int], made: bool = False) -> Link:
        """A new pair that carries the addresses of a guard, both ends down: inside it has none yet.

        programs  the guard's
        made      that has been done already, the filters too
        Raises OSError."""
        if not made:
            self.host.send([rtnetlink.veth_add(
                self.name, self.mac, DEVICE, self.mac, self.netns, IFF_NOARP
            )])
        link = self.link
        if link is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), self.name)
        if not made:
            self.host.send(guarded(link.index, programs))
        return link

    def add(
        self,
        link: Link,
        addresses: Sequence[Address],
        source: dict[int, bytes],
        replace: Sequence[Address] = (),
        new: bool = False,
    ) -> None:
        """Give addresses: a route here, then inside.

        source  the host's own address in these routes, by length; where there is none the kernel
                chooses
        replace those that may have a route already, which is replaced
        new     the pair is down: it goes up
        Raises OSError: EEXIST where there is a route to one already, so another VPS's."""
        routes = [rtnetlink.link_up(link.index)] if new else []
        routes += [
            rtnetlink.route_add(
                link.index, a.packed, source.get(len(a.packed), b""), a in replace
            )
            for a in addresses
        ]
        try:
            self.host.send(routes)
        except OSError:
            self._unroute(link, [a for a in addresses if a not in replace])
            raise
        lengths = dict.fromkeys(len(a.packed) for a in addresses)
        inside = [*_without_ll6(link.peer), rtnetlink.link_up(link.peer)] if new else []
        inside += [rtnetlink.addr_add(link.peer, a.packed, a.prefix) for a in addresses]
        inside += [rtnetlink.default_add(link.peer, _GATEWAYS[length]) for length in lengths]
        self.guest.send(inside, _THERE)

    def remove(self, link: Link, addresses: Sequence[Address]) -> None:
        """Take addresses away; absence is success. Raises OSError."""
        self.guest.send(
            [rtnetlink.addr_del(link.peer, a.packed, a.prefix) for a in addresses], _GONE
        )
        self._unroute(link, addresses)

    def _unroute(self, link: Link, addresses: Sequence[Address]) -> None:
        self.host.send([rtnetlink.route_del(link.index, a.packed) for a in addresses], _GONE)


def _without_ll6(index: int) -> list[Request]:
    """No link-local address, which nobody needs and whose multicast would be dropped."""
    return [rtnetlink.link_no_ll6(index)] if os.path.exists("/proc/sys/net/ipv6") else []


def socket_in(netns: int) -> Socket:
    """A netlink socket of another network namespace."""
    return process.in_netns(netns, Socket)


def remove_link(sock: Socket, name: str) -> None:
    """Both ends of a pair, with routes and filters. Absence is success. Raises OSError."""
    sock.send([rtnetlink.link_del(name)], (errno.ENODEV,))


# The neighbourhood: devices of the host on which it answers for the VPS


@record
class Neighbourhood:
    """What of the host's devices matters to the addresses of VPSs.

    own         the host's addresses
    broadcasts  first and last address of its IPv4 networks
    devices     address lengths -> devices with such an address
    macs        hardware addresses of those"""

    own: dict[bytes, int]
    broadcasts: frozenset[bytes]
    devices: dict[int, list[Link]]

    @classmethod
    def look(cls, sock: Socket) -> Neighbourhood:
        """Whatever the number of VPSs: their devices have no address on the host."""
        assigned = rtnetlink.addresses(sock)
        devices: dict[int, list[Link]] = {4: [], 16: []}
        known: dict[int, Link | None] = {rtnetlink.LOOPBACK: None}
        for a in assigned:
            if a.index not in known:
                known[a.index] = rtnetlink.find_link(sock, a.index)
            link = known[a.index]
            if link and is_neighbour_device(link) and link not in devices[len(a.address)]:
                devices[len(a.address)].append(link)
        return cls(
            own={a.address: a.index for a in assigned},
            broadcasts=frozenset(b for a in assigned for b in _broadcasts(a.address, a.prefix)),
            devices=devices,
        )

    @property
    def macs(self) -> set[bytes]:
        return {link.address for links in self.devices.values() for link in links}

    def source6(self, link: Link) -> bytes:
        """An IPv6 address of a device, b"" without one."""
        return next((a for a, i in self.own.items() if i == link.index and len(a) == 16), b"")


def _broadcasts(address: bytes, prefix: int) -> list[bytes]:
    """Networks of one or two machines, and those of IPv6, have none (RFC 3021)."""
    if len(address) != 4 or prefix > 30:
        return []
    number, hosts = int.from_bytes(address, "big"), (1 << 32 - prefix) - 1
    return [(number & ~hosts).to_bytes(4, "big"), (number | hosts).to_bytes(4, "big")]


def is_neighbour_device(link: Link) -> bool:
    """One with neighbours: Ethernet, up, no port of a bridge, with ARP."""
    is_up = link.flags & (IFF_UP | IFF_NOARP) == IFF_UP
    return is_up and link.hardware == rtnetlink.ARPHRD_ETHER and not link.master


def answering(
    sock: Socket, around: Neighbourhood, mode: str, addresses: Sequence[Address]
) -> dict[bytes, list[Link]]:
    """The devices on which the host answers for each address, by NEIGHBOUR_DEVS: `all` with
    neighbours, `detect`: where the address's network is, `list:NAME ...`.

    Raises LookupError with the name of a listed device that is not there."""
    if mode.startswith("list:"):
        listed = [_listed(sock, name) for name in mode.removeprefix("list:").split()]
        return {a.packed: listed for a in addresses}
    if mode == "detect":
        return {a.packed: _on_link(sock, around, a.packed) for a in addresses}
    return {a.packed: around.devices[len(a.packed)] for a in addresses}


def _listed(sock: Socket, name: str) -> Link:
    link = rtnetlink.find_link(sock, name)
    if link is None:
        raise LookupError(name)
    return link


def _on_link(sock: Socket, around: Neighbourhood, address: bytes) -> list[Link]:
    try:
        index, gateway = rtnetlink.route_get(sock, address)
    except OSError:
        return []  # no route at all
    return [] if gateway else [x for x in around.devices[len(address)] if x.index == index]


def announce(by: dad.Announcer, around: Neighbourhood, at: dict[bytes, list[Link]]) -> None:
    """Tell the neighbours on each device which addresses the host answers for there."""
    for link in {link.index: link for links in at.values() for link in links}.values():
        here = [address for address, links in at.items() if link in links]
        by.announce(here, link, around.source6(link))


def answer_for(sock: Socket, at: dict[bytes, list[Link]]) -> None:
    """Put proxy entries. Proxy NDP is off by default on a device, and answers for nothing but the
    entries, so it is switched on there. Raises OSError."""
    for link in {x.index: x for a, links in at.items() if len(a) == 16 for x in links}.values():
        with open(f"/proc/sys/net/ipv6/conf/{link.name}/proxy_ndp", "w") as switch:
            switch.write("1")
    sock.send([rtnetlink.proxy_add(x.index, a) for a, links in at.items() for x in links])


def answer_no_more(sock: Socket, entries: Sequence[tuple[bytes, str]]) -> None:
    """Remove proxy entries: address and name of the device each. Absence is success."""
    found: dict[str, Link | None] = {}
    requests = []
    for address, name in entries:
        if name not in found:
            found[name] = rtnetlink.find_link(sock, name)
        link = found[name]
        if link:
            requests.append(rtnetlink.proxy_del(link.index, address))
    sock.send(requests, _GONE)
