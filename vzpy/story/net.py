"""The network of a VPS: wired from outside before its init runs, changed while it runs, taken back
when it ends. What of the host it uses is noted first (netnotes.py)."""

from __future__ import annotations

import errno
import os

from vzpy import netnotes, state, venet
from vzpy.errors import Exit, VzError
from vzpy.events import AddingIp, DeletingAllIp, DeletingIp, Warned, silent
from vzpy.fault import fault
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import IFF_UP, Link
from vzpy.story import netbirth, networds
from vzpy.venet import Address, Ends, Neighbourhood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vzpy import dad
    from vzpy.eventd.wire import Message
    from vzpy.events import Report
    from vzpy.model import Facts, NodePaths
    from vzpy.story.live import Change
    from vzpy.story.netbirth import Prepared
    from vzpy.vps import VPS

KEYS = ("IP_ADDRESS", "NETIF", "NETDEV")
STEPS = ("net-note", "net-venet", "net-address", "net-answer", "net-probe")


def wire(
    vps: VPS,
    facts: Facts,
    report: Report,
    prepared: Prepared | None = None,
    tell: Callable[[Message], bool] | None = None,
) -> None:
    """Give a VPS that has its namespaces, and no init yet, its network; unwire() is the undo.

    tell  vzeventd something, if there is one
    Raises VzError: 34, 71, 78, 104, 130."""
    prepared = prepared or netbirth.Prepared(vps)
    try:
        if prepared.addresses:
            with _ends(vps, facts, prepared.host) as ends:
                _Giving(vps, ends, report, prepared=prepared, tell=tell).give(prepared.addresses)
    finally:
        prepared.close()
    if vps.config.own("NETIF") or vps.config.own("NETDEV"):
        from vzpy.story import netdevices

        netdevices.wire(vps, facts, report)


def unwire(paths: NodePaths, ctid: int, report: Report = silent) -> None:
    """Take back what of the host a VPS's network used. Idempotent; the VPS need not be there.

    Raises VzError 34, 104."""
    directory = state.directory(paths, ctid)
    notes = netnotes.read(directory)
    if not notes:
        return
    from vzpy import traffic

    try:
        with Socket() as sock:
            carried = traffic.of_devices(sock, directory)
            venet.answer_no_more(sock, [
                (Address.of(note[1]).packed, note[2]) for note in notes if note[0] == netnotes.PROXY
            ])
            for note in notes:
                if note[0] == netnotes.LINK:
                    venet.remove_link(sock, note[1])
    except OSError as err:
        raise VzError.of("Unable to take the network back", err, Exit.CANT_ADDIP) from err
    if any(note[0] == netnotes.DEVICE for note in notes):
        from vzpy.story import netdevices

        netdevices.fetch_all(directory, notes, report)
    traffic.keep(paths.state, ctid, carried)  # killed before it is lost, not counted twice
    netnotes.forget(directory)


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 34, 71, 78, 104, 130."""
    if "IP_ADDRESS" in change.keys:
        _readdress(change, report)
        if rates := change.after.value("RATE"):  # the device may be a new one
            from vzpy.story import shape

            shape.apply(change.vps.node.paths, change.vps.ctid, rates)
    if "NETIF" in change.keys or "NETDEV" in change.keys:
        from vzpy.story import netdevices

        try:
            netdevices.live(change, report)
        except BaseException:
            if "IP_ADDRESS" in change.keys:
                _readdress(change.back(), silent)
            raise
    return []


def _ends(vps: VPS, facts: Facts, host: Socket | None = None) -> Ends:
    name = venet.host_end(vps.node.paths.cgroup, vps.ctid)
    netns = -1
    try:
        netns = os.open(f"/proc/{facts.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return Ends(name, vps.ctid, netns, host)
    except OSError as err:  # it has ended this moment
        if netns >= 0:
            os.close(netns)
        raise VzError.of("Unable to reach its network", err, Exit.CANT_ADDIP) from err


# Addresses


def _readdress(change: Change, report: Report) -> None:
    """Take away what is to go, give what is new; the rest is not touched."""
    vps = change.vps
    with _ends(vps, change.facts) as ends:
        gone, new = _difference(change, ends, report)
        skip_arpdetect = "skip_arpdetect" in change.given
        giving = _Giving(vps, ends, report, skip_arpdetect, gone) if new else None
        if gone:
            event = DeletingAllIp if "all" in change.given.get("ipdel", ()) else DeletingIp
            report(event(addresses=" ".join(map(str, gone))))
            _take(vps, ends, gone)
        if giving:
            report(AddingIp(addresses=" ".join(map(str, new))))
            networds.tell_forwarding([str(a) for a in new], report)
            try:
                giving.give(new)
            except BaseException:
                _take(vps, ends, [a for a in new if a not in giving.had])
                if gone:
                    giving.carry_out(gone)
                raise


def _difference(
    change: Change, ends: Ends, report: Report
) -> tuple[list[Address], list[Address]]:
    """The addresses to take away and those to give.

    By the options, since what a `set` without --save gave is in no file; by the files when a
    change is taken back. All of them when there is no device: the VPS may remove it."""
    before = netbirth.addresses(change.before, silent)
    after = netbirth.addresses(change.after, report)
    has = _given(change.vps)
    if not change.given:
        return [a for a in before if a not in after], [a for a in after if a not in before]
    ipdel = change.given.get("ipdel", ())
    asked = {Address.of(text).packed for text in change.given.get("ipadd", ())}
    add = [a for a in after if a.packed in asked]
    gone = [a for a in has if "all" in ipdel or str(a) in {d.partition("/")[0] for d in ipdel}]
    gone += [a for a in has if a.packed in asked and a not in add and a not in gone]
    if ends.link is None:
        add += [a for a in has if a not in gone and a not in add]
    return gone, add


def _given(vps: VPS) -> list[Address]:
    """The addresses that a running VPS has."""
    notes = netnotes.read(state.directory(vps.node.paths, vps.ctid))
    return [Address.of(note[1]) for note in notes if note[0] == netnotes.ADDRESS]


def _take(vps: VPS, ends: Ends, addresses: Sequence[Address]) -> None:
    """Take addresses away from everywhere; absence is success. Raises VzError 34."""
    from vzpy import antispoof

    directory = state.directory(vps.node.paths, vps.ctid)
    texts = {str(a) for a in addresses}
    notes = [n for n in netnotes.read(directory) if n[0] == netnotes.PROXY and n[1] in texts]
    try:
        venet.answer_no_more(ends.host, [(Address.of(n[1]).packed, n[2]) for n in notes])
        link = ends.link
        if link:
            ends.remove(link, addresses)
            antispoof.forbid(ends.host, link.index, [a.packed for a in addresses])
    except OSError as err:
        raise VzError.of("Unable to delete IP", err, Exit.CANT_ADDIP) from err
    netnotes.remove(directory, [*notes, *((netnotes.ADDRESS, a.masked) for a in addresses)])


class _Giving:
    """Addresses on their way to a VPS: looked at, given, answered for, and whether somebody else
    has them. The neighbours are asked while all else is done.

    gone      what it still has, and will not have by then
    prepared  by a start"""

    def __init__(
        self,
        vps: VPS,
        ends: Ends,
        report: Report,
        skip_arpdetect: bool = False,
        gone: Sequence[Address] = (),
        prepared: Prepared | None = None,
        tell: Callable[[Message], bool] | None = None,
    ) -> None:
        self.vps, self.ends, self.report, self.tell = vps, ends, report, tell
        self.config = vps.node.config
        self.directory = state.directory(vps.node.paths, vps.ctid)
        # What a start has noted is nothing that the VPS has yet.
        self.had = [] if prepared else [a for a in _given(vps) if a not in gone]
        self.prepared, self.made = prepared, False
        try:
            self.made = bool(prepared and prepared.has_pair())
            self.around = prepared.around if prepared else Neighbourhood.look(ends.host)
        except OSError as err:
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err
        self.ask = not skip_arpdetect and self.config.raw("SKIP_ARPDETECT") != "yes"

    def give(self, addresses: Sequence[Address]) -> None:
        """Raises VzError 34, 71, 78."""
        for address in addresses:
            self._check(address)
        at = self._devices(addresses)
        try:
            if self.ask:
                self._ask_around(addresses, at)
            else:
                self.carry_out(addresses)
                fault("net-probe")
        except OSError as err:
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err
        self._announce(at)

    def _ask_around(self, addresses: Sequence[Address], at: dict[bytes, list[Link]]) -> None:
        from vzpy import dad

        probe = dad.Probe(at, self.around.macs)
        try:
            self.carry_out(addresses)
            fault("net-probe")
            self._judge(probe.owners())
        finally:
            probe.close()

    def _check(self, address: Address) -> None:
        if address.packed in self.around.own:
            raise _in_use(str(address))
        if address.packed in self.around.broadcasts:
            raise VzError(
                f"Unable to add IP {address}: it is the broadcast address of a network of the node",
                Exit.BADIP,
            )

    def _devices(self, addresses: Sequence[Address]) -> dict[bytes, list[Link]]:
        mode = self.config.raw("NEIGHBOUR_DEVS") or "all"
        try:
            return venet.answering(self.ends.host, self.around, mode, addresses)
        except LookupError as err:
            raise VzError(
                f"Unable to add IP: NEIGHBOUR_DEVS names {err.args[0]}, which is no network device",
                Exit.CANT_ADDIP,
                hint=f"Correct it in {self.vps.node.paths.etc}/vz.conf.",
            ) from err

    def carry_out(self, addresses: Sequence[Address]) -> None:
        """Note, let pass, route, give inside, answer for. Raises VzError 34, 78."""
        ends, at = self.ends, self._devices(addresses)
        if not (self.prepared and self.prepared.is_noted()):
            netbirth.note(self.vps, addresses)
        try:
            fault("net-venet")
            link = None if self.made else ends.link
            new = link is None or not link.flags & IFF_UP
            if link:
                from vzpy import antispoof

                # Perhaps half there, of a command that was killed.
                ends.remove(link, [a for a in addresses if a not in self.had])
                antispoof.allow(ends.host, link.index, [a.packed for a in addresses])
            else:
                link = self._make(addresses)
            fault("net-address")
            replace = addresses if self.config.raw("FORCE_ROUTE") == "yes" else self.had
            ends.add(link, addresses, self._source(), replace, new)
            # Only now: an address that another VPS has is answered for on its behalf.
            netnotes.add(self.directory, [
                (netnotes.PROXY, rtnetlink.text(a), link.name) for a in at for link in at[a]
            ])
            fault("net-answer")
            venet.answer_for(ends.host, at)
        except OSError as err:
            what = err.filename or ""
            if err.errno == errno.EEXIST and what.startswith("route add "):
                raise _in_use(what.removeprefix("route add ")) from err
            raise VzError.of("Unable to add IP", err, Exit.CANT_ADDIP) from err

    def _make(self, addresses: Sequence[Address]) -> Link:
        if self.prepared:
            return self.ends.make(self.prepared.programs, self.made)
        guard = venet.guard(self.vps.ctid, addresses)
        try:
            return self.ends.make(guard.programs)
        finally:
            guard.close()

    def _source(self) -> dict[int, bytes]:
        """The host's address in routes to VPSs: that of VE_ROUTE_SRC_DEV, by address length."""
        name = self.config.raw("VE_ROUTE_SRC_DEV")
        link = rtnetlink.find_link(self.ends.host, name) if name else None
        if link is None:
            return {}
        mine = [a for a, index in self.around.own.items() if index == link.index]
        return {len(a): a for a in reversed(mine) if a[:2] != b"\xfe\x80" and a[0] != 127}

    def _announce(self, at: dict[bytes, list[Link]]) -> None:
        """By the daemon where there is one, since it takes its time."""
        texts = " ".join(rtnetlink.text(address) for address in at)
        message: Message = {"op": "announce", "ctid": self.vps.ctid, "addresses": texts}
        if not (self.tell or self._tell)(message):
            from vzpy import dad

            by = dad.Announcer()
            venet.announce(by, self.around, at)
            by.close()

    def _tell(self, message: Message) -> bool:
        from vzpy.eventd import client

        return client.tell(self.vps.node.paths, message)

    def _judge(self, owners: Sequence[dad.Owner]) -> None:
        """Tell of others who have an address; ERROR_ON_ARPFAIL makes it an error."""
        for owner in owners:
            text = (
                f"{rtnetlink.text(owner.address)} is detected on another computer:"
                f" {owner.mac.hex(':')} on {owner.device}"
            )
            if self.config.raw("ERROR_ON_ARPFAIL") == "yes":
                raise VzError(f"vps-net_add ERROR: {text}", Exit.CANT_ADDIP)
            self.report(Warned(text=f"vps-net_add WARNING: {text}"))


def _in_use(address: str) -> VzError:
    return VzError(f"Unable to add IP {address}: Address already in use", Exit.IP_INUSE)
