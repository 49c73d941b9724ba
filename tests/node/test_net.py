"""venet0 on a wire: the node in a network namespace of its own, beside it a router that is also the
bridge, and a neighbour."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from wire import Net, ethernet, inside

import tools

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

    def switch(self, name: str, value: str) -> None:
        with self.node:
            Path(f"/proc/sys/net/{name}").write_text(value)

    def close(self) -> None:
        for net in (self.wire, self.node, self.neighbour):
            net.close()


@pytest.fixture
def lan(bed):
    made = Lan()
    with made.node:
        yield made
    made.close()


@pytest.fixture
def node(lan, make_node):
    return make_node()


def said(ran) -> list[str]:
    """Lines of the standard error, without that of the limits this machine does not apply."""
    return [x for x in ran.stderr.splitlines() if not x.startswith("Warning: not applied")]


def ping(net: Net, address: str, count: int = 2, *more: str) -> int:
    """How many of the answers came."""
    done = net.run("ping", "-n", "-c", str(count), "-i", "0.1", "-W", "1", *more, address,
                   check=False)
    return int(done.stdout.partition("transmitted, ")[2].partition(" ")[0] or 0)


def inner(vps, line: str) -> str:
    """Output of a command of the host inside the VPS's network namespace."""
    with inside(vps.facts().pid):
        return subprocess.run(line.split(), capture_output=True, text=True, check=True).stdout


def test_a_vps_is_reached_from_the_wire(lan, vps, vzctl):
    assert vzctl("set", 101, "--ipadd", V4, "--ipadd", f"{V6}/64", "--save").code == 0
    ran = vzctl("start", 101)
    assert (ran.code, said(ran)) == (0, []), ran
    assert ran.stdout.index(f"Adding IP address(es): {V4} {V6}\n") < ran.stdout.index("CPU units")
    assert f"inet {V4}/32" in inner(vps, "ip addr") and f"inet6 {V6}/64" in inner(vps, "ip addr")
    assert ping(lan.neighbour, V4) == 2 and ping(lan.neighbour, V6) == 2
    assert "proxy" in lan.node.ip("neigh show proxy")
    assert vzctl("stop", 101, "--fast").code == 0
    assert lan.node.ip("neigh show proxy") == lan.node.ip("-6 neigh show proxy") == ""
    assert V4 not in lan.node.ip("route")
    assert tools.wait_for(lambda: "v" not in lan.node.ip("-br link show type veth").replace(
        "eth0", ""), 2)
