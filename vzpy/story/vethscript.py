"""What the contract's scripts do for a veth on the host, vznetcfg and vznetaddbr (config-files 9).

A start and `vzctl set` raise a veth by themselves, or call EXTERNAL_SCRIPT of vznet.conf with the
words `init veth DEVICE`; these are for that script, and for whoever called the old ones."""

from __future__ import annotations

from vzpy import config, netdevs, netnotes, state
from vzpy.errors import Exit, VzError
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import NodePaths

DEFAULT_BRIDGE = "vmbr0"
_SWITCHES = ("proxy_arp", "forwarding")


def raise_up(device: str) -> None:
    """Raises VzError 130."""
    try:
        with Socket() as sock:
            sock.send([rtnetlink.link_up(device)])
    except OSError as err:
        raise VzError.of(f"Unable to set up {device}", err, Exit.VETH) from err


def bridge_of(paths: NodePaths, ctid: int, device: str) -> str:
    """The bridge that N.conf wants a VPS's device on, vmbr0 when it names none; "" when the device
    is not that VPS's. What `set` added without --save is in the notes of the running VPS.

    Raises VzError 1 when it has no veth at all."""
    path = f"{paths.conf}/{ctid}.conf"
    netifs = config.load_global(paths.etc).vps(ctid, path).value("NETIF") or []
    for netif in netifs:
        if netif.get("host_ifname") == device:
            return netif.get("bridge") or DEFAULT_BRIDGE
    notes = netnotes.read(state.directory(paths, ctid))
    if any(note[:2] == (netnotes.LINK, device) for note in notes):
        return DEFAULT_BRIDGE
    if netifs:
        return ""
    raise VzError(f"According to {path}, CT{ctid} has no veth interface configured.", 1)


def join(device: str, bridge: str) -> None:
    """Up, on a bridge unless it is on one already, answering ARP for others and forwarding.

    Raises VzError 130."""
    try:
        with Socket() as sock:
            link = netdevs.find(sock, device)
            sock.send([rtnetlink.link_up(link.index)])
            for switch in _SWITCHES:
                with open(f"/proc/sys/net/ipv4/conf/{device}/{switch}", "w") as file:
                    file.write("1")
            if not link.master:
                sock.send([rtnetlink.link_master(link.index, netdevs.find(sock, bridge).index)])
    except OSError as err:
        raise VzError.of(f"Unable to add {device} to {bridge}", err, Exit.VETH) from err
