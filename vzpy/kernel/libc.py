"""One handle on the C library, one way to fail, and the numbers of system calls glibc may lack."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# Calls added since Linux 5.1 have the same number on every architecture.
NR_pidfd_send_signal = 424
NR_open_tree = 428
NR_move_mount = 429
NR_fsopen = 430
NR_fsconfig = 431
NR_fsmount = 432
NR_clone3 = 435
NR_close_range = 436
NR_openat2 = 437
NR_mount_setattr = 442

_OLDER = {
    #             pivot_root seccomp keyctl ioprio_set capset bpf quotactl rt_sigtimedwait
    "x86_64": (155, 317, 250, 251, 126, 321, 179, 128),
    "aarch64": (41, 277, 219, 30, 91, 280, 60, 137),
    "riscv64": (41, 277, 219, 30, 91, 280, 60, 137),
    "ppc64le": (203, 358, 271, 273, 184, 361, 131, 176),
    "s390x": (217, 348, 280, 282, 185, 351, 131, 177),
}
(
    NR_pivot_root,
    NR_seccomp,
    NR_keyctl,
    NR_ioprio_set,
    NR_capset,
    NR_bpf,
    NR_quotactl,
    NR_rt_sigtimedwait,
) = _OLDER.get(os.uname().machine, (-1,) * 8)


def oserror(path: str | bytes | None = None) -> OSError:
    """The errno of the last call through `libc`, as an exception to raise."""
    err = ctypes.get_errno()
    return OSError(err, os.strerror(err), path) if path else OSError(err, os.strerror(err))


def syscall(nr: int, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """syscall(2). Integers go as longs, bytes as pointers, None as NULL.

    Raises OSError."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = libc.syscall(ctypes.c_long(nr), *words)
    if result < 0:
        raise oserror()
    return result
