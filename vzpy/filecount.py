"""Counting and limiting the open files of a VPS: numfile (beancounters.md 2), where the kernel has
BPF among its security modules (lsm=...,bpf).

Two programs on vz/N, at the hooks where the kernel makes and frees an open file. Whose it is tell
its credentials: a file is counted when a user of the VPS opened it, so what the host hands in
(the pipes of an exec) and what a file system opens for itself is not. Above the limit a call
fails with ENFILE. Tasks beside vz/N/ve, where an exec into a full VPS is born, have a few to spare.

A file is taken off the count where the last user lets it go. When that is nobody of the VPS (a
socket that carried descriptors and was thrown away by the kernel's own thread) it stays counted."""

from __future__ import annotations

import errno
import os
import struct

from vzpy import countmap
from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R7, R8, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.model import IdRange

KINDS = ("NUMFILE",)
SPARE = 64
_ALLOC, _FREE = "vz_file_alloc", "vz_file_free"
_MAPS = countmap.Maps("vz_file", KINDS)
_HOOKS = {
    _ALLOC: "bpf_lsm_file_alloc_security",
    _FREE: "bpf_lsm_file_free_security",
}


def attach(cgroup: str, ids: IdRange, limits: Mapping[str, int]) -> None:
    """Count the files that users of a VPS open in vz/N from now on, and limit them.

    Raises OSError where the kernel has no such programs."""
    kernel = countmap.places(cgroup)
    with bpf.Opened() as opened:
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        counters, limit = _MAPS.make(opened, limits)
        tree = opened(os.open(f"{cgroup}/ve", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        trees = opened(bpf.map_create(bpf.MAP_CGROUP_ARRAY, 4, "vz_file_tree"))
        bpf.map_update(trees, struct.pack("=I", tree))
        for name, code in (
            (_FREE, free_program(kernel, ids, counters)),
            (_ALLOC, alloc_program(kernel, ids, counters, limit, trees)),
        ):
            hook = kernel[_HOOKS[name]]
            prog = opened(bpf.prog_load(bpf.PROG_LSM, code, name, bpf.LSM_CGROUP, hook))
            bpf.prog_attach(where, prog, bpf.LSM_CGROUP, bpf.ALLOW_MULTI)


def change(cgroup: str, ids: IdRange | None, limits: Mapping[str, int]) -> None:
    """New limits for a VPS, whose files are counted from now on if they were not.

    Raises OSError, EINVAL without its ids."""
    if _MAPS.change(cgroup, bpf.LSM_CGROUP, _ALLOC, limits) or not limits:
        return
    if ids is None:
        raise OSError(errno.EINVAL, "Nobody's files can be counted", cgroup)
    attach(cgroup, ids, limits)


def read(cgroup: str) -> dict[str, tuple[int, int, int]]:
    """KIND -> held, maxheld, failcnt; nothing where the files are not counted.

    Raises OSError, ENOENT without such a cgroup."""
    return _MAPS.read(cgroup, bpf.LSM_CGROUP, _ALLOC)


def is_nearly_full(cgroup: str) -> bool:
    """A VPS has so few files left that a command may not come far in it."""
    try:
        left = _MAPS.left(cgroup, bpf.LSM_CGROUP, _ALLOC)
    except OSError:
        return False  # a kernel without programs of that kind
    return left.get("NUMFILE", SPARE) < SPARE


def alloc_program(
    kernel: Mapping[str, int], ids: IdRange, counters: int, limits: int, trees: int
) -> bytes:
    """trees  map whose first cgroup is the one whose tasks have nothing to spare"""
    code = Code()
    countmap.only_files_of(ids, code, kernel)
    code.map_value(R7, counters)
    code.map_value(R3, limits)
    countmap.count(code, "full")
    countmap.note_peak(code)
    code.label("not ours")
    code.exit(1)
    code.label("full")
    code.map(R1, trees)
    code.set(R2, "=", 0)
    code.call(bpf.CURRENT_TASK_UNDER_CGROUP)
    code.jump_if("refuse", R0, "!=", 0)
    code.map_value(R3, limits)
    code.load(R3, R3, 0)
    code.set(R3, "+", SPARE)
    code.jump_if_to("refuse", R8, "s>", R3)
    code.exit(1)
    code.label("refuse")
    countmap.fail(code, errno.ENFILE)  # the kernel frees the file, which takes it off the count
    return code.assemble()


def free_program(kernel: Mapping[str, int], ids: IdRange, counters: int) -> bytes:
    code = Code()
    countmap.only_files_of(ids, code, kernel)
    code.map_value(R7, counters)
    countmap.uncount(code)
    code.label("not ours")
    code.exit(1)
    return code.assemble()
