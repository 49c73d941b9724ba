"""Counting the rules of netfilter in the network namespace of a VPS: numiptent (beancounters.md 2).

Those of nftables one by one; of the older iptables as OpenVZ did, the entries of each table, with
those that every table begins with."""

from __future__ import annotations

import _socket
import os
import struct
from _ctypes import addressof

from vzpy.kernel import process
from vzpy.kernel.foreign import c_char, c_int
from vzpy.kernel.libc import libc, oserror
from vzpy.kernel.netlink import NLM_F_DUMP, Request, Socket
from vzpy.kernel.proc import slurp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

MOST = 100_000  # a guest may have any number, and nobody shall be busy with them

_NETLINK_NETFILTER, _GETRULE = 12, 0x0A07  # linux/netfilter/nf_tables.h
_NFGENMSG = struct.pack(">BBH", 0, 0, 0)  # of all families
_SO_GET_INFO = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
_INFO_SIZE, _NUM_ENTRIES = 84, 76  # struct ipt_getinfo (linux/netfilter_ipv4/ip_tables.h)
_LEGACY = (
    ("ip_tables_names", _socket.AF_INET, 0),  # SOL_IP
    ("ip6_tables_names", _socket.AF_INET6, 41),  # SOL_IPV6
)


def count(pid: int) -> int:
    """Rules in the network namespace of a process, at most MOST. Raises OSError when it has
    ended, or the kernel has no netfilter."""
    rules = 0
    if _has_nftables():
        request = Request(_GETRULE, NLM_F_DUMP, _NFGENMSG, "rules")
        with _within(pid, lambda: Socket(protocol=_NETLINK_NETFILTER)) as sock:
            rules = sock.count(request, MOST)
    for names, family, level in _LEGACY:
        try:
            tables = slurp(f"/proc/{pid}/net/{names}").split()
        except FileNotFoundError:
            continue
        if tables:
            make = lambda family=family: _socket.socket(family, _socket.SOCK_DGRAM)  # noqa: E731
            older = _within(pid, make)
            try:
                rules += sum(_entries(older.fileno(), level, table) for table in tables)
            finally:
                older.close()
    return min(rules, MOST)


def _has_nftables() -> bool:
    """Asked for rules, the kernel would load the module for it."""
    try:
        modules = slurp("/proc/modules")
    except FileNotFoundError:
        return True  # a kernel without modules
    return b"nf_tables " in modules or os.path.isdir("/sys/module/nf_tables")


def _entries(sock: int, level: int, table: bytes) -> int:
    info: Any = (c_char * _INFO_SIZE).from_buffer_copy(table.ljust(_INFO_SIZE, b"\0"))
    size = c_int(_INFO_SIZE)
    if libc.getsockopt(sock, level, _SO_GET_INFO, addressof(info), addressof(size)) < 0:
        raise oserror()
    found: int = struct.unpack_from("=I", bytes(info), _NUM_ENTRIES)[0]
    return found


def _within(pid: int, make: Callable[[], T]) -> T:
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return process.in_netns(netns, make)
    finally:
        os.close(netns)
