"""Pseudoterminals (pty(7), ioctl_tty(2))."""

from __future__ import annotations

import fcntl

_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430


def pty_number(master: int) -> int:
    """Unlock the slave of a pty master and tell its number: /dev/pts/NUMBER."""
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
    return int.from_bytes(fcntl.ioctl(master, _TIOCGPTN, bytes(4)), "little")
