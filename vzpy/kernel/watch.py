"""Waiting for signals and for processes of others: signalfd(2), ioctl_pidfd(2)."""

from __future__ import annotations

import fcntl
import os
import struct

from vzpy.kernel.libc import libc, oserror

_SIG_BLOCK, _SIG_SETMASK = 0, 2
_SFD_CLOEXEC, _SFD_NONBLOCK = 0o2000000, 0o4000
_SIGINFO = 128  # bytes of a signalfd_siginfo, the signal's number first

# _IOWR(0xFF, 11, struct pidfd_info), of which the first version has 64 bytes
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15


def _sigset(signals: tuple[int, ...]) -> bytes:
    return sum(1 << (sig - 1) for sig in signals).to_bytes(128, "little")


def signalfd(*signals: int) -> int:
    """Block signals and get a descriptor to read them from. No handler of Python ever runs, in
    this process or in a child between fork and exec."""
    mask = _sigset(signals)
    if libc.sigprocmask(_SIG_BLOCK, mask, None) < 0:
        raise oserror()
    fd: int = libc.signalfd(-1, mask, _SFD_CLOEXEC | _SFD_NONBLOCK)
    if fd < 0:
        raise oserror()
    return fd


def signals_of(fd: int) -> list[int]:
    """The signals that wait in a signalfd."""
    try:
        data = os.read(fd, 16 * _SIGINFO)
    except BlockingIOError:
        return []
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), _SIGINFO)]


def exit_status(pid: int, pidfd: int) -> int | None:
    """The wait status of an ended process that is not our child; None when nobody knows it.

    Its zombie has it in field 52 of /proc/PID/stat; once its parent has reaped that, the pidfd
    has it (Linux 6.15)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return int(fields[49])
    except OSError:
        pass
    info = bytearray(struct.pack("=2Q12I", _PIDFD_INFO_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    words = struct.unpack("=2Q11Ii", info)
    return words[-1] if words[0] & _PIDFD_INFO_EXIT else None
