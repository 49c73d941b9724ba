"""The cgroup v2 tree of a VPS: make, limit, read, freeze, kill, remove (cgroups(7)).

vz/N       limits, owned by the host's root
vz/N/ve    root of the VPS's cgroup namespace, delegated to the VPS's root
vz/N/ve/.vz-X   where an exec is born: inside the delegated tree, so that pam_systemd and
                systemd-run of the VPS may move it; X is random, since a guest sees it

Two levels, because who delegates and who is delegated to both claim a cgroup's files."""

from __future__ import annotations

import os
import select
import time

from vzpy.cgroupwalk import below
from vzpy.cgroupwalk import tasks as tasks
from vzpy.kernel.proc import slurp
from vzpy.model import NO_LIMIT, IdRange, Limits

CONTROLLERS = ("cpu", "memory", "pids", "io", "cpuset")
# Files a delegatee may write, where /sys/kernel/cgroup/delegate does not say (before Linux 4.15).
_DELEGATE = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")

# cgroups that a VPS may make: systemd needs some hundreds, and every look at a VPS walks them all.
_DESCENDANTS = 10000
_LEAF_YOUTH = 120  # seconds, above any time that a launch may take

_mountpoint: str | None = None
_delegate: tuple[str, ...] | None = None
_left: dict[str, str] = {}  # cgroup of a node -> its cgroup.subtree_control


def mountpoint() -> str:
    """Where cgroup2 is mounted, found in /proc/self/mountinfo.

    Raises OSError ENOENT when it is not."""
    global _mountpoint
    if _mountpoint is None or not os.path.exists(f"{_mountpoint}/cgroup.controllers"):
        rows = slurp("/proc/self/mountinfo").decode(errors="surrogateescape").split("\n")
        points = [row.split(" ")[4] for row in rows if " - cgroup2 " in row]
        if not points:
            raise FileNotFoundError(2, "No cgroup2; mount -t cgroup2 none /sys/fs/cgroup")
        _mountpoint = points[0]
    return _mountpoint


def path_of(node: str, ctid: int) -> str:
    """The cgroup vz/N of a node's VPS, as an absolute path."""
    return f"{mountpoint()}/{node}/{ctid}"


def make(path: str, ids: IdRange) -> None:
    """vz/N and vz/N/ve, with every controller at hand passed down to both. Existing is success."""
    node = os.path.dirname(path)
    passed = _passed_by(node)
    for directory in (path, f"{path}/ve"):
        mkdir(directory)
    if passed:
        enable(path)
    write(f"{path}/ve", "cgroup.max.descendants", str(_DESCENDANTS))
    delegate(f"{path}/ve", ids)


def _passed_by(node: str) -> str:
    """What a node's cgroup passes down to its VPSs, made to pass all that there is; as it was left
    by the last start in this process, nobody looks for more."""
    try:
        if (passed := read(node, "cgroup.subtree_control")) == _left.get(node):
            return passed
    except FileNotFoundError:
        mkdir(node)
    enable(os.path.dirname(node))
    enable(node)
    _left[node] = read(node, "cgroup.subtree_control")
    return _left[node]


def mkdir(path: str) -> None:
    """Existing is success. Whatever our umask: kernels (6.1 does) walk down to the root of a cgroup
    namespace with the rights of who mounts cgroup2 in it."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, 0o755)


def enable(path: str) -> None:
    """Pass the controllers on to the children, one write each: one that is busy stops no other."""
    have = set(read(path, "cgroup.controllers").split())
    missing = have.intersection(CONTROLLERS) - set(read(path, "cgroup.subtree_control").split())
    for controller in sorted(missing):
        try:
            write(path, "cgroup.subtree_control", f"+{controller}")
        except OSError:
            pass  # told by limit(), when something was asked of it


def delegate(path: str, ids: IdRange) -> None:
    """Hand a cgroup to the root of a VPS: the directory and the files the kernel lists."""
    global _delegate
    if _delegate is None:
        try:
            _delegate = tuple(slurp("/sys/kernel/cgroup/delegate").decode().split())
        except OSError:
            _delegate = _DELEGATE
    os.chown(path, ids.base, ids.base)
    for name in _delegate:
        try:
            os.chown(f"{path}/{name}", ids.base, ids.base)
        except FileNotFoundError:
            pass  # of a controller that is not at hand here


def limit(path: str, limits: Limits) -> list[str]:
    """Write the limits of vz/N; returns the fields that this node cannot apply."""
    refused = []
    for field, names in _KNOBS.items():
        value = getattr(limits, field)
        if value is not None and not sum(_write_limit(path, name, value) for name in names):
            refused.append(field)
    return refused


# Field -> the files it goes to. io.weight is there with iocost, io.bfq.weight with bfq, or neither.
_KNOBS = {
    "memory_min": ("memory.min",),
    "memory_low": ("memory.low",),
    "memory_high": ("memory.high",),
    "memory_max": ("memory.max",),
    "swap_max": ("memory.swap.max",),
    "pids_max": ("pids.max",),
    "cpu_weight": ("cpu.weight",),
    "cpu_max": ("cpu.max",),
    "io_weight": ("io.bfq.weight", "io.weight"),
}


def _write_limit(path: str, name: str, value: int) -> bool:
    text = "max" if value == NO_LIMIT else str(value)
    if name == "cpu.max":
        text += " 100000"
    try:
        write(path, name, text)
    except OSError:
        return False
    return True


def lower_memory(path: str, limits: Limits) -> int:
    """Bring the use of vz/N below a lower memory.max, by reclaim, before that is written: written
    at once it would have processes killed. memory.high stands meanwhile at its new value, so that
    what is freed is not used up again.

    Returns 0, or the bytes that are in use when that is more than was asked; memory.high is then
    as before."""
    asked = limits.memory_max
    if asked is None or asked == NO_LIMIT:
        return 0
    try:
        used, old = int(read(path, "memory.current")), read(path, "memory.high")
    except OSError:
        return 0  # told by limit()
    if used <= asked:
        return 0
    for _ in range(_RECLAIMS):
        try:
            write(path, "memory.reclaim", str(used - asked))
        except OSError:
            pass  # EAGAIN: not all of it; before Linux 5.19 there is no such file
        if (used := int(read(path, "memory.current"))) <= asked:
            break
    if used > asked:
        write(path, "memory.high", str(limits.memory_high))
        if (used := int(read(path, "memory.current"))) > asked:
            write(path, "memory.high", old.strip())
            return used
    return 0


_RECLAIMS = 5


def leaf(path: str, ids: IdRange) -> str:
    """A new delegated cgroup below vz/N/ve for one exec."""
    return _new_leaf(f"{path}/ve", ids)


def _new_leaf(where: str, ids: IdRange) -> str:
    made = f"{where}/.vz-{os.urandom(6).hex()}"
    mkdir(made)
    delegate(made, ids)
    return made


_SPARE = 8  # tasks


def leaf_beside(path: str, ids: IdRange) -> str:
    """The same beside vz/N/ve, for an exec into a VPS that has all the tasks, files or cgroups it
    may have, and would have any more as soon as there were any. Its limit of tasks is moved to
    vz/N/ve, and vz/N gets a few more; remove_leaf() takes that back."""
    try:
        limit = read(path, "pids.max").strip()
        if read(f"{path}/ve", "pids.max").strip() == "max" and limit != "max":
            write(f"{path}/ve", "pids.max", limit)
            write(path, "pids.max", str(int(limit) + _SPARE))
    except FileNotFoundError:
        pass  # nobody counts tasks here
    return _new_leaf(path, ids)


def _without_spare(path: str) -> None:
    """The limit of vz/N as it was, once nothing runs beside vz/N/ve; unless somebody has set
    another meanwhile."""
    with os.scandir(path) as entries:
        if any(entry.name.startswith(".vz-") for entry in entries):
            return
    limit = read(f"{path}/ve", "pids.max").strip()
    if limit != "max":
        if read(path, "pids.max").strip() == str(int(limit) + _SPARE):
            write(path, "pids.max", limit)
        write(f"{path}/ve", "pids.max", "max")


def sweep(path: str) -> None:
    """Remove exec's leaves in which nothing runs any more; not a young one, which may be of an
    exec that has yet to be born."""
    old = time.time() - _LEAF_YOUTH
    try:
        with os.scandir(f"{path}/ve") as entries:
            leaves = [x.path for x in entries if x.name.startswith(".vz-")]
        for leaf in leaves:
            if os.stat(leaf).st_mtime < old:
                remove_leaf(leaf)
    except OSError:
        pass  # another exec swept it


def remove_leaf(path: str) -> bool:
    """rmdir() of a leaf; what it counted is kept."""
    from vzpy.cgroupread import note_leaf

    above = os.path.dirname(path)
    if os.path.basename(above) == "ve":
        note_leaf(os.path.dirname(above), path)
        return rmdir(path)
    note_leaf(above, path)
    done = rmdir(path)
    try:
        _without_spare(above)
    except OSError:
        pass  # the VPS has ended
    return done


def rmdir(path: str) -> bool:
    """Remove one cgroup; False while it is in use."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def read(path: str, name: str) -> str:
    return slurp(f"{path}/{name}").decode()


def write(path: str, name: str, text: str) -> None:
    fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as err:
        raise OSError(err.errno, err.strerror, f"{path}/{name}") from None
    finally:
        os.close(fd)


def events(path: str) -> dict[str, int]:
    """cgroup.events: populated, frozen."""
    pairs = (line.split() for line in read(path, "cgroup.events").splitlines())
    return {name: int(value) for name, value in pairs}


def populated(path: str) -> bool:
    """Some process lives in the subtree; False when there is none, or no such cgroup."""
    try:
        return bool(events(path)["populated"])
    except OSError:
        return False


def await_event(path: str, name: str, value: int, timeout: float) -> bool:
    """Wait until cgroup.events says so; the kernel wakes us by POLLPRI. False after the timeout."""
    end = time.monotonic() + timeout
    try:
        fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return value == 0
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        wanted = f"{name} {value}\n".encode()
        while wanted not in os.pread(fd, 256, 0):
            left = end - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 1) * 1000)
        return True
    except OSError:
        return value == 0  # removed under us: nothing lives in it
    finally:
        os.close(fd)


def freeze(path: str, on: bool, timeout: float = 10) -> bool:
    """cgroup.freeze of the whole VPS; True when every task stands still (or moves again)."""
    write(path, "cgroup.freeze", "1" if on else "0")
    return await_event(path, "frozen", int(on), timeout)


_NO_IO_MAX = "rbps=max wbps=max riops=max wiops=max"


def kill(path: str) -> None:
    """SIGKILL to the whole subtree at once (cgroup.kill, Linux 5.14). Absence is success.

    Without limits of I/O from now on: who waits for a disk does not hear the signal."""
    try:
        for line in read(path, "io.max").splitlines():
            write(path, "io.max", f"{line.split()[0]} {_NO_IO_MAX}")
    except OSError:
        pass  # nobody limits I/O here
    try:
        write(path, "cgroup.kill", "1")
    except FileNotFoundError:
        pass


def remove(path: str, timeout: float = 5) -> None:
    """Kill what is left and remove the subtree, leaves first. Absence is success.

    Raises OSError EBUSY when tasks do not die in time (uninterruptible sleep)."""
    end = time.monotonic() + timeout
    while True:
        if populated(path):
            kill(path)
            await_event(path, "populated", 0, max(end - time.monotonic(), 0))
        gone = [rmdir(directory) for directory, _ in reversed(below(path))]
        if not os.path.exists(path):
            return
        if time.monotonic() > end:
            raise OSError(16, os.strerror(16), path)
        if not all(gone):
            time.sleep(0.005)


