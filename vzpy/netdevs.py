"""Network devices of the host that a VPS is given as a whole: NETDEV of N.conf.

While it has them its network namespace is kept by a mount of the host, so that they can be fetched
back whatever ends the VPS: with the namespace the kernel would destroy those that are no hardware
(macvlan, vlan, dummy)."""

from __future__ import annotations

import errno
import os

from vzpy.kernel import mount, rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import Link
from vzpy.venet import socket_in

_KEPT = "netns"
_TRIES = 1000  # names for one that has lost its own


def find(sock: Socket, name: str) -> Link:
    """Raises OSError ENODEV."""
    link = rtnetlink.find_link(sock, name)
    if link is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return link


def keep(directory: str, pid: int) -> None:
    """Keep the network namespace of a process, in the VPS's directory in RUN; once. Raises
    OSError."""
    path = f"{directory}/{_KEPT}"
    if kept(directory) >= 0:
        return
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o400))
    mount.mount(f"/proc/{pid}/ns/net", path, "none", mount.MS_BIND)


def kept(directory: str) -> int:
    """Is there one: its inode number, else -1."""
    path = f"{directory}/{_KEPT}"
    try:
        known = os.stat(path)
        return known.st_ino if known.st_dev == os.stat("/proc/self/ns/net").st_dev else -1
    except OSError:
        return -1


def let_go(directory: str) -> None:
    """Absence is success. Raises OSError."""
    path = f"{directory}/{_KEPT}"
    if kept(directory) >= 0:
        mount.umount2(path, mount.MNT_DETACH)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def give(sock: Socket, name: str, directory: str) -> int:
    """Move a device of the host into the kept namespace; its index there. Raises OSError."""
    link = find(sock, name)
    netns = os.open(f"{directory}/{_KEPT}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        sock.send([rtnetlink.link_move(link.index, netns, name)])
        with socket_in(netns) as there:
            return find(there, name).index
    finally:
        os.close(netns)


def fetch(name: str, index: int, mac: bytes, directory: str) -> str:
    """Bring a device back by its old name, whatever it is called in the kept namespace; by dev0,
    dev1 ... when there is another one of that name by now. The name it has; "" when it is not
    there: never moved, or destroyed by the VPS.

    index  its number there; 0 when that was not noted, and it still has its name
    Raises OSError."""
    if kept(directory) < 0:
        return ""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netns = os.open(f"{directory}/{_KEPT}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with socket_in(netns) as there:
            link = rtnetlink.find_link(there, index or name)
            if link is None:
                return ""
            there.send([rtnetlink.link_up(link.index, False)])
            if link.address != mac:
                there.send([rtnetlink.link_address(link.index, mac)], (errno.EOPNOTSUPP,))
            for free in (name, *(f"dev{number}" for number in range(_TRIES))):
                try:
                    there.send([rtnetlink.link_move(link.index, ours, free)])
                    return free
                except OSError as err:
                    if err.errno != errno.EEXIST:
                        raise
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    finally:
        os.close(netns)
        os.close(ours)
