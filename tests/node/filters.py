"""Installing a filter of system calls in a task of a test, as the first task of a VPS does it
(tasks.filter_calls, tasks.broker)."""

from __future__ import annotations

import ctypes
import struct

from vzpy.kernel import libc
from vzpy.kernel.numbers import NR

_SET_MODE_FILTER, NEW_LISTENER = 1, 1 << 3
_INSTRUCTION = 8


def install(program: bytes, flags: int = 0) -> int:
    """A descriptor of what is handed over, with NEW_LISTENER."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION, ctypes.addressof(code))
    return libc.syscall(NR["seccomp"], _SET_MODE_FILTER, flags, fprog)
