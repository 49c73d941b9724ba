"""Counting and limiting the sockets of a VPS: numtcpsock and numothersock (beancounters.md 2).

Two programs on vz/N. `vz_sock_create` runs when a process of the VPS makes an IPv4 or IPv6 socket:
above the limit socket(2) fails with ENOBUFS, as it did on OpenVZ. `vz_sock_release` runs when one
is closed. It runs for accepted sockets too, whose creation no program sees; so those that
were counted carry a mark, in storage that belongs to the socket.

Sockets of other families (UNIX, netlink, packet) never get here: see othersockets.py."""

from __future__ import annotations

import _socket
import errno
import os
import resource
import struct

from vzpy import countmap, othersockets
from vzpy.countmap import LIMIT_ROW, ROW
from vzpy.kernel import bpf, process
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R9, Code
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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


def change(cgroup: str, limits: Mapping[str, int], pids: Sequence[int] = ()) -> None:
    """New limits for a VPS, whose sockets are counted from now on if they were not.

    pids  of its processes, whose sockets are then counted first. Raises OSError."""
    point = bpf.CGROUP_INET_SOCK_CREATE
    known = _MAPS.change(cgroup, point, _CREATE, limits)
    if not known and limits:
        attach(cgroup, limits)
    if "NUMOTHERSOCK" in limits:
        _count_other_families(cgroup)
    if not known and limits and pids:
        _MAPS.change(cgroup, point, _CREATE, limits, _mark_what_is_there(cgroup, pids))


def _count_other_families(cgroup: str) -> None:
    """As far as this kernel can."""
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            if (there := bpf.find(where, bpf.LSM_CGROUP, othersockets.CREATE)) >= 0:
                opened(there)
                return
            prog = opened(bpf.find(where, bpf.CGROUP_INET_SOCK_CREATE, _CREATE))
            othersockets.attach(where, countmap.places(cgroup), *_MAPS.of(opened, prog))
        except OSError:
            pass  # without BPF LSM


def _mark_what_is_there(cgroup: str, pids: Iterable[int]) -> dict[str, int]:
    """Mark the sockets that processes have, as if the program had seen them being made; how many
    of each kind. Raises OSError.

    In a child that ends with copies of them all: to close one may take as long as its owner likes
    (SO_LINGER, socket(7)), unless it is closed by an end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            os.write(writer, struct.pack("=2q", *_marked(cgroup, pids)))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise OSError(errno.EIO, "The sockets that there are cannot be counted", cgroup)
    return dict(zip(KINDS, struct.unpack("=2q", said)))


def _marked(cgroup: str, pids: Iterable[int]) -> list[int]:
    """How many of each kind; a connection that comes from a listening socket is none of them."""
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        prog = opened(bpf.find(where, bpf.CGROUP_INET_SOCK_CREATE, _CREATE))
        marks = {True: opened(bpf.map_of(prog, _MARKS)), False: othersockets.marks(opened, where)}
        found = [_looked_at(fd) for fd in _sockets_of(pids)]
        listening = {one.name for one in found if one.listens}
        there = [0, 0]
        for one in found:
            is_accepted = not one.listens and one.name in listening
            if is_accepted or marks[one.is_inet] < 0:
                continue
            try:
                mark = struct.pack("=I", _TCP if one.is_tcp else _OTHER)
                bpf.map_update(marks[one.is_inet], mark, one.fd, bpf.NOEXIST)
                there[not one.is_tcp] += 1
            except FileExistsError:
                pass  # made since then, and counted
    return there


def _sockets_of(pids: Iterable[int]) -> Iterator[int]:
    """A descriptor of ours of each socket that one of the processes has."""
    seen = set()
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # it has ended
        for name in names:
            try:
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:") and link not in seen:
                    seen.add(link)
                    yield process.pidfd_getfd(pidfd, int(name))
            except OSError:
                pass  # closed meanwhile


@record
class _Looked:
    """A socket; its name is what a listening one and those that it accepts have in common."""

    fd: int
    is_inet: bool
    is_tcp: bool
    listens: bool
    name: object


def _looked_at(fd: int) -> _Looked:
    one = _socket.socket(fileno=fd)
    try:
        is_inet = one.family in (_socket.AF_INET, _socket.AF_INET6)
        is_tcp = is_inet and one.type == _SOCK_STREAM and one.proto in _TCP_PROTOCOLS
        is_unix = one.family == _socket.AF_UNIX and one.type != _socket.SOCK_DGRAM
        listens = one.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        name: object = fd  # like no other
        if is_tcp:
            name = "tcp", one.getsockname()[1]
        elif is_unix and (path := one.getsockname()):
            name = "unix", path
        return _Looked(fd, is_inet, is_tcp, bool(listens), name)
    finally:
        one.detach()  # not closed


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
