"""Loading a seccomp filter from its compiled bytes (seccomp(2))."""

from __future__ import annotations

from _ctypes import Structure

from vzpy.kernel.libc import NR_seccomp, c_char_p, c_ushort, syscall

SECCOMP_SET_MODE_FILTER = 1
_INSTRUCTION = 8


class _SockFprog(Structure):
    _fields_ = (("len", c_ushort), ("filter", c_char_p))


def load(program: bytes) -> None:
    """Install a BPF program for the calling task and its children; needs CAP_SYS_ADMIN in its
    user namespace, so that no_new_privs can stay off and setuid programs work."""
    prog = _SockFprog(len(program) // _INSTRUCTION, program)
    syscall(NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, bytes(prog))
