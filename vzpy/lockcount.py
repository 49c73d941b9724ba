"""Limiting the file locks of a VPS: numflock (beancounters.md 2), where the kernel has BPF among
its security modules (lsm=...,bpf).

A program on vz/N sees every request for a lock, but no end of one: locks end with files, with
processes, with parts of others. So none is counted up and down; they are counted anew, in the
kernel's own list of those that are held (that of /proc/locks), when the limit might have been
reached: not before so many were asked for since the last time. A lock is a VPS's when one of its
users opened the file (as in filecount.py). Above the limit a call fails with ENOLCK.

The list is read while others change it: a count may miss some. One that was waited for is taken
without a request, so those who wait may go beyond the limit."""

from __future__ import annotations

import errno
import os

from vzpy import countmap
from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.model import IdRange

KINDS = ("NUMFLOCK",)
_LOCK = "vz_file_lock"
_MAPS = countmap.Maps("vz_lock", KINDS)
_HOOK, _LIST, _LISTED = "bpf_lsm_file_lock", "file_lock_list", "file_lock_list_struct.hlist"
_F_UNLCK = 2
_MORE = 2  # locks after a request: in the middle of another one it leaves three
_MOST = 1 << 20  # locks of the machine that are looked at

# Of the loop, on the stack: where it is in a list, of which CPU, what it has found, up to what.
_NODE, _CPU, _FOUND, _LIMIT = 0, 8, 16, 24
_STATE = 40  # bytes from the top of the stack, where countmap.read() puts things


def change(cgroup: str, ids: IdRange | None, limits: Mapping[str, int]) -> None:
    """New limits for a VPS. Raises OSError where the kernel has no such programs, EINVAL without
    its ids."""
    if _MAPS.change(cgroup, bpf.LSM_CGROUP, _LOCK, limits) or not limits:
        return
    if ids is None:
        raise OSError(errno.EINVAL, "Nobody's locks can be counted", cgroup)
    kernel = _places(cgroup)
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        counters, limit = _MAPS.make(opened, limits)
        code = lock_program(kernel, ids, counters, limit)
        prog = opened(bpf.prog_load(
            bpf.PROG_LSM, code.assemble(), _LOCK, bpf.LSM_CGROUP, kernel[_HOOK], code.functions()
        ))
        bpf.prog_attach(where, prog, bpf.LSM_CGROUP, bpf.ALLOW_MULTI)


def read(cgroup: str) -> dict[str, tuple[int, int, int]]:
    """KIND -> about how many there are, maxheld, failcnt; nothing where none is refused.

    Raises OSError, ENOENT without such a cgroup."""
    return _MAPS.read(cgroup, bpf.LSM_CGROUP, _LOCK)


def _places(cgroup: str) -> dict[str, int]:
    """Also "link" and "file", of a lock. Raises OSError."""
    try:
        return _places_of(cgroup, "file_lock.fl")
    except OSError:
        return _places_of(cgroup, "file_lock_core.flc")  # Linux 6.9


def _places_of(cgroup: str, lock: str) -> dict[str, int]:
    link, file = f"{lock}_link", f"{lock}_file"
    members = (link, file, _LISTED, "file.f_cred", "cred.uid")
    found = countmap.places(cgroup, (_HOOK, _LIST), members, f"trusted.vz.btf.{lock}")
    return {**found, "link": found[link], "file": found[file]}


def lock_program(kernel: Mapping[str, int], ids: IdRange, counters: int, limits: int) -> Code:
    """file_lock(file, what). R6 the limit, R7 the counters, R8 how many there are at most."""
    code = Code()
    countmap.only_files_of(ids, code, kernel)
    code.load(R9, R1, 8)
    code.set(R9, "&", 0xFF)
    code.map_value(R7, counters)
    code.map_value(R6, limits)
    code.load(R6, R6, 0)
    _add(code)
    code.jump_if("not ours", R9, "==", _F_UNLCK)
    code.jump_if_to("look", R8, "s>", R6)
    code.label("not ours")
    code.exit(1)

    code.label("look")
    _count(code)
    code.store(R7, 0, R8)
    code.jump_if_to("refuse", R8, "s>=", R6)
    code.set(R8, "+", 1)
    countmap.note_peak(code)
    _add(code)
    code.exit(1)
    code.label("refuse")
    countmap.fail(code, errno.ENOLCK)

    _look_at_one(code, kernel, ids)
    return code


def _count(code: Code) -> None:
    """R8 = how many there are, up to the limit R6.

    The loop begins with zeros that the verifier cannot know: before Linux 6.8 it looks at the first
    round alone, and takes out what is not reached there."""
    code.set_to(R2, "=", R6)
    code.set_to(R2, "-", R6)
    for offset in (_NODE, _CPU, _FOUND):
        code.store(R10, offset - _STATE, R2)
    code.store(R10, _LIMIT - _STATE, R6)
    code.set(R1, "=", _MOST)
    code.function(R2, "one")
    code.set_to(R3, "=", R10)
    code.set(R3, "+", -_STATE)
    code.set(R4, "=", 0)
    code.call(bpf.LOOP)
    code.load(R8, R10, _FOUND - _STATE)


def _add(code: Code) -> None:
    code.set(R8, "=", _MORE)
    code.fetch_add(R7, 0, R8)
    code.set(R8, "+", _MORE)


def _look_at_one(code: Code, kernel: Mapping[str, int], ids: IdRange) -> None:
    """The function that the loop calls: at the next lock of a list, or the list of the next CPU.
    R6 the state of the loop, R7 the place of the lock."""
    code.label("one")
    code.set_to(R6, "=", R2)
    code.load(R7, R6, _NODE)
    code.jump_if("list", R7, "==", 0)
    _follow(code, R7, kernel["file"] - kernel["link"])
    code.jump_if("on", R8, "==", 0)
    _follow(code, R8, kernel["file.f_cred"])
    _follow(code, R8, kernel["cred.uid"], 4)
    code.jump_if("on", R8, "<", ids.base)
    code.jump_if("on", R8, ">", ids.base + ids.count - 1)
    code.load(R2, R6, _FOUND)
    code.set(R2, "+", 1)
    code.store(R6, _FOUND, R2)
    code.load(R3, R6, _LIMIT)
    code.jump_if_to("end", R2, "s>=", R3)
    code.label("on")
    _follow(code, R7, 0)
    code.store(R6, _NODE, R8)
    code.exit(0)

    code.label("list")
    code.variable(R1, kernel[_LIST])
    code.load(R2, R6, _CPU)
    code.call(bpf.PER_CPU_PTR)
    code.jump_if("end", R0, "==", 0)
    _follow(code, R0, kernel[_LISTED])
    code.store(R6, _NODE, R8)
    code.load(R2, R6, _CPU)
    code.set(R2, "+", 1)
    code.store(R6, _CPU, R2)
    code.exit(0)
    code.label("end")
    code.exit(1)


def _follow(code: Code, src: int, offset: int, size: int = 8) -> None:
    """R8 = *(src + offset), of the kernel's memory, 0 where there is none."""
    code.set_to(R3, "=", src)
    code.set(R3, "+", offset)
    code.set(R2, "=", 0)
    code.store(R10, -8, R2)
    countmap.read(code, size)
    code.load(R8, R10, -8)
