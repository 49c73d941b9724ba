"""The network of VPSs: the pair and its filter are made for real, in a network namespace that is
gone afterwards; what the host's own switches forbid is told, since they are its administrator's."""

from __future__ import annotations

import os

from vzpy import antispoof, venet
from vzpy.doctor.probe import Failed, probe, read
from vzpy.kernel import process
from vzpy.kernel.netlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.doctor.probe import Probe

_SWITCHES = {
    "net.ipv4.ip_forward": "VPSs reach only this node",
    "net.ipv6.conf.all.forwarding": "VPSs reach only this node by IPv6",
}


def probes() -> Iterator[Probe]:
    yield "venet, only with own addresses", False, probe(
        _venet, "Load the modules veth, sch_ingress and cls_bpf"
    )
    yield "IP forwarding", False, _forwarding


def _venet() -> None:
    process.unshare(process.CLONE_NEWNET)
    there = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with venet.Ends("venet1", 1, there) as ends:
        guard = venet.guard(1, [venet.Address.of("192.0.2.1")])
        link = ends.make(guard.programs)
        guard.close()
        with Socket() as sock:
            antispoof.dropped(sock, link.index)


def _forwarding() -> str:
    off = [name for name in _SWITCHES if _is_off(name)]
    if off:
        why = "; ".join(f"{name} is off: {_SWITCHES[name]}" for name in off)
        lines = ", ".join(f"{name} = 1" for name in off)
        raise Failed(why, f"Put {lines} into /etc/sysctl.d")
    return ""


def _is_off(name: str) -> bool:
    """A kernel without IPv6 has no switch of it."""
    path = f"/proc/sys/{name.replace('.', '/')}"
    return os.path.exists(path) and read(path) == "0"
