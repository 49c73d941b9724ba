"""Throw-away networks: the node under test in a network namespace of its own, other machines in
others, and one Ethernet between them.

    Net()                a network namespace; `with net:` is inside it, run() runs a command there
    ethernet(a=net, ..)  joins namespaces: eth0 in each, on one bridge in a namespace of its own
    Lan()                a node and a neighbour on one Ethernet"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

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


V4, V6 = "192.0.2.101", "2001:db8::101"


class Lan:
    """node and neighbour on one Ethernet, both with addresses of 192.0.2.0/24, 2001:db8::/64."""

    def __init__(self) -> None:
        self.wire, self.node, self.neighbour = Net(), Net(), Net()
        ethernet(self.wire, node=self.node, other=self.neighbour)
        self.uplink(self.node, 1)
        self.uplink(self.neighbour, 2)
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.switch(switch, "1")

    def uplink(self, net: Net, number: int) -> None:
        net.ip(f"addr add 192.0.2.{number}/24 dev eth0")
        net.ip(f"addr add 2001:db8::{number}/64 dev eth0 nodad")

    def mac(self, machine: str) -> str:
        """Hardware address of eth0."""
        return getattr(self, machine).ip("-br link show dev eth0").split()[2]

    def switch(self, name: str, value: str) -> None:
        with self.node:
            Path(f"/proc/sys/net/{name}").write_text(value)

    def close(self) -> None:
        for net in (self.wire, self.node, self.neighbour):
            net.close()


def ping(net: Net, address: str, count: int = 2, *more: str) -> int:
    """How many of the answers came."""
    done = net.run("ping", "-n", "-c", str(count), "-i", "0.1", "-W", "1", *more, address,
                   check=False)
    return int(done.stdout.partition("transmitted, ")[2].partition(" ")[0] or 0)


def inner(vps, line: str) -> str:
    """Output of a command of the host inside the VPS's network namespace."""
    with inside(vps.facts().pid):
        return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout
