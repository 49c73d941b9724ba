"""One handle on the C library, and one way to fail.

By the C half of ctypes alone: its Python half costs 2.5 ms, a tenth of `vzctl exec`, for types and
helpers of which the few below are all that is wanted here."""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    get_errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class c_char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class c_ushort(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "H"


class c_int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class c_long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class c_ulong(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "L"


class c_char_p(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "z"


class c_void_p(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = c_int


class _Library:
    """libc.NAME is that function, looked up when it is first asked for."""

    def __init__(self) -> None:
        self._handle = dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        try:
            found = _Function((name, self))  # type: ignore[arg-type]
        except AttributeError:
            raise AttributeError(f"The C library has no {name}") from None
        setattr(self, name, found)
        return found


libc = _Library()
libc.syscall.restype = c_long

def oserror(path: str | bytes | None = None) -> OSError:
    """The errno of the last call through `libc`, as an exception to raise."""
    err = get_errno()
    return OSError(err, os.strerror(err), path) if path else OSError(err, os.strerror(err))


def syscall(nr: int, *args: int | bytes | None) -> int:
    """syscall(2). Integers go as longs, bytes as pointers, None as NULL.

    Raises OSError."""
    words = [c_long(a) if isinstance(a, int) else a for a in args]
    result: int = libc.syscall(c_long(nr), *words)
    if result < 0:
        raise oserror()
    return result
