"""What an ELF header says of a program: for which machine, and if it needs a loader (elf(5))."""

from __future__ import annotations

import os
import struct

from vzpy.record import record

PT_INTERP = 3
# e_machine and word size -> the name that `uname -m` has for it
MACHINES = {
    (3, 32): "i386",
    (40, 32): "arm",
    (62, 64): "x86_64",
    (62, 32): "x32",
    (183, 64): "aarch64",
    (243, 64): "riscv64",
    (21, 64): "ppc64le",
    (22, 64): "s390x",
    (8, 32): "mips",
    (8, 64): "mips64",
}
# machine of the kernel -> what it runs besides its own
ALSO_RUNS = {"x86_64": ("i386", "x32"), "aarch64": ("arm",)}


@record
class ELF:
    machine: str
    static: bool  # no program header asks for an interpreter


def read(fd: int) -> ELF | None:
    """The header of the file behind `fd`; None when it is no ELF file, or a broken one."""
    head = os.pread(fd, 64, 0)
    if len(head) < 52 or head[:4] != b"\x7fELF":
        return None
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    machine = struct.unpack_from(order + "H", head, 18)[0]
    if wide and len(head) < 64:
        return None
    offset = struct.unpack_from(order + ("Q" if wide else "L"), head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    table = os.pread(fd, min(size * count, 65536), offset) if offset < 1 << 31 else b""
    types = [
        struct.unpack_from(order + "L", table, at)[0]
        for at in range(0, len(table) - 3, size or 65536)
    ]
    name = MACHINES.get((machine, 64 if wide else 32), f"machine {machine}")
    return ELF(machine=name, static=PT_INTERP not in types)


def runs_here(machine: str, kernel: str | None = None) -> bool:
    """Whether a kernel (this one) runs programs made for `machine`."""
    kernel = kernel or os.uname().machine
    return machine == kernel or machine in ALSO_RUNS.get(kernel, ())
