"""The texts of /proc/vz on an OpenVZ kernel, which monitoring parses (beancounters.md 3.1)."""

from __future__ import annotations

import os

from vzpy import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.listing import Row

_CLASS = 2  # of every VPS, the host has 0


def veinfo(node: listing.Node) -> str:
    """One line a running VPS, the host first: number, class, processes, addresses."""
    lines = [f"{0:10d} {0:5d} {_processes_of_the_host():5d}"]
    for row in running(node):
        addresses = "".join(
            f" {expanded(a):>39}" if ":" in a else f" {a:>15}" for a in row.addresses
        )
        lines.append(f"{row.ctid:10d} {_CLASS:5d} {row.count('NUMPROC')[0] or 0:5d}{addresses}")
    return "".join(f"{line}\n" for line in lines)


def veip(node: listing.Node) -> str:
    """Who has which address."""
    lines = ["Version: 2.5"]
    for row in running(node):
        lines += [f"{expanded(address):>39} {row.ctid:10d}" for address in row.addresses]
    return "".join(f"{line}\n" for line in lines)


def veth(node: listing.Node) -> str:
    """The veth devices of running VPSs: address and name inside, address and name on the host."""
    lines = ["Version: 1.0"]
    for row in running(node):
        for device in row.config.value("NETIF") or []:
            filtered = "deny" if device.get("mac_filter", "on") == "on" else "allow"
            inside, outside = device.get("mac", ""), device.get("host_mac", "")
            names = device.get("ifname", ""), device.get("host_ifname", "")
            lines.append(
                f"{inside} {names[0]:>16} {outside} {names[1]:>16} {row.ctid:10d} {filtered:>5}"
            )
    return "".join(f"{line}\n" for line in lines)


TEXTS = {"veinfo": veinfo, "veip": veip, "veth": veth}


def running(node: listing.Node) -> list[Row]:
    return listing.collect(node)[0]


def expanded(address: str) -> str:
    """An IPv6 address with all its digits, as a kernel of OpenVZ prints it; IPv4 as it is."""
    if ":" not in address:
        return address
    import _socket

    return _socket.inet_pton(_socket.AF_INET6, address).hex(":", 2)


def _processes_of_the_host() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))
