"""The other network devices of a VPS: veth pairs on bridges (NETIF) and devices of the host that
move in (NETDEV); at start, on the running VPS, and at the end."""

from __future__ import annotations

import os
from contextlib import ExitStack

from vzpy import config, netdevs, netnotes, scripts, state, venet, veth
from vzpy.errors import Exit, VzError
from vzpy.events import ConfiguringVeth, DeletingVeth, Warned
from vzpy.fault import fault
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.live import Change
    from vzpy.veth import Netif
    from vzpy.vps import VPS

STEPS = ("net-veth", "net-veth-up", "net-keep", "net-move", "net-moved")


def wire(vps: VPS, facts: Facts, report: Report) -> None:
    """All of a VPS that is about to start; what fails is undone by net.unwire().

    Raises VzError 104, 130."""
    with _Devices(vps, facts) as devices:
        if netifs := vps.config.value("NETIF"):
            report(ConfiguringVeth(names=" ".join(n["ifname"] for n in netifs)))
            for netif in netifs:
                devices.make_veth(netif)
        for name in vps.config.value("NETDEV") or []:
            devices.give(name)


def live(change: Change, report: Report) -> None:
    """Change them on a running VPS; when something fails what was done is taken back.

    Raises VzError 104, 130."""
    with _Devices(change.vps, change.facts) as devices, ExitStack() as undo:
        _change_veths(change, devices, report, undo.callback)
        _change_netdevs(change, devices, report, undo.callback)
        undo.pop_all()


def _change_veths(
    change: Change, devices: _Devices, report: Report, undo: Callable[..., object]
) -> None:
    before = {n["ifname"]: n for n in change.before.value("NETIF") or []}
    after = {n["ifname"]: n for n in change.after.value("NETIF") or []}
    has = devices.veths()
    given = change.given
    deleted = given.get("netif_del", ())
    touched = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    touched |= {name for name in has if "all" in deleted or name in deleted}
    gone = [name for name in has if name in touched and name not in after]
    new = [netif for name, netif in after.items() if name in touched or name not in has]
    if given and not any(o in given for o in ("netif_add", "netif_del", "ifname")):
        return
    for netif in new:
        devices.check_veth(netif, has.get(netif["ifname"], ""))
    if gone:
        report(DeletingVeth(names=" ".join(gone)))
    for name in gone:
        devices.remove_veth(has[name])
        if name in before:
            undo(devices.make_veth, before[name])
    if new:
        report(ConfiguringVeth(names=" ".join(n["ifname"] for n in new)))
    for netif in new:
        name = netif["ifname"]
        if name in has:
            if name in before:
                undo(devices.alter_veth, netif["host_ifname"], before[name])
            devices.alter_veth(has[name], netif)
        else:
            undo(devices.remove_veth, netif["host_ifname"])
            devices.make_veth(netif)


def _change_netdevs(
    change: Change, devices: _Devices, report: Report, undo: Callable[..., object]
) -> None:
    has = devices.given()
    if change.given:
        gone = [name for name in change.given.get("netdev_del", ()) if name in has]
        new = [name for name in change.given.get("netdev_add", ()) if name not in has]
    else:
        before, after = (c.value("NETDEV") or [] for c in (change.before, change.after))
        gone = [name for name in before if name not in after and name in has]
        new = [name for name in after if name not in before and name not in has]
    for name in new:
        devices.check_netdev(name)
    for name in gone:
        devices.fetch([name], report)
        undo(devices.give, name)
    for name in new:
        undo(devices.fetch, [name], report)
        devices.give(name)


class _Devices:
    """Those of one VPS, on the host and in its network namespace."""

    def __init__(self, vps: VPS, facts: Facts) -> None:
        self.vps, self.facts = vps, facts
        self.directory = state.directory(vps.node.paths, vps.ctid)
        self.netns = os.open(f"/proc/{facts.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.host, self.guest = Socket(), venet.socket_in(self.netns)

    def __enter__(self) -> _Devices:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()
        self.guest.close()
        os.close(self.netns)

    # veth

    def veths(self) -> dict[str, str]:
        """Name inside -> name on the host, of those that are there: the VPS may remove its end, and
        a change that failed leaves notes of two names."""
        return {
            note[2]: note[1]
            for note in netnotes.read(self.directory)
            if note[0] == netnotes.LINK and note[2] != venet.DEVICE
            and rtnetlink.find_link(self.host, note[1])
        }

    def check_veth(self, netif: Netif, has: str = "") -> None:
        try:
            veth.check(self.host, netif, has)
        except OSError as err:
            raise _failed_veth(netif, err) from err

    def make_veth(self, netif: Netif) -> None:
        self.check_veth(netif)
        netnotes.add(self.directory, [(netnotes.LINK, netif["host_ifname"], netif["ifname"])])
        try:
            fault("net-veth")
            veth.make(self.host, netif, self.netns)
            self._raise(netif)
        except OSError as err:
            raise _failed_veth(netif, err) from err

    def alter_veth(self, name: str, netif: Netif) -> None:
        """name  the one it has on the host now"""
        netnotes.add(self.directory, [(netnotes.LINK, netif["host_ifname"], netif["ifname"])])
        try:
            fault("net-veth")
            veth.alter(self.host, self.guest, name, netif)
            self._raise(netif)
        except OSError as err:
            raise _failed_veth(netif, err) from err
        if name != netif["host_ifname"]:
            netnotes.remove(self.directory, [(netnotes.LINK, name, netif["ifname"])])

    def remove_veth(self, name: str) -> None:
        venet.remove_link(self.host, name)
        notes = [n for n in netnotes.read(self.directory) if n[:2] == (netnotes.LINK, name)]
        netnotes.remove(self.directory, notes)

    def _raise(self, netif: Netif) -> None:
        """Up it goes, or what EXTERNAL_SCRIPT of vznet.conf makes of it."""
        fault("net-veth-up")
        paths = self.vps.node.paths
        script = external_script(paths.etc)
        if not script:
            veth.raise_up(self.host, netif)
        elif why := scripts.execute(
            script, paths, self.vps.ctid, "init", "veth", netif["host_ifname"]
        ):
            raise VzError(f"Error executing {script}", Exit.VETH, hint=f"{script}: {why}")

    # devices of the host

    def given(self) -> list[str]:
        return [n[1] for n in netnotes.read(self.directory) if n[0] == netnotes.DEVICE]

    def check_netdev(self, name: str) -> None:
        try:
            netdevs.find(self.host, name)
        except OSError as err:
            raise _failed_netdev("add", name, err) from err

    def give(self, name: str) -> None:
        """Move a device in. Raises VzError 104."""
        try:
            mac = netdevs.find(self.host, name).address.hex() or "0"
            fault("net-keep")
            netdevs.keep(self.directory, self.facts.pid)
            note = (netnotes.DEVICE, name, "0", mac)
            netnotes.add(self.directory, [note])
            fault("net-move")
            index = netdevs.give(self.host, name, self.directory)
            fault("net-moved")
        except OSError as err:
            raise _failed_netdev("add", name, err) from err
        netnotes.remove(self.directory, [note])
        netnotes.add(self.directory, [(netnotes.DEVICE, name, str(index), mac)])

    def fetch(self, names: Iterable[str], report: Report) -> None:
        """Bring devices back. Raises VzError 104."""
        wanted = set(names)
        notes = netnotes.read(self.directory)
        gone = [n for n in notes if n[0] == netnotes.DEVICE and n[1] in wanted]
        for note in gone:
            _fetch(note, self.directory, report)
        netnotes.remove(self.directory, gone)
        if not self.given():
            netdevs.let_go(self.directory)


def fetch_all(directory: str, notes: Iterable[tuple[str, ...]], report: Report) -> None:
    """What an ended VPS had of the host comes back, one whatever becomes of the others. Hardware
    that does not is brought back by the kernel, when nothing keeps its namespace any more.

    Raises VzError 104 of the last that does not."""
    with ExitStack() as all_of:
        all_of.callback(netdevs.let_go, directory)
        for note in notes:
            if note[0] == netnotes.DEVICE:
                all_of.callback(_fetch, note, directory, report)


def _fetch(note: tuple[str, ...], directory: str, report: Report) -> None:
    _, name, index, mac = note
    address = bytes.fromhex(mac) if mac != "0" else b""
    try:
        found = netdevs.fetch(name, int(index), address, directory)
    except OSError as err:
        raise _failed_netdev("delete", name, err) from err
    if found not in ("", name):
        report(Warned(
            text=f"Warning: network device {name} came back as {found}: there is another {name} now"
        ))


def external_script(etc: str) -> str:
    """EXTERNAL_SCRIPT of vznet.conf, where it can be executed; "" without one."""
    path = f"{etc}/vznet.conf"
    try:
        with open(path, errors="surrogateescape") as file:
            layer = config.Layer(path, file.read())
    except OSError:
        return ""
    script = layer.entries.get("EXTERNAL_SCRIPT", ("", 0))[0]
    return script if os.access(script, os.X_OK) else ""


def _failed_veth(netif: Netif, err: OSError) -> VzError:
    return VzError.of(f"Unable to create veth {netif['ifname']}", err, Exit.VETH)


def _failed_netdev(verb: str, name: str, err: OSError) -> VzError:
    return VzError.of(f"Unable to {verb} network device {name}", err, Exit.NETDEV)
