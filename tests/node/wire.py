"""Throw-away networks: the node under test in a network namespace of its own, other machines in
others, and one Ethernet between them.

    Net()                a network namespace; `with net:` is inside it, run() runs a command there
    ethernet(a=net, ..)  joins namespaces: eth0 in each, on one bridge in a namespace of its own"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

from vzpy.kernel import process


class Net:
    """A network namespace that lives as long as this object."""

    def __init__(self) -> None:
        ours = _current()
        try:
            process.unshare(process.CLONE_NEWNET)
            self.fd = _current()
            ip("link set lo up")
        finally:
            process.setns(ours, process.CLONE_NEWNET)
            os.close(ours)
        self._back: list[int] = []

    def __enter__(self) -> Net:
        """The calling thread is inside; what it starts as well."""
        self._back.append(_current())
        process.setns(self.fd, process.CLONE_NEWNET)
        return self

    def __exit__(self, *_: object) -> None:
        back = self._back.pop()
        process.setns(back, process.CLONE_NEWNET)
        os.close(back)

    def run(self, *words: str, check: bool = True, **kw) -> subprocess.CompletedProcess[str]:
        with self:
            done = subprocess.run(words, text=True, capture_output=True, **kw)
        assert not check or done.returncode == 0, f"{words}: {done}"
        return done

    def ip(self, line: str) -> str:
        return self.run("ip", *line.split()).stdout

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def inside(pid: int):
    """The calling thread is in the network namespace of a process."""
    ours = _current()
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        process.setns(there, process.CLONE_NEWNET)
        yield
    finally:
        process.setns(ours, process.CLONE_NEWNET)
        os.close(ours)
        os.close(there)


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def ethernet(wire: Net, **machines: Net) -> None:
    """Bridge br0 in `wire`, and eth0 in each machine, up, without addresses."""
    wire.ip("link add br0 type bridge")
    wire.ip("link set br0 up")
    for name, net in machines.items():
        number = f"/proc/{os.getpid()}/fd/{net.fd}"
        wire.ip(f"link add {name} type veth peer name eth0 netns {number}")
        wire.ip(f"link set {name} master br0 up")
        net.ip("link set eth0 up")


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
