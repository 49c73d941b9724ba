"""Programs of ours in the kernel (bpf(2)): each is attached to a cgroup of its own and asked."""

from __future__ import annotations

import _socket
import os

from vzpy import devices, filecount, knobs, socketcount
from vzpy.doctor.cgroup import within
from vzpy.doctor.probe import Failed, in_child
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vzpy.doctor.probe import Probe

_CGROUP_BPF = "Boot a kernel with CONFIG_CGROUP_BPF"
_LSM = (
    "numfile and numflock are then only accounted. Boot a kernel with CONFIG_BPF_LSM and"
    " CONFIG_DEBUG_INFO_BTF, with bpf in the list of lsm= on its command line"
)
_NULL = devices.Rule("c", 1, 3, "none")


def probes() -> Iterator[Probe]:
    yield "BPF device program", False, lambda: within(_device)
    yield "BPF socket counters", False, lambda: within(_sockets)
    yield "BPF sysctl and sockopt programs", False, lambda: within(_knobs)
    yield "BPF LSM", False, lambda: within(_files)


def _inside(path: str, act: Callable[[], bool], todo: str) -> str:
    """Whether act() holds in a process of the cgroup."""

    def child() -> None:
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write("0")
        if not act():
            raise Failed("it is taken but does not act")

    return in_child(child, todo)


def _loaded(act: Callable[[], None], todo: str) -> None:
    try:
        act()
    except OSError as err:
        raise Failed(err.strerror or str(err), todo) from None


def _device(path: str) -> str:
    _loaded(lambda: devices.fence(path, [_NULL]), _CGROUP_BPF)
    return _inside(path, lambda: _refused(lambda: os.close(os.open("/dev/null", 0))), _CGROUP_BPF)


def _sockets(path: str) -> str:
    _loaded(lambda: socketcount.attach(path, {"NUMTCPSOCK": 0}), _CGROUP_BPF)
    return _inside(path, lambda: _refused(lambda: _socket.socket(_socket.AF_INET).close()),
                   _CGROUP_BPF)


def _knobs(path: str) -> str:
    name = "kernel/shmall"

    def load() -> None:
        knobs.keep_sysctls(path, [name])
        knobs.clamp_buffers(path, (0, 0), (0, 0))

    def write() -> None:
        fd = os.open(f"/proc/sys/{name}", os.O_RDWR)
        os.write(fd, os.read(fd, 64))

    _loaded(load, _CGROUP_BPF)
    return _inside(path, lambda: _refused(write), _CGROUP_BPF)


def _files(path: str) -> str:
    below = f"{path}/1"  # what is found out about the kernel is noted above it
    os.makedirs(f"{below}/ve")
    try:
        _loaded(lambda: filecount.attach(below, IdRange(0, 1), {"NUMFILE": 0}), _LSM)
        refused = lambda: _refused(lambda: os.close(os.open("/dev/null", 0)))  # noqa: E731
        return _inside(f"{below}/ve", refused, _LSM)
    finally:
        os.rmdir(f"{below}/ve")
        os.rmdir(below)


def _refused(act: Callable[[], None]) -> bool:
    try:
        act()
    except OSError:
        return True
    return False
