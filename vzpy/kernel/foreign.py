"""Functions of the C library as ctypes calls them. Loaded with the first that is called (libc.py).

By the C half of ctypes alone: its Python half costs 2.5 ms, a tenth of `vzctl set`, for types and
helpers of which the few below are all that is wanted here."""

from __future__ import annotations

import os
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, dlopen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class c_char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


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


def buffer(content: bytes) -> Any:
    """Memory with these bytes, whose address is addressof() it."""
    return (c_char * len(content)).from_buffer_copy(content)


_TYPES = {"i": c_int, "l": c_long, "L": c_ulong, "z": c_char_p, "P": c_void_p}
# By the letters of _TYPES. What is named nowhere takes what it is given, integers as int.
_ARGUMENTS = {
    "getsockopt": "iiiPP",
    "inotify_add_watch": "izi",
    "inotify_rm_watch": "ii",
    "mount": "zzzLz",
    "prctl": "iLLLL",
    "setns": "ii",
    "sethostname": "zL",
    "signalfd": "izi",
    "sigprocmask": "izP",
    "umount2": "zi",
    "unshare": "i",
}
_RESULTS = {"syscall": "l"}


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = c_int


class _Library:
    _handle = dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]


def function(name: str) -> Any:
    """Raises AttributeError where the C library has none of that name."""
    try:
        found = _Function((name, _Library))  # type: ignore[arg-type]
    except AttributeError:
        raise AttributeError(f"The C library has no {name}") from None
    if name in _ARGUMENTS:
        found.argtypes = [_TYPES[letter] for letter in _ARGUMENTS[name]]
    if name in _RESULTS:
        found.restype = _TYPES[_RESULTS[name]]
    return found
