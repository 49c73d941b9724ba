"""Filters that hand system calls over, and answering those (seccomp(2), seccomp_unotify(2))."""

from __future__ import annotations

import _struct as struct
import fcntl
import os

from vzpy.record import record

_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
# linux/audit.h; of a 32-bit personality nothing is handed over.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_LD_ABS, _JEQ, _RET = 0x20, 0x15, 0x06


def handover(numbers: tuple[int, ...]) -> bytes:
    """A program that hands these native calls to a listener and allows all others."""
    arch = _AUDIT_ARCH.get(os.uname().machine, 0)
    steps = [(_LD_ABS, 0, 0, 4), (_JEQ, 0, len(numbers) + 1, arch), (_LD_ABS, 0, 0, 0)]
    for index, number in enumerate(numbers):
        steps.append((_JEQ, len(numbers) - index, 0, number))
    steps += [(_RET, 0, 0, _RET_ALLOW), (_RET, 0, 0, _RET_USER_NOTIF)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@record
class Notification:
    """A call that waits for its answer; pid is the thread that made it."""

    id: int
    pid: int
    nr: int
    args: tuple[int, ...]


def receive(listener: int) -> Notification:
    """Waits for the next call. Raises OSError: ENOENT, its caller was killed meanwhile."""
    data = bytearray(_NOTIF.size)
    fcntl.ioctl(listener, _NOTIF_RECV, data)
    cookie, pid, _, nr, _, _, *args = _NOTIF.unpack(data)
    return Notification(cookie, pid, nr, tuple(args))


def is_waiting(listener: int, cookie: int) -> bool:
    """The caller still waits, so its pid is still its own."""
    try:
        fcntl.ioctl(listener, _NOTIF_ID_VALID, struct.pack("=Q", cookie))
    except OSError:
        return False
    return True


def respond(listener: int, cookie: int, errno: int = 0) -> None:
    """The call returns 0, or -1 with errno. A caller that has gone is success."""
    try:
        fcntl.ioctl(listener, _NOTIF_SEND, struct.pack("=QqiI", cookie, 0, -errno, 0))
    except FileNotFoundError:
        pass
