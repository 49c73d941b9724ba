"""Static programs of a few hundred bytes, made here: system calls over and over, as a hostile guest
makes them. An embedded template has neither compiler nor Python, and a shell makes no sockets.

    loop([socket(AF_INET, SOCK_STREAM, 0)])    opens sockets for as long as the kernel gives some
    loop([Call(NR_open, b"/dev/ptmx", 2)])

x86-64 only, as the template is."""

from __future__ import annotations

import struct

BASE, DATA = 0x400000, 0x600000  # where code and data are mapped
_DATA_SIZE = 1 << 20
SCRATCH = DATA + _DATA_SIZE // 2  # half a MiB for whatever a call writes


class Special:
    """An argument that is not known beforehand."""

    def __init__(self, code: bytes) -> None:
        self.code = code  # what moves it into rax


RESULT = Special(b"\x4c\x89\xe0")  # mov rax, r12: of the call before
COUNT = Special(b"\x4c\x89\xe8")  # mov rax, r13: rounds so far


def counted(prefix: bytes) -> tuple[bytes, bytes]:
    """A path that ends in the number of the round, another each time; and that marker."""
    return prefix, b"name"


class Call:
    """One system call. What it gets as bytes is a string in memory; a pair from counted() a path
    with the number of the round. unless_failed: the rest of a round waits for its success."""

    def __init__(self, number: int, *arguments: object) -> None:
        self.number, self.arguments = number, arguments


class _Program:
    def __init__(self) -> None:
        self.code, self.data = bytearray(), bytearray()

    def place(self, content: bytes) -> int:
        """Into the data; the address."""
        address = DATA + len(self.data)
        self.data += content + b"\0"
        self.data += b"\0" * (-len(self.data) % 8)
        return address

    def argument(self, value: object) -> None:
        """mov rax, value"""
        if isinstance(value, Special):
            self.code += value.code
        elif isinstance(value, tuple):
            # The number's eight hexadecimal digits as the letters @ to O, by pdep (BMI2).
            address = self.place(value[0] + b"\0" * 8) + len(value[0])
            self.code += b"\x48\xb9" + struct.pack("<Q", 0x0F0F0F0F0F0F0F0F)  # mov rcx
            self.code += b"\xc4\xe2\x93\xf5\xc1"  # pdep rax, r13, rcx
            self.code += b"\x48\xb9" + struct.pack("<Q", 0x4040404040404040)
            self.code += b"\x48\x09\xc8"  # or rax, rcx
            self.code += b"\x48\xb9" + struct.pack("<Q", address)
            self.code += b"\x48\x89\x01"  # mov [rcx], rax
            self.code += b"\x48\xb8" + struct.pack("<Q", address - len(value[0]))
        else:
            number = self.place(value) if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]
            self.code += b"\x48\xb8" + struct.pack("<q", number)

    def call(self, call: Call) -> None:
        """The result goes into r12."""
        for value in call.arguments:
            self.argument(value)
            self.code += b"\x50"  # push rax
        for pop in reversed((b"\x5f", b"\x5e", b"\x5a", b"\x41\x5a", b"\x41\x58",
                             b"\x41\x59")[: len(call.arguments)]):
            self.code += pop  # rdi, rsi, rdx, r10, r8, r9
        self.code += b"\xb8" + struct.pack("<I", call.number) + b"\x0f\x05"
        self.code += b"\x49\x89\xc4"  # mov r12, rax

    def elf(self) -> bytes:
        head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, BASE + 0x1000, 64,
                           0, 0, 64, 56, 2, 0, 0, 0)
        code_at = 0x1000
        data_at = code_at + -(-len(self.code) // 0x1000) * 0x1000
        load = "<IIQQQQQQ"
        segments = struct.pack(load, 1, 5, code_at, BASE + code_at, 0, len(self.code),
                               len(self.code), 0x1000)
        segments += struct.pack(load, 1, 6, data_at, DATA, 0, len(self.data), _DATA_SIZE, 0x1000)
        out = (head + segments).ljust(code_at, b"\0") + bytes(self.code)
        return out.ljust(data_at, b"\0") + bytes(self.data)


NR_nanosleep, NR_fork, NR_clone, NR_pause, NR_prlimit64 = 35, 57, 56, 34, 302
NR_exit_group = 231
_RLIMIT_NOFILE, _NOFILE = 7, 1 << 19


def loop(calls: list[Call], first: list[Call] = [], pause: float = 0.001) -> bytes:  # noqa: B006
    """`first` once, then the calls without an end; a round that fails at its first call is followed
    by a pause (seconds), so that what is refused is asked for again and again."""
    made = _Program()
    made.code += b"\x45\x31\xed"  # xor r13d, r13d
    limits = made.place(struct.pack("<QQ", _NOFILE, _NOFILE))
    for call in (Call(NR_prlimit64, 0, _RLIMIT_NOFILE, limits, 0), *first):
        made.call(call)
    again = len(made.code)
    made.code += b"\x49\xff\xc5"  # inc r13
    made.call(calls[0])
    made.code += b"\x4d\x85\xe4\x0f\x88"  # test r12, r12; js rel32
    hole = len(made.code)
    made.code += bytes(4)
    for call in calls[1:]:
        made.call(call)
    _jump(made.code, again)
    struct.pack_into("<i", made.code, hole, len(made.code) - hole - 4)
    spec = made.place(struct.pack("<QQ", 0, int(pause * 1e9)))
    made.call(Call(NR_nanosleep, spec, 0))
    _jump(made.code, again)
    return made.elf()


def refused(calls: list[Call], first: list[Call] = [], rounds: int = 1) -> bytes:  # noqa: B006
    """`first` once, then so many rounds of the calls, until the last of them fails: the exit code
    is its errno; 0 when it never fails."""
    made = _Program()
    made.code += b"\x45\x31\xed"  # xor r13d, r13d
    for call in first:
        made.call(call)
    again = len(made.code)
    for call in calls:
        made.call(call)
    made.code += b"\x4d\x85\xe4\x78"  # test r12, r12; js rel8
    hole = len(made.code)
    made.code += b"\0"
    made.code += b"\x49\xff\xc5\x49\x81\xfd" + struct.pack("<i", rounds)  # inc r13; cmp r13
    made.code += b"\x0f\x8c" + struct.pack("<i", again - len(made.code) - 6)  # jl again
    made.code += b"\x45\x31\xe4"  # xor r12d, r12d
    made.code[hole] = len(made.code) - hole - 1
    made.call(Call(NR_exit_group, Special(b"\x4c\x89\xe0\x48\xf7\xd8")))  # mov rax, r12; neg rax
    return made.elf()


def threads() -> bytes:
    """Threads that wait for ever, as many as there may be."""
    flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000  # CLONE_VM FS FILES SIGHAND THREAD
    return _born(Call(NR_clone, flags, SCRATCH, 0, 0, 0))


def bomb() -> bytes:
    """Every child does what its parent does."""
    return loop([Call(NR_fork)], pause=0.01)


def _born(birth: Call) -> bytes:
    made = _Program()
    again = len(made.code)
    made.call(birth)
    made.code += b"\x4d\x85\xe4\x74"  # test r12, r12; jz rel8
    hole = len(made.code)
    made.code += b"\0\x78"  # js rel8
    failed = len(made.code)
    made.code += b"\0"
    _jump(made.code, again)
    made.code[failed] = len(made.code) - failed - 1
    spec = made.place(struct.pack("<QQ", 0, 10_000_000))
    made.call(Call(NR_nanosleep, spec, 0))
    _jump(made.code, again)
    made.code[hole] = len(made.code) - hole - 1
    wait = len(made.code)
    made.call(Call(NR_pause))
    _jump(made.code, wait)
    return made.elf()


def _jump(code: bytearray, target: int) -> None:
    code += b"\xe9" + struct.pack("<i", target - len(code) - 5)


def hog(mib: int) -> bytes:
    """So much memory, one page after the other written to for ever: whatever is swapped out is
    wanted again."""
    made = _Program()
    made.call(Call(9, 0, mib << 20, 3, 0x22, -1, 0))  # mmap, private and anonymous
    again = len(made.code)
    made.code += b"\x4c\x89\xe0"  # mov rax, r12
    made.code += b"\x48\xb9" + struct.pack("<Q", mib << 8)  # mov rcx, pages
    made.code += b"\xfe\x00"  # inc byte [rax]
    made.code += b"\x48\x05" + struct.pack("<I", 4096)  # add rax, 4096
    made.code += b"\xe2\xf6"  # loop back to the inc
    _jump(made.code, again)
    return made.elf()
