"""Netlink sockets and messages (netlink(7)): requests go out in one datagram, each is answered.

Nothing of what is asked: the words of routing are in rtnetlink.py."""

from __future__ import annotations

import _socket
import _struct as struct
import os

from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 11, 12
_NLM_F_CAPPED, _NLM_F_ACK_TLVS, _NLMSGERR_ATTR_MSG = 0x100, 0x200, 1
_NLA_F_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
# A datagram is one skb, and its answers wait in the receive buffer: so many requests at once.
_AT_ONCE = 64
_MAX = 1 << 17
_SO_RCVTIMEO, _SO_ATTACH_FILTER = 20, 26


@record
class Request:
    """One message without its header; `what` names it in an error, as ip(8) would be asked."""

    kind: int
    flags: int
    body: bytes
    what: str

    def packed(self, sequence: int) -> bytes:
        flags = self.flags | NLM_F_REQUEST
        return _HEAD.pack(_HEAD.size + len(self.body), self.kind, flags, sequence, 0) + self.body


@record
class Asked:
    """Requests with the numbers that their answers will have."""

    requests: tuple[Request, ...]
    first: int
    datagram: bytes

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(_HEAD.size + len(request.body) for request in self.requests)


def attr(kind: int, value: bytes | str | int) -> bytes:
    """One attribute; a number goes as 32 bits, a text with its NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = os.fsencode(value) + b"\0"
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + padding


def nested(kind: int, *attributes: bytes) -> bytes:
    return attr(kind | _NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from an offset on, by their type; of one that comes twice the last."""
    found, size, head = {}, len(data), _ATTRIBUTE.unpack_from
    while offset + 4 <= size:
        length, kind = head(data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


class Socket:
    """A connection to the kernel, of the network namespace the calling thread is in.

    groups    a mask of multicast groups whose messages come by themselves
    protocol  whose words are spoken"""

    def __init__(self, groups: int = 0, protocol: int = NETLINK_ROUTE) -> None:
        self._sock = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol
        )
        self._sock.bind((0, groups))
        for option in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._sock.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def filter(self, code: bytes) -> None:
        """Hear only what a program of classic BPF lets pass (socket(7), SO_ATTACH_FILTER)."""
        from _ctypes import addressof

        from vzpy.kernel.foreign import buffer

        program = buffer(code)
        what = struct.pack("HxxxxxxP", len(code) // 8, addressof(program))
        self._sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)

    def send(self, requests: Sequence[Request], ignore: Sequence[int] = ()) -> None:
        """Have requests carried out in order, all of them even when one fails.

        ignore  errnos that count as success
        Raises OSError of the first that failed, its `filename` saying what was asked."""
        failed = None
        for start in range(0, len(requests), _AT_ONCE):
            asked = self.numbered(requests[start : start + _AT_ONCE])
            self._sock.send(asked.datagram)
            refused = self.answer(asked, ignore)
            failed = failed or refused
        if failed:
            raise failed

    def numbered(self, requests: Sequence[Request]) -> Asked:
        """Requests as they are sent on this socket, by whoever has it; answer() hears the rest."""
        first = self._sequence + 1
        self._sequence += len(requests)
        packed = (
            Request(r.kind, r.flags | NLM_F_ACK, r.body, "").packed(first + i)
            for i, r in enumerate(requests)
        )
        return Asked(tuple(requests), first, b"".join(packed))

    def answer(self, asked: Asked, ignore: Sequence[int] = ()) -> OSError | None:
        """Wait until requests have been carried out; of those that failed the first error. What
        answers others is lost.

        Raises OSError: EAGAIN when nothing comes (be_patient())."""
        failed, answered, first = None, 0, asked.first
        while answered < len(asked.requests):
            for kind, flags, sequence, body in self._messages():
                if kind == _NLMSG_ERROR and first <= sequence < first + len(asked.requests):
                    answered += 1
                    number = -struct.unpack_from("=i", body)[0]
                    if number and number not in ignore and not failed:
                        what = asked.requests[sequence - first].what
                        failed = OSError(number, _reason(number, flags, body), what)
        return failed

    def be_patient(self, seconds: int) -> None:
        """Wait no longer for an answer, since another process asks."""
        self._sock.setsockopt(_socket.SOL_SOCKET, _SO_RCVTIMEO, struct.pack("ll", seconds, 0))

    def ask(self, request: Request) -> list[tuple[int, bytes]]:
        """The messages that answer a request, (type, body) each. Raises OSError."""
        self._sequence += 1
        sequence = self._sequence
        self._sock.send(request.packed(sequence))
        found: list[tuple[int, bytes]] = []
        dump = request.flags & NLM_F_DUMP == NLM_F_DUMP
        while True:
            for kind, flags, number, body in self._messages():
                if number != sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    if error:
                        raise OSError(error, _reason(error, flags, body), request.what)
                    return found
                if kind == _NLMSG_DONE:
                    return found
                found.append((kind, body))
                if not dump:
                    return found

    def count(self, request: Request, most: int) -> int:
        """How many messages answer a dump, or so many that nobody wants to know. Raises OSError."""
        self._sequence += 1
        self._sock.send(request.packed(self._sequence))
        found = 0
        while found < most:
            for kind, flags, number, body in self._messages():
                if number != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    raise OSError(error, _reason(error, flags, body), request.what)
                if kind == _NLMSG_DONE:
                    return found
                found += 1
        return most

    def heard(self) -> list[tuple[int, bytes]]:
        """The next messages of the groups, (type, body) each.

        Raises OSError: ENOBUFS when some were lost."""
        return [(kind, body) for kind, _, _, body in self._messages()]

    def _messages(self) -> Iterator[tuple[int, int, int, bytes]]:
        """One datagram's messages: type, flags, sequence, body."""
        data = self._sock.recv(_MAX)
        offset = 0
        while offset + _HEAD.size <= len(data):
            length, kind, flags, sequence, _ = _HEAD.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + _HEAD.size : offset + length]
            offset += length + 3 & ~3


def _reason(number: int, flags: int, body: bytes) -> str:
    """What the kernel says of an error: its own sentence where it gives one."""
    text = os.strerror(number)
    if flags & _NLM_F_ACK_TLVS:
        # struct nlmsgerr: the error, then the request's header, or all of it
        request = _HEAD.size if flags & _NLM_F_CAPPED else struct.unpack_from("=I", body, 4)[0]
        said = attributes(body, 4 + (request + 3 & ~3)).get(_NLMSGERR_ATTR_MSG)
        if said:
            text += f" ({said.rstrip(bytes(1)).decode(errors='replace')})"
    return text
