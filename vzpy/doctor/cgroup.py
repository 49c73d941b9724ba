"""cgroup v2: where it is, which controllers it has, whether a VPS can be born in one and killed."""

from __future__ import annotations

import os

from vzpy import cgroups
from vzpy.doctor.probe import Failed, in_child, read
from vzpy.kernel import process as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vzpy.doctor.probe import Probe

# controller: a file it brings, what is missing without it
_CONTROLLERS = {
    "memory": ("memory.max", "RAM and swap of a VPS are not limited"),
    "pids": ("pids.max", "a fork bomb in a VPS is not fenced"),
    "cpu": ("cpu.max", "CPU shares and limits are not applied"),
    "io": ("io.max", "disk bandwidth is not limited"),
    "cpuset": ("cpuset.cpus", "CPU masks are not applied"),
}
_V1 = "Boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel command line"


def _mounted() -> str:
    try:
        return cgroups.mountpoint()
    except OSError as err:
        raise Failed(err.strerror or "it is not mounted", _V1) from None


def probes() -> Iterator[Probe]:
    yield "cgroup v2", True, _mounted
    yield "cgroup made and removed", True, lambda: within(lambda path: "")
    for name in _CONTROLLERS:
        yield f"controller {name}", False, _controller(name)
    yield "born in a cgroup (clone3)", True, lambda: within(_born)
    yield "cgroup.kill", True, lambda: within(_kill)
    yield "cgroup.freeze", False, lambda: within(_freeze)


def within(act: Callable[[str], str]) -> str:
    """Call act(PATH) with a new cgroup that is removed afterwards."""
    path = f"{cgroups.mountpoint()}/vz-doctor-{os.getpid()}"
    os.mkdir(path)
    try:
        return act(path)
    finally:
        os.rmdir(path)


def _controller(name: str) -> Callable[[], str]:
    knob, without = _CONTROLLERS[name]

    def act() -> str:
        top = cgroups.mountpoint()
        if name not in read(f"{top}/cgroup.controllers").split():
            bound = {"io": "blkio"}.get(name, name) in _v1_controllers()
            why = "it is bound to cgroup v1" if bound else "this kernel or its boot options lack it"
            raise Failed(f"{why}; {without}", _V1 if bound else "")
        switch = f"{top}/cgroup.subtree_control"
        on = name in read(switch).split()
        try:
            if not on:
                _write(switch, f"+{name}")
            return within(lambda path: _has(f"{path}/{knob}"))
        finally:
            if not on:
                try:
                    _write(switch, f"-{name}")
                except OSError:
                    pass

    return act


def _v1_controllers() -> set[str]:
    """Controllers of the cgroup v1 hierarchies (cgroups(7), /proc/PID/cgroup)."""
    rows = (line.split(":") for line in read("/proc/self/cgroup").splitlines())
    return {name for row in rows if row[0] != "0" for name in row[1].split(",")}


def _has(path: str) -> str:
    if not os.path.exists(path):
        raise Failed(f"{os.path.basename(path)} does not appear in a cgroup below")
    return ""


def _born(path: str) -> str:
    def act() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        pid = p.clone3(p.CLONE_INTO_CGROUP, cgroup=fd)
        if pid == 0:
            own = read("/proc/self/cgroup").splitlines()
            os._exit(0 if any(line.endswith(os.path.basename(path)) for line in own) else 1)
        if os.waitpid(pid, 0)[1]:
            raise Failed("the new process is in another cgroup")

    return in_child(act, "Boot Linux 5.7 or newer")


def _held(path: str, act: Callable[[int], None]) -> None:
    """Call act(PID) with a sleeping process in the cgroup; it is killed and reaped."""
    pid = os.fork()
    if pid == 0:
        try:
            _write(f"{path}/cgroup.procs", "0")
            os.kill(os.getpid(), 19)
        finally:
            os._exit(0)
    if not os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]):
        raise Failed("a process cannot be moved into a cgroup")
    try:
        act(pid)
    finally:
        os.kill(pid, p.SIGKILL)
        os.waitpid(pid, 0)


def _kill(path: str) -> str:
    def act(pid: int) -> None:
        _write(f"{path}/cgroup.kill", "1")
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is None:
            raise Failed("the process lives on")

    _held(path, act)
    return ""


def _freeze(path: str) -> str:
    def act(pid: int) -> None:
        _write(f"{path}/cgroup.freeze", "1")
        _write(f"{path}/cgroup.freeze", "0")

    _held(path, act)
    return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
