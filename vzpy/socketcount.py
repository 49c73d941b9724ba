"""Counting and limiting the sockets of a VPS: numtcpsock and numothersock (beancounters.md 2).

Two programs on vz/N. `vz_sock_create` runs when a process of the VPS makes an IPv4 or IPv6 socket:
above the limit socket(2) fails with ENOBUFS, as it did on OpenVZ. `vz_sock_release` runs when one
is closed. It runs for accepted sockets too, whose creation no program sees; so those that
were counted carry a mark, in storage that belongs to the socket.

What they count stands in a map: held, maxheld, failcnt of each kind. It lives, with the programs,
as long as the cgroup. Sockets of other families (UNIX, netlink, packet) never get here."""

from __future__ import annotations

import errno
import os
import struct

from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R8, R9, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("NUMTCPSOCK", "NUMOTHERSOCK")
NO_LIMIT = 2**63 - 1

_CREATE, _RELEASE = "vz_sock_create", "vz_sock_release"
_COUNTERS, _LIMITS, _MARKS = "vz_sock_count", "vz_sock_limit", "vz_sock_mark"
_HELD, _MAXHELD, _FAILCNT, _ROW = 0, 8, 16, 24  # of the counters of one kind
_LIMIT_ROW = 8
_TCP, _OTHER = 1, 2  # the mark of a socket that is counted

# struct bpf_sock (linux/bpf.h)
_TYPE, _PROTOCOL = 8, 12
_SOCK_STREAM = 1
_TCP_PROTOCOLS = (6, 262)  # IPPROTO_TCP, IPPROTO_MPTCP
_TRIES = 4


def attach(cgroup: str, limits: Mapping[str, int]) -> None:
    """Count the sockets that processes of vz/N make from now on, and limit them.

    limits  KIND -> sockets; a kind that is missing has no limit
    Raises OSError where the kernel has no such programs."""
    with _Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        counters = opened(bpf.map_create(bpf.MAP_ARRAY, _ROW * len(KINDS), _COUNTERS))
        limit = opened(bpf.map_create(bpf.MAP_ARRAY, _LIMIT_ROW * len(KINDS), _LIMITS))
        btf = opened(bpf.btf_of_int())
        marks = opened(bpf.map_create(
            bpf.MAP_SK_STORAGE, 4, _MARKS, bpf.MAP_NO_PREALLOC, btf, entries=0
        ))
        bpf.map_update(limit, _packed(limits))
        for name, code, point in (
            (_RELEASE, release_program(counters, marks), bpf.CGROUP_INET_SOCK_RELEASE),
            (_CREATE, create_program(counters, limit, marks), bpf.CGROUP_INET_SOCK_CREATE),
        ):
            prog = opened(bpf.prog_load(bpf.PROG_CGROUP_SOCK, code, name, point))
            bpf.prog_attach(where, prog, point, bpf.ALLOW_MULTI)


def change(cgroup: str, limits: Mapping[str, int]) -> None:
    """New limits for a VPS, whose sockets are counted from now on if they were not.

    Raises OSError."""
    with _Opened() as opened:
        prog = _find(opened, cgroup)
        if prog >= 0:
            bpf.map_update(opened(bpf.map_of(prog, _LIMITS)), _packed(limits))
            return
    if limits:
        attach(cgroup, limits)


def read(cgroup: str) -> dict[str, tuple[int, int, int]]:
    """KIND -> held, maxheld, failcnt; nothing where the sockets are not counted.

    Raises OSError, ENOENT without such a cgroup."""
    with _Opened() as opened:
        prog = _find(opened, cgroup)
        if prog < 0:
            return {}
        raw = bpf.map_lookup(opened(bpf.map_of(prog, _COUNTERS)), _ROW * len(KINDS))
    rows = struct.iter_unpack("=3q", raw)
    return {kind: (held, max(held, top), fails) for kind, (held, top, fails) in zip(KINDS, rows)}


def _find(opened: _Opened, cgroup: str) -> int:
    where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    prog = bpf.find(where, bpf.CGROUP_INET_SOCK_CREATE, _CREATE)
    return opened(prog) if prog >= 0 else -1


def _packed(limits: Mapping[str, int]) -> bytes:
    return struct.pack(f"={len(KINDS)}q", *(limits.get(kind, NO_LIMIT) for kind in KINDS))


class _Opened:
    """Descriptors that are closed at the end."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __call__(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def create_program(counters: int, limits: int, marks: int) -> bytes:
    """R6 the socket, R7 the counters of its kind, R8 what is held with it, R9 its mark."""
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
    code.set(R7, "+", _ROW)
    code.set(R3, "+", _LIMIT_ROW)
    code.set(R9, "=", _OTHER)

    code.label("count")
    code.set(R8, "=", 1)
    code.fetch_add(R7, _HELD, R8)
    code.set(R8, "+", 1)
    code.load(R3, R3, 0)
    code.jump_if_to("refuse", R8, "s>", R3)
    _mark_of(code, marks, bpf.SK_STORAGE_CREATE)
    code.jump_if("refuse", R0, "==", 0)  # the kernel has no memory for the mark
    code.store(R0, 0, R9, 4)

    code.load(R0, R7, _MAXHELD)
    for _ in range(_TRIES):
        code.jump_if_to("allow", R0, "s>=", R8)
        code.set_to(R1, "=", R0)
        code.compare_exchange(R7, _MAXHELD, R8)
        code.jump_if_to("allow", R0, "==", R1)
    code.label("allow")
    code.exit(1)

    code.label("refuse")
    code.set(R1, "=", -1)
    code.fetch_add(R7, _HELD, R1)
    code.set(R1, "=", 1)
    code.fetch_add(R7, _FAILCNT, R1)
    code.set(R1, "=", -errno.ENOBUFS)
    code.call(bpf.SET_RETVAL)
    code.exit(0)
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
    code.set(R7, "+", _ROW)
    code.label("uncount")
    code.set(R1, "=", -1)
    code.fetch_add(R7, _HELD, R1)
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
