"""Who else has an address: duplicate address detection, and telling that it is here now.

ARP probes and announcements for IPv4 (RFC 5227), neighbour solicitations from :: and unsolicited
advertisements for IPv6 (RFC 4862 5.4, RFC 4861 7.2.6), on packet sockets (packet(7)): the
addresses are not this host's own, so the kernel would not ask for them."""

from __future__ import annotations

import _socket
import select
import struct
import time
from _ctypes import addressof

from vzpy.kernel.foreign import c_char
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vzpy.kernel.rtnetlink import Link

PATIENCE = 0.25  # seconds for an answer; one on a local network comes within a few milliseconds
_AGAIN = 0.1  # the second question
_AT_ONCE = 1000  # frames read in one go
_NEVER = float("inf")

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # types and lengths, operation, sender, target
_REQUEST = 1
_ICMPV6, _NS, _NA = 58, 135, 136
_OVERRIDE = 0x20000000
_OPTION_TARGET = 2
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")


@record
class Owner:
    """Somebody else who has an address."""

    address: bytes
    device: str
    mac: bytes


class Probe:
    """Asks on devices for the owners of addresses; hears for PATIENCE seconds from its beginning.

    links  the devices to ask on for each address
    own    hardware addresses of this host, whose answers mean nothing"""

    def __init__(self, links: Mapping[bytes, Sequence[Link]], own: Iterable[bytes]) -> None:
        self._links, self._own = links, set(own)
        self._began = time.monotonic()
        self._sockets: dict[int, tuple[_socket.socket, Link]] = {}
        self._send()

    def close(self) -> None:
        for sock, _ in self._sockets.values():
            sock.close()

    def _send(self) -> None:
        open_already = {(link.name, sock.proto): sock for sock, link in self._sockets.values()}
        for address, links in self._links.items():
            protocol = _ETH_P_ARP if len(address) == 4 else _ETH_P_IPV6
            for link in links:
                sock = open_already.get((link.name, protocol))
                if sock is None:
                    sock = _open(link, protocol)
                    open_already[link.name, protocol] = sock
                    self._sockets[sock.fileno()] = sock, link
                try:
                    sock.send(question(address, link.address))
                except OSError:
                    pass  # it has gone down: nobody hears us there

    def owners(self) -> list[Owner]:
        """Wait out the patience; at most one owner of an address, the first heard.

        What was answered meanwhile is heard also when there is no time left."""
        poll = select.poll()
        for fd in self._sockets:
            poll.register(fd, select.POLLIN)
        found: dict[bytes, Owner] = {}
        end, again = self._began + PATIENCE, self._began + _AGAIN
        now = self._began
        while self._sockets and now < end:
            now = time.monotonic()
            if now >= again:
                again = _NEVER
                self._send()
            for fd, _ in poll.poll(max(min(again, end) - now, 0) * 1000):
                self._hear(*self._sockets[fd], found)
        return list(found.values())

    def _hear(self, sock: _socket.socket, link: Link, found: dict[bytes, Owner]) -> None:
        """All that waits."""
        for _ in range(_AT_ONCE):
            try:
                heard = answer(sock.recv(2048))
            except OSError:
                return  # nothing more, or the device has gone down
            if heard and heard[0] in self._links and heard[1] not in self._own:
                found.setdefault(heard[0], Owner(heard[0], link.name, heard[1]))


class Announcer:
    """Tells the neighbours where addresses are to be found now.

    Its socket hears nothing. Closing one takes the kernel until all processors have passed a
    quiet moment, 10 ms and more: who has other things to do keeps it."""

    def __init__(self) -> None:
        self._sock = _socket.socket(
            _socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0
        )

    def close(self) -> None:
        self._sock.close()

    def announce(self, addresses: Iterable[bytes], link: Link, source6: bytes) -> None:
        """On a device.

        source6  an IPv6 address of the device, b"" when it has none"""
        for address in addresses:
            if len(address) == 4:
                frame, protocol = _arp(link.address, address, address), _ETH_P_ARP
            elif source6:
                frame = advertisement(address, link.address, source6)
                protocol = _ETH_P_IPV6
            else:
                continue
            try:
                self._sock.sendto(frame, (link.name, protocol))
            except OSError:
                return  # it has gone, or gone down


def _open(link: Link, protocol: int) -> _socket.socket:
    sock = _socket.socket(
        _socket.AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0
    )
    if protocol == _ETH_P_IPV6:
        code = b"".join(struct.pack("=HBBI", *op) for op in _ADVERTISEMENTS)
        program = (c_char * len(code)).from_buffer_copy(code)
        fprog = struct.pack("@HP", len(code) // 8, addressof(program))  # struct sock_fprog
        sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    sock.bind((link.name, protocol))
    return sock


# Of all IPv6 of a device only advertisements (BPF of socket(7)): protocol 58, type 136.
_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x15, 0x06
_ADVERTISEMENTS = (
    (_LOAD_BYTE, 0, 0, 20), (_JUMP_IF_EQUAL, 0, 3, _ICMPV6),
    (_LOAD_BYTE, 0, 0, 54), (_JUMP_IF_EQUAL, 0, 1, _NA),
    (_RETURN, 0, 0, 2048), (_RETURN, 0, 0, 0),
)  # fmt: skip


def question(address: bytes, mac: bytes) -> bytes:
    """The frame that asks for the owner of an address."""
    if len(address) == 4:
        return _arp(mac, bytes(4), address)
    to = bytes.fromhex("ff0200000000000000000001ff") + address[13:]
    return _ndp(mac, b"\x33\x33" + to[12:], bytes(16), to, struct.pack("!BBHI", _NS, 0, 0, 0) +
                address)


def _arp(mac: bytes, sender: bytes, target: bytes) -> bytes:
    head = _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP)
    return head + _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, sender, bytes(6), target)


def advertisement(address: bytes, mac: bytes, source: bytes) -> bytes:
    """Unsolicited, to all nodes: the address is at that hardware address now."""
    message = struct.pack("!BBHI", _NA, 0, 0, _OVERRIDE) + address
    message += bytes((_OPTION_TARGET, 1)) + mac
    return _ndp(mac, b"\x33\x33" + _ALL_NODES[12:], source, _ALL_NODES, message)


def _ndp(mac: bytes, to_mac: bytes, source: bytes, to: bytes, message: bytes) -> bytes:
    pseudo = source + to + struct.pack("!II", len(message), _ICMPV6)
    words = struct.unpack(f"!{(len(pseudo) + len(message)) // 2}H", pseudo + message)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    head = to_mac + mac + struct.pack("!H", _ETH_P_IPV6)
    head += struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255)
    return head + source + to + message


def answer(frame: bytes) -> tuple[bytes, bytes] | None:
    """Address and hardware address of the owner that a frame tells of, None when it tells none."""
    sender, kind = frame[6:12], frame[12:14]
    if kind == b"\x08\x06" and len(frame) >= 14 + _ARP.size:
        *types, _, mac, address, _, _ = _ARP.unpack_from(frame, 14)
        return (address, mac) if types == [1, 0x0800, 6, 4] else None
    if kind == b"\x86\xdd" and len(frame) >= 14 + 40 + 24:
        advertised = (frame[20], frame[21], frame[54]) == (_ICMPV6, 255, _NA)
        return (frame[62:78], sender) if advertised else None
    return None
