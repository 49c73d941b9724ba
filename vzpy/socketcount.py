"""Counting and limiting the sockets of a VPS: numtcpsock and numothersock (beancounters.md 2).

Two programs on vz/N. `vz_sock_create` runs when a process of the VPS makes an IPv4 or IPv6 socket:
above the limit socket(2) fails with ENOBUFS, as it did on OpenVZ. `vz_sock_release` runs when one
is closed. It runs for accepted sockets too, whose creation no program sees; so those that
were counted carry a mark, in storage that belongs to the socket.

Sockets of other families (UNIX, netlink, packet) never get here."""

from __future__ import annotations

import errno
import os

from vzpy import countmap
from vzpy.countmap import LIMIT_ROW, ROW
from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R9, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("NUMTCPSOCK", "NUMOTHERSOCK")

_CREATE, _RELEASE = "vz_sock_create", "vz_sock_release"
_MAPS = countmap.Maps("vz_sock", KINDS)
_MARKS = "vz_sock_mark"
_TCP, _OTHER = 1, 2  # the mark of a socket that is counted

# struct bpf_sock (linux/bpf.h)
_TYPE, _PROTOCOL = 8, 12
_SOCK_STREAM = 1
_TCP_PROTOCOLS = (6, 262)  # IPPROTO_TCP, IPPROTO_MPTCP


def attach(cgroup: str, limits: Mapping[str, int]) -> None:
    """Count the sockets that processes of vz/N make from now on, and limit them.

    limits  KIND -> sockets; a kind that is missing has no limit
    Raises OSError where the kernel has no such programs."""
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        counters, limit = _MAPS.make(opened, limits)
        btf = opened(bpf.btf_of_int())
        marks = opened(bpf.map_create(
            bpf.MAP_SK_STORAGE, 4, _MARKS, bpf.MAP_NO_PREALLOC, btf, entries=0
        ))
        for name, code, point in (
            (_RELEASE, release_program(counters, marks), bpf.CGROUP_INET_SOCK_RELEASE),
            (_CREATE, create_program(counters, limit, marks), bpf.CGROUP_INET_SOCK_CREATE),
        ):
            prog = opened(bpf.prog_load(bpf.PROG_CGROUP_SOCK, code, name, point))
            bpf.prog_attach(where, prog, point, bpf.ALLOW_MULTI)


def change(cgroup: str, limits: Mapping[str, int]) -> None:
    """New limits for a VPS, whose sockets are counted from now on if they were not.

    Raises OSError."""
    if not _MAPS.change(cgroup, bpf.CGROUP_INET_SOCK_CREATE, _CREATE, limits) and limits:
        attach(cgroup, limits)


def read(cgroup: str) -> dict[str, tuple[int, int, int]]:
    """KIND -> held, maxheld, failcnt; nothing where the sockets are not counted.

    Raises OSError, ENOENT without such a cgroup."""
    return _MAPS.read(cgroup, bpf.CGROUP_INET_SOCK_CREATE, _CREATE)


def create_program(counters: int, limits: int, marks: int) -> bytes:
    """R6 the socket, R9 its mark; R7 and R8 as in countmap.py."""
    code = Code()
    code.set_to(R6, "=", R1)
    code.map_value(R7, counters)
    code.map_value(R3, limits)
    code.set(R9, "=", _TCP)
    code.load(R2, R6, _TYPE, 4)
    code.jump_if("other", R2, "!=", _SOCK_STREAM)
    code.load(R2, R6, _PROTOCOL, 4)
    for protocol in _TCP_PROTOCOLS:
        code.jump_if("count", R2, "==", protocol)
    code.label("other")
    code.set(R7, "+", ROW)
    code.set(R3, "+", LIMIT_ROW)
    code.set(R9, "=", _OTHER)

    code.label("count")
    countmap.count(code, "refuse")
    _mark_of(code, marks, bpf.SK_STORAGE_CREATE)
    code.jump_if("refuse", R0, "==", 0)  # the kernel has no memory for the mark
    code.store(R0, 0, R9, 4)
    countmap.note_peak(code)
    code.exit(1)
    code.label("refuse")
    countmap.refuse(code, errno.ENOBUFS)
    return code.assemble()


def release_program(counters: int, marks: int) -> bytes:
    """R7 the counters of the kind that the mark tells."""
    code = Code()
    code.set_to(R6, "=", R1)
    _mark_of(code, marks, 0)
    code.jump_if("done", R0, "==", 0)
    code.map_value(R7, counters)
    code.load(R2, R0, 0, 4)
    code.jump_if("uncount", R2, "==", _TCP)
    code.jump_if("done", R2, "!=", _OTHER)
    code.set(R7, "+", ROW)
    code.label("uncount")
    countmap.uncount(code)
    code.label("done")
    code.exit(1)
    return code.assemble()


def _mark_of(code: Code, marks: int, flags: int) -> None:
    """R0 = address of the mark of the socket R6, 0 without one."""
    code.map(R1, marks)
    code.set_to(R2, "=", R6)
    code.set(R3, "=", 0)
    code.set(R4, "=", flags)
    code.call(bpf.SK_STORAGE_GET)
