"""Ethernet devices of a VPS on a bridge of the host (veth(4)): NETIF of N.conf.

Inside, the device is the VPS's to set up; outside it is up, and a port of the bridge named. With
mac_filter, which is on unless switched off, only the own hardware address passes."""

from __future__ import annotations

import errno
import os

from vzpy import antispoof
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Netif = Mapping[str, str]  # fields of words.NETIF_FIELDS


def check(sock: Socket, netif: Netif, has: str = "") -> None:
    """What can be known before something is changed.

    has  the name on the host that the device has already
    Raises OSError: ENODEV without the bridge, EEXIST where the name on the host is taken."""
    if netif.get("bridge") and rtnetlink.find_link(sock, netif["bridge"]) is None:
        raise OSError(errno.ENODEV, "no such bridge", netif["bridge"])
    name = netif["host_ifname"]
    if name != has and rtnetlink.find_link(sock, name):
        raise OSError(errno.EEXIST, "there is such a network device already", name)


def make(sock: Socket, netif: Netif, netns: int) -> None:
    """A new pair, still down on the host.

    netns  descriptor of the VPS's network namespace
    Raises OSError."""
    sock.send([rtnetlink.veth_add(
        netif["host_ifname"], _mac(netif["host_mac"]), netif["ifname"], _mac(netif["mac"]), netns
    )])
    link = _find(sock, netif["host_ifname"])
    _guard(sock, link, netif)
    _join(sock, link, netif)


def alter(sock: Socket, guest: Socket, name: str, netif: Netif) -> None:
    """Make the pair whose end is called `name` on the host, or already as asked, what is asked;
    down afterwards there.

    guest  a socket in the VPS's network namespace
    Raises OSError."""
    link = rtnetlink.find_link(sock, name) or _find(sock, netif["host_ifname"])
    sock.send([
        rtnetlink.link_up(link.index, False),
        rtnetlink.link_rename(link.index, netif["host_ifname"]),
        rtnetlink.link_address(link.index, _mac(netif["host_mac"])),
    ])
    guest.send([rtnetlink.link_address(link.peer, _mac(netif["mac"]))])
    antispoof.detach(sock, link.index)
    _guard(sock, link, netif)
    _join(sock, link, netif)


def raise_up(sock: Socket, netif: Netif) -> None:
    sock.send([rtnetlink.link_up(netif["host_ifname"])])


def _guard(sock: Socket, link: Link, netif: Netif) -> None:
    if netif.get("mac_filter") != "off":
        antispoof.attach_bridged(sock, link.index, _mac(netif["mac"]))


def _join(sock: Socket, link: Link, netif: Netif) -> None:
    bridge = _find(sock, netif["bridge"]).index if netif.get("bridge") else 0
    if not (bridge or link.master):
        return
    try:
        sock.send([rtnetlink.link_master(link.index, bridge)])
    except OSError as err:
        if err.errno == errno.EOPNOTSUPP:
            raise OSError(err.errno, "it is no bridge", netif["bridge"]) from err
        raise


def _find(sock: Socket, name: str) -> Link:
    link = rtnetlink.find_link(sock, name)
    if link is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return link


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
