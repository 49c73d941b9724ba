"""The rest of numothersock: UNIX, netlink, packet and all other sockets that are neither IPv4 nor
IPv6, where the kernel has BPF among its security modules. They stand in the counters of
socketcount.py.

Three programs on vz/N. `vz_sk_create` refuses socket(2) above the limit. `vz_sk_mark` counts and
marks: it sees every name that the kernel gives to an inode, and takes those of sockets which have a
protocol behind them already, which is what socket(2) makes; one that accept(2) makes gets it later.
`vz_sk_free` takes an inode with that mark off the count. The mark is in storage that belongs to the
inode.

A socket whose end is seen by nobody of the VPS stays counted (see filecount.py)."""

from __future__ import annotations

import errno

from vzpy import countmap
from vzpy.countmap import LIMIT_ROW, ROW
from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R10, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.kernel.bpf import Opened

_SOCKFS_MAGIC = 0x534F434B
_INET_FAMILIES = (2, 10)
CREATE, _MARK, _MARKS = "vz_sk_create", "vz_sk_mark", "vz_sk_marks"


def attach(cgroup: int, kernel: Mapping[str, int], counters: int, limits: int) -> None:
    """Count and refuse in an opened cgroup; counters and limits are the maps of socketcount.py.

    Raises OSError where the kernel has no such programs."""
    with bpf.Opened() as opened:
        btf = opened(bpf.btf_of_int())
        marks = opened(bpf.map_create(
            bpf.MAP_INODE_STORAGE, 4, _MARKS, bpf.MAP_NO_PREALLOC, btf, entries=0
        ))
        programs = []
        for name, hook, code in (
            ("vz_sk_free", "inode_free_security", free_program(kernel, counters, marks)),
            (_MARK, "d_instantiate", mark_program(kernel, counters, marks)),
            (CREATE, "socket_create", create_program(counters, limits)),
        ):
            number = kernel[f"bpf_lsm_{hook}"]
            programs.append(opened(bpf.prog_load(bpf.PROG_LSM, code, name, bpf.LSM_CGROUP, number)))
        for prog in programs:
            bpf.prog_attach(cgroup, prog, bpf.LSM_CGROUP, bpf.ALLOW_MULTI)


def marks(opened: Opened, cgroup: int) -> int:
    """The map of the marks, whose keys are descriptors of sockets; -1 where nobody counts."""
    try:
        if (prog := bpf.find(cgroup, bpf.LSM_CGROUP, _MARK)) >= 0:
            return opened(bpf.map_of(opened(prog), _MARKS))
    except OSError:
        pass  # a kernel without programs of that kind
    return -1


def create_program(counters: int, limits: int) -> bytes:
    """socket_create(family, type, protocol, kern)"""
    code = Code()
    code.load(R2, R1, 0)
    code.set(R2, "&", 0xFFFF)
    for family in _INET_FAMILIES:
        code.jump_if("allow", R2, "==", family)
    code.load(R2, R1, 24)
    code.set(R2, "&", 1)
    code.jump_if("allow", R2, "!=", 0)
    code.map_value(R7, counters)
    code.set(R7, "+", ROW)
    code.map_value(R3, limits)
    code.load(R3, R3, LIMIT_ROW)
    countmap.full(code, "refuse")
    code.label("allow")
    code.exit(1)
    code.label("refuse")
    countmap.fail(code, errno.ENOBUFS)
    return code.assemble()


def mark_program(kernel: Mapping[str, int], counters: int, marks: int) -> bytes:
    """d_instantiate(dentry, inode). R6 the inode, R7 and R8 as in countmap.py."""
    code = Code()
    code.load(R6, R1, 8)
    _only_sockets(code, kernel)
    # An inode of a socket is the second half of a struct whose first half is the socket.
    code.set(R2, "=", 0)
    code.store(R10, -8, R2)
    code.set_to(R3, "=", R6)
    code.set(R3, "+", kernel["socket.sk"] - kernel["socket_alloc.vfs_inode"])
    countmap.read(code, 8)
    code.load(R3, R10, -8)
    code.jump_if("done", R3, "==", 0)
    code.set(R3, "+", kernel["sock_common.skc_family"])
    code.set(R2, "=", 0)
    code.store(R10, -8, R2)
    countmap.read(code, 2)
    code.load(R2, R10, -8)
    for family in (0, *_INET_FAMILIES):
        code.jump_if("done", R2, "==", family)
    _mark_of(code, marks, bpf.INODE_STORAGE_CREATE)
    code.jump_if("done", R0, "==", 0)
    code.load(R2, R0, 0, 4)
    code.jump_if("done", R2, "!=", 0)
    code.set(R2, "=", 1)
    code.store(R0, 0, R2, 4)
    code.map_value(R7, counters)
    code.set(R7, "+", ROW)
    countmap.add(code)
    countmap.note_peak(code)
    code.label("done")
    code.exit(1)
    return code.assemble()


def free_program(kernel: Mapping[str, int], counters: int, marks: int) -> bytes:
    """inode_free_security(inode)"""
    code = Code()
    code.load(R6, R1, 0)
    _only_sockets(code, kernel)
    _mark_of(code, marks, 0)
    code.jump_if("done", R0, "==", 0)
    code.load(R2, R0, 0, 4)
    code.jump_if("done", R2, "==", 0)
    code.map_value(R7, counters)
    code.set(R7, "+", ROW)
    countmap.uncount(code)
    code.label("done")
    code.exit(1)
    return code.assemble()


def _only_sockets(code: Code, kernel: Mapping[str, int]) -> None:
    """To "done" for an inode R6 of another file system."""
    code.load(R2, R6, kernel["inode.i_sb"])
    code.load(R2, R2, kernel["super_block.s_magic"])
    code.jump_if("done", R2, "!=", _SOCKFS_MAGIC)


def _mark_of(code: Code, marks: int, flags: int) -> None:
    """R0 = address of the mark of the inode R6, 0 without one."""
    code.map(R1, marks)
    code.set_to(R2, "=", R6)
    code.set(R3, "=", 0)
    code.set(R4, "=", flags)
    code.call(bpf.INODE_STORAGE_GET)
