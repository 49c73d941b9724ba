"""A static program that is a list of system calls, made here and run from memory.

What a task does between clone and exec is decided beforehand: all that is left is to make the
calls, one after the other, and to say which one failed. An interpreter there would have to be
copied page by page (800 page faults, 3 ms), and would stand inside a guest with the memory and the
search paths of a process of the host. This one is a loop of twenty instructions, an ELF file in a
memfd; it knows nothing, reads no file and has no memory but its list.

    code        the loop, the same for every program
    told        word, call, result: what is said when a call fails; the first call
    data        what arguments point to
    calls       number, six arguments, where the result goes, and which call is next
                if that is positive, zero, negative

What can only be known once the program runs is a second list (Later): memory that both sides have,
empty when the program starts, filled by who made it before the word is said that is waited for."""

from __future__ import annotations

import _struct as struct
import os
import sys

from vzpy.kernel import elf
from vzpy.kernel.numbers import NR
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Argument: TypeAlias = "int | bytes | Blank | Number"
    Filled: TypeAlias = dict[str, bytes]

FAILED = b"FAILED\0\0"
_LATER, _LATER_CALLS = 0x20000000, 0x20400000  # of the second list
_LATER_SIZE = 0x500000
_RESULT = elf.DATA + 16
_TOLD = 24  # bytes
# Descriptors that a program may number itself: the first for a moment, those above for longer. What
# open(2) gives it is below.
OWN = 200
_ROW = 88  # bytes of a call
_FIRST_CALL = elf.CALLS + 2 * _ROW  # after those that tell of a failure
_WORD = (1 << 64) - 1
_MSG_NOSIGNAL = 0x4000
_E2BIG = 7
_PROT_READ_WRITE, _MAP_SHARED_FIXED = 3, 0x11


@record
class Blank:
    """A string of which a part is filled in when the rest has been made (Later.write).

    length  of that part"""

    name: str
    length: int
    before: bytes = b""
    after: bytes = b""

    def __len__(self) -> int:
        return len(self.before) + self.length + len(self.after)


@record
class Number:
    """One that is filled in when the rest has been made, as an argument of a call."""

    name: str


class Calls:
    """A list of calls, and the data that they point to, for two addresses.

    step is what the next calls belong to, for what is told of them. Whatever has an address has it
    at once: data() and words() return it, and a call takes it as it takes any number."""

    def __init__(self, tell: int, data: int, calls: int) -> None:
        self.tell = tell
        self.step = ""
        self._at, self._calls_at = data, calls
        self._data = bytearray()
        self._known: dict[bytes, int] = {}  # strings that are in the data
        self._blanks: list[tuple[str, int]] = []  # and where they are in it
        self._numbers: list[tuple[str, int]] = []  # and where they are in the rows
        self._rows = bytearray()
        self._about: list[tuple[str, bytes]] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []  # where the address of a later label belongs

    def label(self, name: str) -> None:
        """The next call has that name."""
        self._labels[name] = self._here()

    def call(
        self, name: str, *arguments: Argument, result: int = -1, kept: int = _RESULT,
        positive: str = "", zero: str = "", error: str = "failed", about: bytes = b"",
    ) -> None:
        """One system call. Bytes are strings in memory that end in NUL.

        result    the argument (0 ...) of the next call that the result becomes
        kept      or an address where it is kept
        positive, zero, error
                  the label of the call that follows such a result, "" = the next one
        about     a path, for the error"""
        here = len(self._rows)
        following = self._calls_at + here + _ROW
        words = [
            x if isinstance(x, int) else self._word(x, here + 8 * at)
            for at, x in enumerate(arguments, 1)
        ]
        if result >= 0:
            kept = following + 8 * (1 + result)
        self._rows += _row(
            NR[name], *words, *_NOUGHTS[len(words) :], kept,
            self._next(positive, here + 64) if positive else following,
            self._next(zero, here + 72) if zero else following,
            self._next(error, here + 80) if error else following,
        )  # fmt: skip
        self._about.append((self.step, about))

    def _next(self, label: str, at: int) -> int:
        """The address of a label; of a later one it is written to that place of the rows."""
        if label not in self._labels:
            self._jumps.append((at, label))
        return self._labels.get(label, 0)

    def descriptor(
        self, to: int, name: str, *arguments: Argument, error: str = "failed", about: bytes = b""
    ) -> None:
        """A call that gives a descriptor, which gets the number `to` and is closed by exec."""
        self.call(name, *arguments, result=0, error=error, about=about)
        self.call("dup3", 0, to, os.O_CLOEXEC)

    def may_fail(self, name: str, *arguments: Argument) -> None:
        """A call whose failure does not matter."""
        self.call(name, *arguments, error="")

    def data(self, content: bytes | Blank) -> int:
        """The address of these bytes, with a NUL behind them, which nobody changes."""
        if isinstance(content, Blank):
            self._blanks.append((content.name, len(self._data) + len(content.before)))
            return self.room(content.before + bytes(content.length) + content.after)
        if content not in self._known:
            self._known[content] = self.room(content)
        return self._known[content]

    def room(self, content: bytes) -> int:
        """The address of a place of its own that holds these bytes at first, at a multiple of 8."""
        at = self._at + len(self._data)
        self._data += content + bytes(8 - len(content) % 8)
        return at

    def words(self, *words: int | bytes) -> int:
        """An array of 64-bit words: of pointers, or a structure that is made of such."""
        numbers = [x & _WORD if isinstance(x, int) else self.data(x) for x in words]
        return self.room(struct.pack(f"={len(numbers)}Q", *numbers))

    def _word(self, given: bytes | Blank | Number, at: int) -> int:
        """What stands for an argument that is no number, at that place of the rows."""
        if isinstance(given, Number):
            self._numbers.append((given.name, at))
            return 0
        return self.data(given)

    def pointers(self, strings: Sequence[bytes | Blank]) -> int:
        """An array of strings as execve(2) takes it."""
        return self.room(struct.pack(f"={len(strings) + 1}Q", *map(self.data, strings), 0))

    def fail(self, number: int, about: bytes = b"") -> None:
        """Tell that this call has failed with an errno, and end."""
        told = self.words(int.from_bytes(FAILED, sys.byteorder), self._here(), -number)
        self.call("sendto", self.tell, told, _TOLD, _MSG_NOSIGNAL, 0, 0, error="", about=about)
        self.call("exit_group", 1)

    def _here(self) -> int:
        return self._calls_at + len(self._rows)

    def about(self, call: int) -> tuple[str, bytes] | None:
        """Step and path of the call at an address, None when it is not of this list."""
        number = (call - self._calls_at) // _ROW
        return self._about[number] if 0 <= number < len(self._about) else None

    def take(self, made: Calls) -> None:
        """The same list as another one."""
        self._data, self._rows, self._jumps = made._data, made._rows, made._jumps
        self._about, self._labels = made._about, made._labels
        self._blanks, self._numbers = made._blanks, made._numbers

    def _finished(self, filled: Filled) -> tuple[bytearray, bytearray]:
        """Data and rows, with all that was left open. Raises OSError: E2BIG."""
        if len(self._data) > self._calls_at - self._at:
            raise OSError(_E2BIG, os.strerror(_E2BIG))
        data, rows = bytearray(self._data), bytearray(self._rows)
        for at, label in self._jumps:
            rows[at : at + 8] = self._labels[label].to_bytes(8, sys.byteorder)
        for name, at in self._numbers:
            rows[at : at + 8] = filled[name]
        for name, at in self._blanks:
            data[at : at + len(filled[name])] = filled[name]
        return data, rows


class Program(Calls):
    """tell  descriptor of a socket where a call that failed is told; then the program ends"""

    def __init__(self, tell: int) -> None:
        super().__init__(tell, elf.DATA, elf.CALLS)
        self._data += struct.pack("=8sQQQ", FAILED, 0, 0, _FIRST_CALL)
        self._later: Later | None = None
        self.label("failed")
        self.call("sendto", tell, elf.DATA, _TOLD, _MSG_NOSIGNAL, 0, 0, error="")
        self.call("exit_group", 1, error="")

    def map_later(self, fd: int) -> None:
        """The memory of the second list, by its descriptor; it is gone after exec."""
        self.call("mmap", _LATER, _LATER_SIZE, _PROT_READ_WRITE, _MAP_SHARED_FIXED, fd, 0)

    def go_on(self, name: str, *arguments: Argument) -> None:
        """The last call of this list: when its result is positive the second one is next, which has
        been written by then."""
        self._labels["later"] = _LATER_CALLS
        self.call(name, *arguments, positive="later", zero="failed")

    def second(self) -> Later:
        """The list where it goes on."""
        self._later = Later(self.tell)
        return self._later

    def failure(self, packet: bytes) -> tuple[int, str, bytes]:
        """errno, step and path of a call that has failed, from what was told (FAILED ...)."""
        address, result = struct.unpack_from("=Qq", packet, len(FAILED))
        told = self.about(address) or (self._later and self._later.about(address))
        return -result, *(told or ("", b""))

    def close(self) -> None:
        """Memory of a second list that was not written after all."""
        if self._later:
            self._later.close()

    def load(self, filled: Filled | None = None) -> int:
        """A memfd with the program, to be executed. Raises OSError: E2BIG."""
        return elf.write(*self._finished(filled or {}))

    def start(self, fds: list[int], filled: Filled | None = None) -> int:
        """Run it as a child (see elf.start()): its pid. Raises OSError."""
        file = self.load(filled)
        try:
            return elf.start(file, fds)
        finally:
            os.close(file)


class Later(Calls):
    """The second list of a program; a call that fails leads where it does in the first one.

    memory  descriptor of what both sides see, to be given to the program; closed by write()"""

    def __init__(self, tell: int) -> None:
        super().__init__(tell, _LATER, _LATER_CALLS)
        self._labels["failed"] = elf.CALLS
        self.memory = elf.memory()

    def write(self, filled: Filled) -> None:
        """filled  blanks, each of its length, and numbers (word()), by name

        Raises OSError: E2BIG."""
        data, rows = self._finished(filled)
        os.pwrite(self.memory, data, 0)
        os.pwrite(self.memory, rows, _LATER_CALLS - _LATER)
        self.close()

    def close(self) -> None:
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


def word(number: int) -> bytes:
    """What fills in a Number."""
    return number.to_bytes(8, sys.byteorder)


_NOUGHTS = (0,) * 6
_row = struct.Struct("=Q6q4Q").pack


