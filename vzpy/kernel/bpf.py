"""Programs and maps of the kernel's BPF machine (bpf(2)), and an assembler for the few
instructions that ours need (Documentation/bpf/standardization/instruction-set.rst).

Nothing is pinned: a program lives as long as the cgroup it is attached to, a map as long as a
program that uses it, and both are found again by asking the cgroup (BPF_PROG_QUERY)."""

from __future__ import annotations

import _struct as struct
import os
from _ctypes import addressof

from vzpy.kernel.foreign import buffer
from vzpy.kernel.libc import syscall
from vzpy.kernel.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# commands of bpf(2)
_MAP_CREATE, _MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM = 0, 1, 2, 3
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 5, 8, 9
_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_PROG_QUERY, _BTF_LOAD = 16, 18

# types of programs, and where they are attached
PROG_SCHED_CLS, PROG_CGROUP_SOCK, PROG_CGROUP_DEVICE = 3, 9, 15
PROG_CGROUP_SYSCTL, PROG_CGROUP_SOCKOPT, PROG_LSM = 23, 25, 29
CGROUP_INET_SOCK_CREATE, CGROUP_DEVICE, CGROUP_SYSCTL = 2, 6, 18
CGROUP_SETSOCKOPT, CGROUP_INET_SOCK_RELEASE, LSM_CGROUP = 22, 34, 43
ALLOW_OVERRIDE = 1  # the program of a cgroup below replaces this one
ALLOW_MULTI = 2  # programs of cgroups below run as well, and others beside this one
REPLACE = 4

# types of maps
MAP_HASH, MAP_ARRAY, MAP_CGROUP_ARRAY, MAP_SK_STORAGE, MAP_INODE_STORAGE = 1, 2, 8, 24, 28
MAP_NO_PREALLOC = 1
NOEXIST = 1  # of an update: EEXIST when there is a value

# helper functions (bpf-helpers(7))
MAP_LOOKUP_ELEM, SKB_LOAD_BYTES, CURRENT_TASK_UNDER_CGROUP = 1, 26, 37
PER_CPU_PTR, LOOP = 153, 181
SYSCTL_GET_NAME, SK_STORAGE_GET, PROBE_READ_KERNEL = 101, 107, 113
INODE_STORAGE_GET, SET_RETVAL = 145, 187
SK_STORAGE_CREATE = INODE_STORAGE_CREATE = 1

# registers: the result, arguments, what calls leave alone
R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_ALU = {"+": 0x00, "-": 0x10, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70, "=": 0xB0}
_JUMPS = {"==": 0x10, ">": 0x20, "!=": 0x50, "s>": 0x60, "s>=": 0x70, "<": 0xA0}
_IMM64, _PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _PSEUDO_BTF_ID, _PSEUDO_FUNC = 0x18, 1, 2, 3, 4
_FETCH = 1
_LOG_SIZE = 1 << 20


class Code:
    """A program under construction: one method an instruction, jumps by label."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._functions: list[tuple[int, str]] = []

    def label(self, name: str) -> None:
        """The next instruction is called that."""
        self._labels[name] = len(self._code)

    def set(self, dst: int, op: str, value: int) -> None:
        """dst op value, in 64 bits: "=", "+", "-", "|", "&", "<<", ">>"; value a number."""
        self._add(0x07 | _ALU[op], dst, imm=value)

    def set_to(self, dst: int, op: str, src: int) -> None:
        """dst op register."""
        self._add(0x0F | _ALU[op], dst, src)

    def load(self, dst: int, src: int, offset: int, size: int = 8) -> None:
        """dst = *(src + offset), so many bytes."""
        self._add(0x61 | _SIZES[size], dst, src, offset)

    def store(self, dst: int, offset: int, src: int, size: int = 8) -> None:
        """*(dst + offset) = src."""
        self._add(0x63 | _SIZES[size], dst, src, offset)

    def fetch_add(self, dst: int, offset: int, src: int) -> None:
        """Atomically *(dst + offset) += src, of 8 bytes; src becomes what was there before."""
        self._add(0xDB, dst, src, offset, _FETCH)

    def compare_exchange(self, dst: int, offset: int, src: int) -> None:
        """Atomically store src when *(dst + offset) is R0; R0 becomes what was there before."""
        self._add(0xDB, dst, src, offset, 0xF0 | _FETCH)

    def jump(self, to: str) -> None:
        """To a label."""
        self._jump(to, 0x05)

    def jump_if(self, to: str, dst: int, op: str, value: int) -> None:
        """To a label when `dst op value` holds, in 64 bits: "==", "!=", ">", "<", and with signs
        "s>", "s>="; value a number."""
        self._jump(to, 0x05 | _JUMPS[op], dst, imm=value)

    def jump_if_to(self, to: str, dst: int, op: str, src: int) -> None:
        """The same against a register."""
        self._jump(to, 0x0D | _JUMPS[op], dst, src)

    def number(self, dst: int, value: int) -> None:
        """dst = a number of 64 bits."""
        self._add(_IMM64, dst, imm=_signed(value & 0xFFFFFFFF))
        self._add(0, imm=_signed(value >> 32))

    def map(self, dst: int, fd: int) -> None:
        """dst = the map, as helper functions take it."""
        self._wide(dst, _PSEUDO_MAP_FD, fd)

    def map_value(self, dst: int, fd: int) -> None:
        """dst = address of the value of an array of one element."""
        self._wide(dst, _PSEUDO_MAP_VALUE, fd)

    def variable(self, dst: int, number: int) -> None:
        """dst = a variable of the kernel, by its number (btf.look), as helper functions take it."""
        self._wide(dst, _PSEUDO_BTF_ID, number)

    def function(self, dst: int, at: str) -> None:
        """dst = the function that begins at a label, as helper functions take it."""
        self._functions.append((len(self._code), at))
        self._wide(dst, _PSEUDO_FUNC, 0)

    def functions(self) -> tuple[int, ...]:
        """Where they begin, in instructions: what prog_load() has to know of them."""
        return tuple(sorted({self._labels[name] for _, name in self._functions}))

    def call(self, helper: int) -> None:
        """R0 = helper(R1 .. R5), whose contents are lost."""
        self._add(0x85, imm=helper)

    def exit(self, result: int | None = None) -> None:
        """Return R0, or a number."""
        if result is not None:
            self.set(R0, "=", result)
        self._add(0x95)

    def assemble(self) -> bytes:
        """The machine code. Raises KeyError for a label that is nowhere."""
        code = list(self._code)
        for at, name in self._jumps:
            op, dst, src, _, imm = code[at]
            code[at] = (op, dst, src, self._labels[name] - at - 1, imm)
        for at, name in self._functions:
            op, dst, src, _, _ = code[at]
            code[at] = (op, dst, src, 0, self._labels[name] - at - 1)
        return b"".join(
            struct.pack("=BBhi", op, src << 4 | dst, offset, imm)
            for op, dst, src, offset, imm in code
        )

    def _add(self, op: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> None:
        self._code.append((op, dst, src, offset, imm))

    def _jump(self, to: str, op: int, dst: int = 0, src: int = 0, imm: int = 0) -> None:
        self._jumps.append((len(self._code), to))
        self._add(op, dst, src, 0, imm)

    def _wide(self, dst: int, kind: int, number: int) -> None:
        self._add(_IMM64, dst, kind, 0, number)
        self._add(0)


class Opened:
    """Descriptors that are closed at the end."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __call__(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


# The system call


def _bpf(command: int, attr: Any) -> int:
    return syscall(NR["bpf"], command, addressof(attr), len(attr))


def _attr(layout: str, *fields: int | bytes) -> Any:
    """union bpf_attr of bpf(2), which may be longer than what a command looks at."""
    return buffer(struct.pack("=" + layout, *fields).ljust(128, b"\0"))


def map_create(
    kind: int,
    value_size: int,
    name: str,
    flags: int = 0,
    btf: int = 0,
    entries: int = 1,
    key_size: int = 4,
) -> int:
    """A new map: its descriptor.

    btf  descriptor of a description whose type 1 is that of key and value"""
    attr = _attr("7I16s5I", kind, key_size, value_size, entries, flags, 0, 0, name.encode(),
                 0, btf, 1 if btf else 0, 1 if btf else 0, 0)
    return _bpf(_MAP_CREATE, attr)


def map_lookup(fd: int, size: int, key: int = 0) -> bytes:
    """The value at a key. Raises OSError ENOENT."""
    wanted, value = buffer(struct.pack("=I", key)), buffer(bytes(size))
    _bpf(_MAP_LOOKUP_ELEM, _attr("IIQQ", fd, 0, addressof(wanted), addressof(value)))
    return bytes(value)


def map_update(fd: int, value: bytes, key: int | bytes = 0, flags: int = 0) -> None:
    """The key of storage that belongs to sockets is the descriptor of one."""
    wanted, new = _key(key), buffer(value)
    _bpf(_MAP_UPDATE_ELEM, _attr("IIQQQ", fd, 0, addressof(wanted), addressof(new), flags))


def map_delete(fd: int, key: int | bytes) -> None:
    """Raises OSError ENOENT."""
    wanted = _key(key)
    _bpf(_MAP_DELETE_ELEM, _attr("IIQ", fd, 0, addressof(wanted)))


def _key(key: int | bytes) -> Any:
    return buffer(key if isinstance(key, bytes) else struct.pack("=I", key))


def btf_of_int() -> int:
    """A description (BTF) of one type, a 4-byte int: what storage of sockets asks for."""
    return _btf_load(_BTF_INT, b"\0int\0")


def _btf_of_function() -> int:
    """Its third type is a static function of no arguments that returns an int."""
    proto, function = (0, 13 << 24, 1), (5, 12 << 24, 2)  # name, kind, type of result; of what
    return _btf_load(_BTF_INT + struct.pack("=6I", *proto, *function), b"\0int\0f\0")


_BTF_INT = struct.pack("=4I", 1, 1 << 24, 4, 32)  # name, BTF_KIND_INT, bytes, bits


def _btf_load(types: bytes, names: bytes) -> int:
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    btf = buffer(head + types + names)
    return _bpf(_BTF_LOAD, _attr("QQIII", addressof(btf), 0, len(btf), 0, 0))


def prog_load(
    kind: int, code: bytes, name: str, attach: int = 0, hook: int = 0,
    functions: tuple[int, ...] = (),
) -> int:
    """Have a program checked and loaded: its descriptor.

    hook       number of the kernel's function that an LSM program belongs to (btf.look)
    functions  where those of the program begin that are not its first (Code.functions)
    Raises OSError with the end of what the kernel's verifier said."""
    about = b""
    with Opened() as opened:
        btf = opened(_btf_of_function()) if functions else 0
        if functions:
            about = b"".join(struct.pack("=2I", at, 3) for at in (0, *functions))
        return _checked(kind, code, name, attach, hook, btf, about)


def _checked(
    kind: int, code: bytes, name: str, attach: int, hook: int, btf: int, about: bytes
) -> int:
    try:
        return _prog_load(kind, code, name, attach, hook, btf, about)
    except OSError as err:
        if err.errno not in (13, 22):  # EACCES, EINVAL: the verifier does not like it
            raise
    log = buffer(bytes(_LOG_SIZE))
    try:
        return _prog_load(kind, code, name, attach, hook, btf, about, log)
    except OSError as err:
        said = bytes(log).partition(b"\0")[0].decode(errors="replace").strip().splitlines()
        text = "; ".join(said[-4:]) or err.strerror
        raise OSError(err.errno, f"BPF program {name}: {text}") from None


def _prog_load(
    kind: int, code: bytes, name: str, attach: int, hook: int, btf: int, about: bytes,
    log: Any = None,
) -> int:
    # The kernel takes LSM programs under the GPL alone: those are ours to give under it as well.
    program, licence = buffer(code), buffer(b"GPL\0" if hook else b"Apache-2.0\0")
    level, size, at = (1, len(log), addressof(log)) if log else (0, 0, 0)
    functions = buffer(about or bytes(1))
    attr = _attr("IIQQIIQII16sIIIIQI16xI", kind, len(code) // 8, addressof(program),
                 addressof(licence), level, size, at, 0, 0, name.encode(), 0, attach,
                 btf, 8 if about else 0, addressof(functions) if about else 0, len(about) // 8,
                 hook)
    return _bpf(_PROG_LOAD, attr)


def prog_attach(cgroup: int, prog: int, attach: int, flags: int = 0, replaced: int = 0) -> None:
    """Attach to an opened cgroup directory; with REPLACE instead of the program `replaced`."""
    _bpf(_PROG_ATTACH, _attr("5I", cgroup, prog, attach, flags, replaced))


def prog_detach(cgroup: int, prog: int, attach: int) -> None:
    _bpf(_PROG_DETACH, _attr("3I", cgroup, prog, attach))


def prog_query(cgroup: int, attach: int) -> list[int]:
    """Ids of the programs attached to just this cgroup."""
    ids, flags = buffer(bytes(4 * 64)), buffer(bytes(4 * 64))
    # Of LSM programs the kernel wants to tell the flags, too.
    attr = _attr("IIIIQIIQ", cgroup, attach, 0, 0, addressof(ids), 64, 0, addressof(flags))
    _bpf(_PROG_QUERY, attr)
    count = struct.unpack_from("=I", bytes(attr), 24)[0]
    return list(struct.unpack_from(f"={count}I", bytes(ids)))


def prog_by_id(number: int) -> int:
    """A descriptor of a program. Raises OSError ENOENT."""
    return _bpf(_PROG_GET_FD_BY_ID, _attr("I", number))


def attach_alone(cgroup: str, kind: int, attach: int, code: bytes, name: str, flags: int) -> None:
    """Load a program and attach it to a cgroup, in the place of ours that was there.

    flags  0, ALLOW_OVERRIDE, or ALLOW_MULTI. Raises OSError"""
    with Opened() as opened:
        prog = opened(prog_load(kind, code, name, attach))
        where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        old = 0
        if flags & ALLOW_MULTI and (found := find(where, attach, name)) >= 0:
            old, flags = opened(found), flags | REPLACE
        prog_attach(where, prog, attach, flags, old)


def find(cgroup: int, attach: int, name: str) -> int:
    """A descriptor of the program of that name which is attached to a cgroup, -1 without one."""
    for number in prog_query(cgroup, attach):
        fd = prog_by_id(number)
        if _name(_info(fd), 64) == name:
            return fd
        os.close(fd)
    return -1


def map_of(prog: int, name: str) -> int:
    """A descriptor of the map of that name which a program uses. Raises OSError ENOENT."""
    count = struct.unpack_from("=I", _info(prog), 52)[0]
    ids = buffer(bytes(4 * max(count, 1)))
    given = bytes(52) + struct.pack("=IQ", count, addressof(ids))
    _info(prog, given)
    for number in struct.unpack_from(f"={count}I", bytes(ids)):
        fd = _bpf(_MAP_GET_FD_BY_ID, _attr("I", number))
        if _name(_info(fd), 24) == name:
            return fd
        os.close(fd)
    raise OSError(2, os.strerror(2), name)


def _info(fd: int, given: bytes = b"") -> bytes:
    """struct bpf_prog_info, struct bpf_map_info."""
    info = buffer(given.ljust(128, b"\0"))
    _bpf(_OBJ_GET_INFO_BY_FD, _attr("IIQ", fd, len(info), addressof(info)))
    return bytes(info)


def _name(info: bytes, offset: int) -> str:
    return info[offset : offset + 16].partition(b"\0")[0].decode()
