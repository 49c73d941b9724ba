"""How vzeventd, its clients and vz-fdkeep talk: one message a packet, descriptors beside it.

    client                                  vzeventd
      | {op: hello, version}                   |
      |--------------------------------------->|
      |<------------------ {version, pid} -----|
      | {op: launch, ...} + descriptors        |
      |--------------------------------------->|
      |<------------------ {} or {error, errno}|

The sockets are SOCK_SEQPACKET below VZ_RUN, for the host's root only. A message is a dictionary of
plain values in bencoding (BEP 3), with `u` before the length of text that is no bytes. Neither
pickle nor marshal: what a peer sends can be wrong but not harmful."""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Plain = int | bytes | str | tuple["Plain", ...] | dict[str, "Plain"]
    Message = dict[str, "Plain"]

LIMIT = 65536  # bytes of a packet
MAX_FDS = 253  # SCM_MAX_FD
_DEPTH = 8
_SCM_RIGHTS = 1


def accept(listener: _socket.socket) -> _socket.socket | None:
    """The next client, not blocking; None when it has gone again, or is not the host's root
    (unix(7), SO_PEERCRED: pid, uid, gid). Raises OSError: EMFILE."""
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
    except (BlockingIOError, ConnectionAbortedError):
        return None
    sock = _socket.socket(fileno=fd)
    cred = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(cred[4:8], "little") != 0:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def encode(value: Plain) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    if isinstance(value, str):
        data = value.encode(errors="surrogateescape")
        return b"u%d:%b" % (len(data), data)
    if isinstance(value, tuple):
        return b"l%be" % b"".join(map(encode, value))
    return b"d%be" % b"".join(encode(k) + encode(v) for k, v in value.items())


def decode(data: bytes) -> Message:
    """Raises ValueError for everything that encode() does not make of a dictionary."""
    value, end = _decode(data, 0, 0)
    if end != len(data) or not isinstance(value, dict):
        raise ValueError("not a message")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Plain, int]:
    kind = data[at : at + 1]
    if depth > _DEPTH:
        raise ValueError("nested too deeply")
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        items = []
        at += 1
        while data[at : at + 1] != b"e":
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        if kind == b"l":
            return tuple(items), at + 1
        keys = [key for key in items[::2] if isinstance(key, str)]
        if len(keys) * 2 != len(items):
            raise ValueError("pairs of name and value are asked for")
        return dict(zip(keys, items[1::2])), at + 1
    start = data.index(b":", at) + 1
    length = int(data[at + (kind == b"u") : start - 1])
    if not 0 <= length <= len(data) - start:
        raise ValueError("cut short")
    text = data[start : start + length]
    if kind == b"u":
        return text.decode(errors="surrogateescape"), start + length
    return text, start + length


def send(sock: _socket.socket, message: Message, fds: Sequence[int] = (), flags: int = 0) -> None:
    """Raises OSError: EMSGSIZE for too long a message, EPIPE, EAGAIN."""
    packet = encode(message)
    if len(packet) > LIMIT or len(fds) > MAX_FDS:
        raise OSError(90, os.strerror(90))
    rights = b"".join(fd.to_bytes(4, "little") for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _SCM_RIGHTS, rights)] if fds else []
    sock.sendmsg([packet], ancillary, _socket.MSG_NOSIGNAL | flags)


def receive(sock: _socket.socket) -> tuple[Message, list[int]]:
    """The next message and its descriptors.

    Raises ConnectionAbortedError at end of file; ConnectionResetError when the peer has died with
    our last message unread (unix(7)); OSError; ValueError for rubbish, with its descriptors closed.
    """
    packet, ancillary, flags, _ = sock.recvmsg(
        LIMIT, _socket.CMSG_SPACE(4 * MAX_FDS), _socket.MSG_CMSG_CLOEXEC
    )
    fds = [
        int.from_bytes(data[i : i + 4], "little")
        for level, kind, data in ancillary
        if level == _socket.SOL_SOCKET and kind == _SCM_RIGHTS
        for i in range(0, len(data), 4)
    ]
    try:
        if not packet:
            raise ConnectionAbortedError(103, os.strerror(103))
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("too long")
        return decode(packet), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def text(message: Message, key: str) -> str:
    """A field of a request. Raises ValueError when it is missing or of another kind."""
    value = message.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: text is missing")
    return value


def number(message: Message, key: str) -> int:
    value = message.get(key)
    if not isinstance(value, int):
        raise ValueError(f"{key}: a number is missing")
    return value
