"""Bandwidth of a VPS, in both directions, by token buckets on the host's side (tc-tbf(8)).

What goes to the VPS waits in the queue of the host end of its device. What comes from it has no
queue there, so it is led through a device of its own that has one (ifb). Nothing of it is within
reach of the VPS, and the programs that check its addresses see each packet first.

pyroute2 does the wiring: its import is paid by those alone who have a rate."""

from __future__ import annotations

import errno

from vzpy import netnotes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PREFIX = "vzi"  # of an ifb device, before the number of the device that it belongs to
_ROOT = 0x10000  # handle 1: of the queue
_INGRESS = 0xFFFFFFF2  # of clsact: what enters the host
_AFTER = 2  # preference: behind the check of addresses
_EVERY_PROTOCOL = 3  # ETH_P_ALL
_HANDLE = 0x80000800  # of the one filter, so that it is replaced and not doubled
_LATENCY = "50ms"  # a packet waits no longer
_LEAST_BURST = 1 << 17  # bytes; two of the largest packets that a veth carries


def total(rates: Sequence[str]) -> int:
    """Bits a second of RATE (`device:class:kbit` each), all together; 0 is no limit."""
    return sum(int(rate.rpartition(":")[2]) for rate in rates) * 1000


def host_ends(directory: str) -> list[str]:
    """The host ends of a VPS's devices, by its notes: what it has of links but our own."""
    links = [note[1] for note in netnotes.read(directory) if note[0] == netnotes.LINK]
    return [name for name in links if not name.startswith(PREFIX)]


class Shaper:
    """A netlink socket of pyroute2, as a context. Methods raise OSError with the kernel's text."""

    def __enter__(self) -> Shaper:
        from pyroute2 import IPRoute

        self.ip: Any = IPRoute()
        return self

    def __exit__(self, *_: object) -> None:
        self.ip.close()

    def detour(self, name: str) -> str:
        """The name of the ifb device that belongs to a device; "" when there is no such device."""
        index = self._index(name)
        return f"{PREFIX}{index}" if index else ""

    def limit(self, name: str, rate: int) -> None:
        """Let a device of the host carry so many bits a second in each direction, 0: any number.
        """
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            if rate:
                self._limit(self._index(name), self.detour(name), rate)
            else:
                self._unlimit(self._index(name), self.detour(name))
        except NetlinkError as err:
            raise OSError(err.code, str(err.args[1]), name) from err

    def _index(self, name: str) -> int:
        found = self.ip.link_lookup(ifname=name)
        return int(found[0]) if found else 0

    def _limit(self, index: int, detour: str, rate: int) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        if not self._index(detour):
            self.ip.link("add", ifname=detour, kind="ifb")
        through = self._index(detour)
        self.ip.link("set", index=through, state="up")
        bucket = {
            "rate": rate // 8,
            "burst": max(_LEAST_BURST, rate // 8 // 20),
            "latency": _LATENCY,
        }
        for one in (index, through):
            self.ip.tc("replace", "tbf", one, _ROOT, **bucket)
        try:
            self.ip.tc("add", "clsact", index)
        except NetlinkError as err:
            if err.code != errno.EEXIST:
                raise
        action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": through}
        self.ip.tc(
            "replace-filter", "u32", index, _HANDLE, parent=_INGRESS, prio=_AFTER,
            protocol=_EVERY_PROTOCOL, target=_ROOT + 1, keys=["0x0/0x0+0"], action=action,
        )  # fmt: skip

    def _unlimit(self, index: int, detour: str) -> None:
        """Absence is success."""
        if not self._index(detour):
            return
        self.ip.tc("del-filter", "u32", index, _HANDLE, parent=_INGRESS, prio=_AFTER,
                   protocol=_EVERY_PROTOCOL, target=_ROOT + 1, keys=[])  # fmt: skip
        self.ip.tc("del", index=index, handle=_ROOT, parent=0xFFFFFFFF)
        self.ip.link("del", ifname=detour)
