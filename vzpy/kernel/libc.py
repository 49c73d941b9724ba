"""One handle on the C library, and one way to fail.

ctypes is loaded by the first call: it costs 0.5 ms, and `vzctl exec` gets by with what Python has
of system calls."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Library:
    """libc.NAME is that function, looked up when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        from vzpy.kernel.foreign import function

        found = function(name)
        setattr(self, name, found)
        return found


libc = _Library()


def oserror(path: str | bytes | None = None) -> OSError:
    """The errno of the last call through `libc`, as an exception to raise."""
    from _ctypes import get_errno

    err = get_errno()
    return OSError(err, os.strerror(err), path) if path else OSError(err, os.strerror(err))


def syscall(nr: int, *args: int | bytes | None) -> int:
    """syscall(2). Integers go as longs, bytes as pointers, None as NULL.

    Raises OSError."""
    from vzpy.kernel.foreign import c_long

    words = [c_long(a) if isinstance(a, int) else a for a in args]
    result: int = libc.syscall(c_long(nr), *words)
    if result < 0:
        raise oserror()
    return result
