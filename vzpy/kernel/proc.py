"""What /proc tells of processes and mounts (proc(5)). No system call of ours, so no ctypes: the
commands that only look, as `vzctl status`, load nothing more of the kernel than this."""

from __future__ import annotations

import os

_boot_id = ""


def slurp(path: str) -> bytes:
    """A whole small file, for half of what open() costs: some tools read hundreds."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 4096)
        # Files of /proc and of cgroups come in pieces of a page or less.
        while len(data) > 2048 and (more := os.read(fd, 65536)):
            data += more
        return data
    finally:
        os.close(fd)


def real(path: str) -> str:
    """os.path.realpath() of what exists, by one look instead of one for each name in it."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def starttime(pid: int) -> int:
    """Field 22 of /proc/PID/stat (ticks since boot): with the pid it names one process.

    Raises OSError when there is no such process, or only its zombie."""
    return life(pid)[0]


def life(pid: int) -> tuple[int, bool]:
    """starttime(), and whether it has executed a program since it was cloned (PF_FORKNOEXEC of
    include/linux/sched.h in field 9). Raises OSError as starttime() does."""
    fields = slurp(f"/proc/{pid}/stat").rpartition(b")")[2].split(None, 20)
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(3, os.strerror(3), f"/proc/{pid}")
    return int(fields[19]), not int(fields[6]) & _FORKNOEXEC


_FORKNOEXEC = 0x40


def parent(pid: int) -> int:
    """Field 4 of /proc/PID/stat. Raises OSError when there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[1])


def boot_id() -> str:
    """The same for as long as this kernel runs, so it is read once."""
    global _boot_id
    if not _boot_id:
        _boot_id = slurp("/proc/sys/kernel/random/boot_id").decode().strip()
    return _boot_id


def memory() -> tuple[int, int]:
    """RAM and swap of the machine in bytes: MemTotal, SwapTotal of /proc/meminfo."""
    found = {}
    for line in slurp("/proc/meminfo").split(b"\n"):
        name, _, rest = line.partition(b":")
        if name in (b"MemTotal", b"SwapTotal"):
            found[name] = int(rest.split()[0]) << 10
    return found[b"MemTotal"], found.get(b"SwapTotal", 0)


def mount_points() -> list[str]:
    """All mount points, in the order of mounting (proc_pid_mountinfo(5))."""
    rows = slurp("/proc/self/mountinfo").split(b"\n")
    return [unescape(row.split(b" ", 5)[4]) for row in rows if row]


def mounts_below(root: str) -> list[str]:
    """Mount points at or below a path, in the order of mounting."""
    root = real(root)
    return [x for x in mount_points() if x == root or x.startswith(root + "/")]


def mount_of(path: str) -> tuple[str, str]:
    """(source, type) of the file system that holds a path (proc_pid_mountinfo(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            head, _, rest = line.partition(b" - ")
            if head.split()[2] == wanted.encode():
                fstype, source = rest.split()[:2]
                return unescape(source), fstype.decode()
    return "the device", "unknown"


def mount_at(path: str) -> tuple[str, str, str]:
    """(mount point, source, options of the file system) of the mount that a path is on, the latest
    of those on one place (proc_pid_mountinfo(5))."""
    path = os.path.realpath(path)
    found = ("/", "", "")
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            head, _, rest = line.rstrip(b"\n").partition(b" - ")
            point = unescape(head.split(b" ")[4])
            below = path == point or path.startswith(point.rstrip("/") + "/")
            if below and len(point) >= len(found[0]):
                fields = rest.split(b" ")
                found = (point, unescape(fields[1]), unescape(fields[2]))
    return found


def unescape(field: bytes) -> str:
    r"""A field of mountinfo: \040 and the like are octal for blank, tab, newline, backslash."""
    if b"\\" in field:
        parts = field.split(b"\\")
        field = parts[0] + b"".join(bytes([int(x[:3], 8)]) + x[3:] for x in parts[1:])
    return os.fsdecode(field)


def is_mounted(path: str) -> bool:
    """Something is mounted there: its mount is not that of the directory above. A file system may
    have many device numbers, so those do not tell."""
    try:
        return _mount_id(path) != _mount_id(os.path.join(path, ".."))
    except OSError:
        return False


def _mount_id(path: str) -> bytes:
    """Field mnt_id of /proc/self/fdinfo (proc_pid_fdinfo(5)): mountinfo has a line for each mount
    of the machine, and is read four times as long."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return slurp(f"/proc/self/fdinfo/{fd}").partition(b"mnt_id:")[2].split(None, 1)[0]
    finally:
        os.close(fd)
