"""The kernel's warnings that a quota is exceeded (Documentation/filesystems/quota.rst): generic
netlink, family VFS_DQUOT, group events."""

from __future__ import annotations

import _socket
import _struct as struct
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ISOFTWARN, BSOFTWARN = 3, 6

_NETLINK_GENERIC, _SOL_NETLINK, _ADD_MEMBERSHIP = 16, 270, 1
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_FAMILY_NAME, _CTRL_MCAST_GROUPS = 16, 3, 2, 7
_GROUP_ID = 2
_QTYPE, _EXCESS_ID, _WARNING, _DEV_MAJOR, _DEV_MINOR = range(1, 6)
_NLMSGHDR, _GENLMSGHDR = struct.Struct("=IHHII"), struct.Struct("=BBH")
_NLATTR = struct.Struct("=HH")
_HEADERS = _NLMSGHDR.size + _GENLMSGHDR.size
_BUFFER = 65536


def subscribe() -> _socket.socket:
    """A socket that gets every warning of the machine, not blocking. Raises OSError: no such
    family, where the kernel is built without."""
    kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
    sock = _socket.socket(_socket.AF_NETLINK, kind, _NETLINK_GENERIC)
    try:
        name = b"VFS_DQUOT\0"
        attr = _NLATTR.pack(_NLATTR.size + len(name), _CTRL_FAMILY_NAME) + name + b"\0\0"
        head = _NLMSGHDR.pack(_HEADERS + len(attr), _GENL_ID_CTRL, 1, 1, 0)
        sock.send(head + _GENLMSGHDR.pack(_CTRL_CMD_GETFAMILY, 1, 0) + attr)
        answer = sock.recv(_BUFFER)
        if _NLMSGHDR.unpack_from(answer)[1] != _GENL_ID_CTRL:
            (code,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
            raise OSError(-code, os.strerror(-code), "VFS_DQUOT")
        groups = _attributes(answer[_HEADERS:])[_CTRL_MCAST_GROUPS]
        for group in _attributes(groups).values():
            (number,) = struct.unpack("=I", _attributes(group)[_GROUP_ID])
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, number)
        sock.setblocking(False)
        return sock
    except BaseException:
        sock.close()
        raise


def warnings(sock: _socket.socket) -> Iterator[tuple[int, int, int, int]]:
    """(kind of quota, its id, warning, st_dev) of each that waits."""
    while True:
        try:
            data = sock.recv(_BUFFER)
        except BlockingIOError:
            return
        except OSError:
            continue  # ENOBUFS: some were lost
        while len(data) >= _HEADERS:
            length = _NLMSGHDR.unpack_from(data)[0]
            found = _attributes(data[_HEADERS:length])
            data = data[(length + 3) & ~3 :]
            try:
                kind, warning, major, minor = (
                    struct.unpack("=I", found[key])[0]
                    for key in (_QTYPE, _WARNING, _DEV_MAJOR, _DEV_MINOR)
                )
                (qid,) = struct.unpack("=Q", found[_EXCESS_ID])
            except KeyError:
                continue
            yield kind, qid, warning, os.makedev(major, minor)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _NLATTR.size:
        length, kind = _NLATTR.unpack_from(data)
        if length < _NLATTR.size:
            break
        found[kind & 0x3FFF] = data[_NLATTR.size : length]
        data = data[(length + 3) & ~3 :]
    return found
