"""Limiting the rules of the older iptables: numiptent (beancounters.md 2), where there is a hook.

A table of it is replaced as a whole, by setsockopt(2): a program on vz/N refuses one that has more
entries than the limit with ENOMEM, as OpenVZ did. Each table is looked at alone. nftables speaks
netlink, which nobody can refuse rule by rule."""

from __future__ import annotations

import errno
import os

from vzpy import countmap
from vzpy.kernel import bpf
from vzpy.kernel.bpf import R1, R2, R3, R4, R6, R7, R8, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("NUMIPTENT",)
_NAME = "vz_table"
_MAPS = countmap.Maps("vz_table", KINDS)
_SO_SET_REPLACE = 64  # IPT_SO_SET_REPLACE, IP6T_SO_SET_REPLACE
_SOL_IP, _SOL_IPV6 = 0, 41
_NUM_ENTRIES = 36  # in struct ipt_replace, after name[32] and valid_hooks
# struct bpf_sockopt (linux/bpf.h)
_OPTVAL, _OPTVAL_END, _LEVEL, _OPTNAME, _OPTLEN = 8, 16, 24, 28, 32
_SEEN = 4096  # of a longer value; it has to be said that it was left alone


def change(cgroup: str, limits: Mapping[str, int]) -> None:
    """New limits for a VPS. Raises OSError where the kernel has no such programs."""
    if _MAPS.change(cgroup, bpf.CGROUP_SETSOCKOPT, _NAME, limits) or not limits:
        return
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        code = program(*_MAPS.make(opened, limits))
        point = bpf.CGROUP_SETSOCKOPT
        prog = opened(bpf.prog_load(bpf.PROG_CGROUP_SOCKOPT, code, _NAME, point))
        bpf.prog_attach(where, prog, point, bpf.ALLOW_MULTI)


def read(cgroup: str) -> dict[str, tuple[int, int, int]]:
    """KIND -> 0, 0, failcnt; nothing where none is refused. Raises OSError."""
    return _MAPS.read(cgroup, bpf.CGROUP_SETSOCKOPT, _NAME)


def program(counters: int, limits: int) -> bytes:
    """R6 the call, R8 the entries of the new table."""
    code = Code()
    code.set_to(R6, "=", R1)
    code.load(R2, R6, _OPTNAME, 4)
    code.jump_if("allow", R2, "!=", _SO_SET_REPLACE)
    code.load(R2, R6, _LEVEL, 4)
    code.jump_if("table", R2, "==", _SOL_IP)
    code.jump_if("allow", R2, "!=", _SOL_IPV6)
    code.label("table")
    code.load(R2, R6, _OPTVAL)
    code.load(R3, R6, _OPTVAL_END)
    code.set_to(R4, "=", R2)
    code.set(R4, "+", _NUM_ENTRIES + 4)
    code.jump_if_to("allow", R4, ">", R3)
    code.load(R8, R2, _NUM_ENTRIES, 4)
    code.map_value(R7, counters)
    code.map_value(R3, limits)
    code.load(R3, R3, 0)
    code.jump_if_to("refuse", R8, "s>", R3)
    code.label("allow")
    code.load(R2, R6, _OPTLEN, 4)
    code.jump_if("whole", R2, "<", _SEEN + 1)
    code.set(R2, "=", 0)
    code.store(R6, _OPTLEN, R2, 4)
    code.label("whole")
    code.exit(1)
    code.label("refuse")
    countmap.fail(code, errno.ENOMEM)
    return code.assemble()
