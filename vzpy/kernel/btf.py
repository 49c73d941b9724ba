"""Where things are in the running kernel, from its own description of its types (BTF,
Documentation/bpf/btf.rst): /sys/kernel/btf/vmlinux.

A look goes over some hundred thousand types, which takes a quarter of a second: it is for the
caller to remember the answer until the next boot."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/sys/kernel/btf/vmlinux"

# Words after the three of every type: always, and for each of its members, by kind.
_ALWAYS = (0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0)
_EACH = (0, 0, 0, 0, 3, 3, 2, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 3)
_STRUCT, _FUNC, _VAR = 4, 12, 14
_BITS_OF_OFFSET = 0xFFFFFF


def look(functions: Iterable[str], members: Iterable[str], path: str = PATH) -> dict[str, int]:
    """The number of each function or variable, and the offset in bytes of each member (cred.uid).

    Raises OSError where the kernel has no such description (CONFIG_DEBUG_INFO_BTF), or not one of
    those names."""
    with open(path, "rb") as file:
        data = file.read()
    header = struct.unpack_from("=HBBIIIII", data)
    head, types_at, types_size, names_at, names_size = header[3:]
    names = data[head + names_at : head + names_at + names_size]
    types = memoryview(data)[head + types_at : head + types_at + types_size].cast("I")
    structs: dict[int, list[str]] = {}
    for member in members:
        structs.setdefault(_place(names, member.partition(".")[0]), []).append(member)
    wanted = {_place(names, name): name for name in functions}
    found: dict[str, int] = {}
    at, number = 0, 1
    while at < len(types):
        name, info = types[at], types[at + 1]
        kind, count = info >> 24 & 31, info & 0xFFFF
        if kind in (_FUNC, _VAR) and name in wanted:
            found[wanted[name]] = number
        elif kind == _STRUCT and name in structs:
            for member in structs[name]:
                field = _place(names, member.partition(".")[2])
                for row in range(at + 3, at + 3 + 3 * count, 3):
                    if types[row] == field:
                        found[member] = (types[row + 2] & _BITS_OF_OFFSET) // 8
        at += 3 + _ALWAYS[kind] + _EACH[kind] * count
        number += 1
    if missing := {*functions, *members} - found.keys():
        raise OSError(2, "The kernel has no " + ", ".join(sorted(missing)), path)
    return found


def _place(names: bytes, name: str) -> int:
    """Offset of a name among the names, 0 when it is not there."""
    return names.find(b"\0" + name.encode() + b"\0") + 1
