"""What /proc tells of processes and mounts (proc(5)). No system call of ours, so no ctypes: the
commands that only look, as `vzctl status`, load nothing more of the kernel than this."""

from __future__ import annotations

import os


def starttime(pid: int) -> int:
    """Field 22 of /proc/PID/stat (ticks since boot): with the pid it names one process.

    Raises OSError when there is no such process, or only its zombie."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(3, os.strerror(3), f"/proc/{pid}")
    return int(fields[19])


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def mount_points() -> list[str]:
    """All mount points, in the order of mounting (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as f:
        return [unescape(line.split(b" ", 5)[4]) for line in f]


def mounts_below(root: str) -> list[str]:
    """Mount points at or below a path, in the order of mounting."""
    root = os.path.realpath(root)
    return [x for x in mount_points() if x == root or x.startswith(root + "/")]


def unescape(field: bytes) -> str:
    r"""A field of mountinfo: \040 and the like are octal for blank, tab, newline, backslash."""
    if b"\\" in field:
        parts = field.split(b"\\")
        field = parts[0] + b"".join(bytes([int(x[:3], 8)]) + x[3:] for x in parts[1:])
    return os.fsdecode(field)


def is_mounted(root: str) -> bool:
    """VE_ROOT is a mount point."""
    try:
        here, above = os.stat(root), os.stat(os.path.join(root, ".."))
    except OSError:
        return False
    if here.st_dev != above.st_dev:
        return True
    return os.path.realpath(root) in mounts_below(root)  # a bind of the same file system
