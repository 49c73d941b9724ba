"""Which VPS a process of the host belongs to, and what it is called inside (proc_pid_status(5))."""

from __future__ import annotations

from vzpy.record import record


@record
class Process:
    """inner is its pid as the VPS sees it; on the host itself it is the pid, and ctid 0."""

    pid: int
    inner: int
    ctid: int
    name: str


def find(cgroup: str, pid: int) -> Process | None:
    """A process by its pid; None when there is none. cgroup: NodePaths.cgroup of the node."""
    try:
        with open(f"/proc/{pid}/cgroup", errors="replace") as file:
            ctid = _ctid(file.read(), cgroup)
        with open(f"/proc/{pid}/status", errors="replace") as file:
            status = dict(line.rstrip("\n").partition(":\t")[::2] for line in file)
    except OSError:
        return None
    pids = status.get("NSpid", "").split()
    inner = int(pids[1]) if ctid and len(pids) > 1 else pid
    return Process(pid, inner, ctid, status.get("Name", ""))


def _ctid(text: str, cgroup: str) -> int:
    """The N of `0::[/ABOVE]/CGROUP/N/...`, the line of cgroup v2 in /proc/PID/cgroup; else 0."""
    for line in text.splitlines():
        if line.startswith("0::"):
            number = f"{line}/".partition(f"/{cgroup}/")[2].partition("/")[0]
            if number.isdigit():
                return int(number)
    return 0
