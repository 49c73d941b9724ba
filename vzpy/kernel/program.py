"""A static program that is a list of system calls, made here and run from memory.

What a task does between clone and exec is decided beforehand: all that is left is to make the
calls, one after the other, and to say which one failed. An interpreter there would have to be
copied page by page (800 page faults, 3 ms), and would stand inside a guest with the memory and the
search paths of a process of the host. This one is a loop of twenty instructions, an ELF file in a
memfd; it knows nothing, reads no file and has no memory but its list.

    code        the loop, the same for every program
    told        word, call, result: what is said when a call fails
    calls       number, six arguments, where the result goes, and which call is next
                if that is positive, zero, negative
    data        what arguments point to"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _struct as struct
import errno
import os

from vzpy.kernel.numbers import NR
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Word: TypeAlias = int | bytes | "Place"

FAILED = b"FAILED\0\0"
_CODE, _DATA = 0x10000000, 0x10010000  # addresses; 64 KiB are the largest pages there are
_HEAD = 64 + 56 * 2  # bytes of the ELF header and of its two segments
_ROW = 88  # bytes of a call
_CALLS, _TOLD_RESULT = _DATA + 32, _DATA + 16
_WORD = (1 << 64) - 1
_MSG_NOSIGNAL = 0x4000
_MFD_CLOEXEC, _MFD_EXEC = 1, 16

# The loop: `told` at _DATA in one register, the address of the call in another.
_X86_64 = (
    "4c8d2d49ff0000"  # lea told(%rip), %r13
    "4d8b6518"  #       mov 24(%r13), %r12
    "498b0424"  #  1:   mov (%r12), %rax
    "498b7c2408"  #     mov 8(%r12), %rdi
    "498b742410"  #     mov 16(%r12), %rsi
    "498b542418"  #     mov 24(%r12), %rdx
    "4d8b542420"  #     mov 32(%r12), %r10
    "4d8b442428"  #     mov 40(%r12), %r8
    "4d8b4c2430"  #     mov 48(%r12), %r9
    "0f05"  #           syscall
    "4d896508"  #       mov %r12, 8(%r13)
    "49894510"  #       mov %rax, 16(%r13)
    "498b4c2438"  #     mov 56(%r12), %rcx
    "488901"  #         mov %rax, (%rcx)
    "498b4c2440"  #     mov 64(%r12), %rcx
    "4885c0"  #         test %rax, %rax
    "490f444c2448"  #   cmovz 72(%r12), %rcx
    "490f484c2450"  #   cmovs 80(%r12), %rcx
    "4989cc"  #         mov %rcx, %r12
    "ebb3"  #           jmp 1b
)
_AARCH64 = (
    "94fa0710"  #       adr x20, told
    "930e40f9"  #       ldr x19, [x20, #24]
    "680240f9"  #  1:   ldr x8, [x19]
    "608640a9"  #       ldp x0, x1, [x19, #8]
    "628e41a9"  #       ldp x2, x3, [x19, #24]
    "649642a9"  #       ldp x4, x5, [x19, #40]
    "010000d4"  #       svc #0
    "938200a9"  #       stp x19, x0, [x20, #8]
    "691e40f9"  #       ldr x9, [x19, #56]
    "200100f9"  #       str x0, [x9]
    "692240f9"  #       ldr x9, [x19, #64]
    "6aae44a9"  #       ldp x10, x11, [x19, #72]
    "1f0000f1"  #       cmp x0, #0
    "4901899a"  #       csel x9, x10, x9, eq
    "73b1899a"  #       csel x19, x11, x9, lt
    "f3ffff17"  #       b 1b
)
_RISCV64 = (
    "97090100938909f5"  # la s3, told
    "03b98901"  #       ld s2, 24(s3)
    "83380900"  #  1:   ld a7, 0(s2)
    "03358900"  #       ld a0, 8(s2)
    "83350901"  #       ld a1, 16(s2)
    "03368901"  #       ld a2, 24(s2)
    "83360902"  #       ld a3, 32(s2)
    "03378902"  #       ld a4, 40(s2)
    "83370903"  #       ld a5, 48(s2)
    "73000000"  #       ecall
    "23b42901"  #       sd s2, 8(s3)
    "23b8a900"  #       sd a0, 16(s3)
    "83328903"  #       ld t0, 56(s2)
    "23b0a200"  #       sd a0, 0(t0)
    "93020900"  #       mv t0, s2
    "03b90205"  #       ld s2, 80(t0)
    "e34405fc"  #       bltz a0, 1b
    "03b98204"  #       ld s2, 72(t0)
    "e30005fc"  #       beqz a0, 1b
    "03b90204"  #       ld s2, 64(t0)
    "6ff09ffb"  #       j 1b
)
_MACHINES = {
    # e_machine of elf(5), the loop
    "x86_64": (62, _X86_64),
    "aarch64": (183, _AARCH64),
    "riscv64": (243, _RISCV64),
}


@record
class Place:
    """Something in the data of a program; as an argument, its address."""

    offset: int


class Program:
    """tell  descriptor of a socket where a call that failed is told; then the program ends with 1

    step is what the next calls belong to, for what is told of them."""

    def __init__(self, tell: int) -> None:
        self.step = ""
        self._tell = tell
        self._data = bytearray()
        self._pointers: list[tuple[int, Place]] = []  # words of the data that are addresses
        self._calls: list[Call] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """The next call has that name."""
        self._labels[name] = len(self._calls)

    def call(
        self, name: str, *arguments: Word, result: Place | int | None = None,
        positive: str = "", zero: str = "", error: str = "failed", about: bytes = b"",
    ) -> None:
        """One system call. Bytes are strings in memory that end in NUL.

        result    where it is kept: a place, or the number of an argument of the next call
        positive, zero, error
                  the label of the call that follows such a result, "" = the next one
        about     a path, for the error"""
        words = tuple([self.data(x) if isinstance(x, bytes) else x for x in arguments])
        next_ = (positive, zero, error)
        self._calls.append(Call(NR[name], words, result, next_, self.step, about))

    def may_fail(self, name: str, *arguments: Word) -> None:
        """A call whose failure does not matter."""
        self.call(name, *arguments, error="")

    def data(self, content: bytes) -> Place:
        """Bytes and a NUL behind them, at a multiple of 8."""
        at = len(self._data)
        self._data += content + bytes(8 - len(content) % 8)
        return Place(at)

    def words(self, *words: Word) -> Place:
        """An array of 64-bit words: of pointers, or a structure that is made of such."""
        items = [self.data(x) if isinstance(x, bytes) else x for x in words]
        at = len(self._data)
        for number, item in enumerate(items):
            if isinstance(item, Place):
                self._pointers.append((at + 8 * number, item))
        numbers = (0 if isinstance(item, Place) else item & _WORD for item in items)
        self._data += struct.pack(f"={len(items)}Q", *numbers)
        return Place(at)

    def pointers(self, strings: list[bytes]) -> Place:
        """An array of strings as execve(2) takes it."""
        return self.words(*strings, 0)

    def failure(self, packet: bytes) -> tuple[int, str, bytes]:
        """errno, step and path of a call that has failed, from what was told (FAILED ...)."""
        address, result = struct.unpack_from("=Qq", packet, len(FAILED))
        failed = self._calls[(address - _CALLS) // _ROW]
        return -result, failed.step, failed.about

    def build(self) -> bytes:
        """told, calls and data, as they are in memory; nothing can be added afterwards."""
        self.label("failed")
        self.call("sendto", self._tell, _DATA, 24, _MSG_NOSIGNAL, 0, 0, error="")
        self.call("exit_group", 1)
        data = _CALLS + _ROW * len(self._calls)
        for at, place in self._pointers:
            self._data[at : at + 8] = (data + place.offset).to_bytes(8, "little")
        rows = (call.row(at, data, self._labels) for at, call in enumerate(self._calls))
        told = struct.pack("=8sQQQ", FAILED, 0, 0, _CALLS)
        return b"".join((told, *rows, self._data))

    def start(self, keep: list[int], name: str) -> int:
        """Run it as a child, with all signals blocked: its pid.

        keep  descriptors that it has under the same numbers; posix_spawn(3) makes them inheritable
        From any thread: nothing is forked. Raises OSError."""
        file = self.load()
        try:
            return os.posix_spawn(
                f"/proc/self/fd/{file}", [name], {},
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep],
                setsigmask=_signal.valid_signals(),
            )
        finally:
            os.close(file)

    def load(self) -> int:
        """A memfd with the program, to be executed. Raises OSError."""
        machine, loop = _MACHINES[os.uname().machine]
        data = self.build()
        fd = _memfd()
        try:
            os.pwrite(fd, _head(machine, len(loop) // 2, len(data)) + bytes.fromhex(loop), 0)
            os.pwrite(fd, data, _DATA - _CODE)
        except BaseException:
            os.close(fd)
            raise
        return fd


@record
class Call:
    """See Program.call()."""

    number: int
    arguments: tuple[int | Place, ...]
    result: Place | int | None
    next: tuple[str, str, str]
    step: str
    about: bytes

    def row(self, at: int, data: int, labels: dict[str, int]) -> bytes:
        """As the loop reads it: the call number `at`, with the data at that address."""
        following = _CALLS + _ROW * (at + 1)
        words = [data + x.offset if isinstance(x, Place) else x & _WORD for x in self.arguments]
        result = self.result
        if isinstance(result, Place):
            kept = data + result.offset
        else:
            kept = _TOLD_RESULT if result is None else following + 8 * (1 + result)
        nexts = (_CALLS + _ROW * labels[x] if x else following for x in self.next)
        return struct.pack("=11Q", self.number, *words, *[0] * (6 - len(words)), kept, *nexts)


def _memfd() -> int:
    try:
        return os.memfd_create("vz", _MFD_CLOEXEC | _MFD_EXEC)
    except OSError as err:
        if err.errno != errno.EINVAL:  # before Linux 6.3 every memfd could be executed
            raise
        return os.memfd_create("vz", _MFD_CLOEXEC)


def _head(machine: int, code: int, data: int) -> bytes:
    """The ELF header and the two segments (elf(5)): code to read and execute, the rest to read and
    write."""
    page = _DATA - _CODE
    header = struct.pack(
        "=16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, _CODE + _HEAD, 64, 0, 0,
        64, 56, 2, 0, 0, 0,
    )
    segments = (
        struct.pack("=IIQQQQQQ", 1, flags, at - _CODE, at, at, size, size, page)
        for flags, at, size in ((5, _CODE, _HEAD + code), (6, _DATA, data))
    )
    return header + b"".join(segments)
