"""The host answers for its VPSs on its own network devices (venet.py), and the kernel forgets that
when such a device goes down, the permanent entries as well. They are put back when it comes up.

All that is known is in the notes of the VPSs that run; nothing is kept here but which devices are
up. rtnetlink(7) tells of their changes."""

from __future__ import annotations

import errno
import select

from vzpy import dad, netnotes, state, venet
from vzpy.eventd import wire
from vzpy.kernel import rtnetlink
from vzpy.kernel.netlink import Socket
from vzpy.kernel.rtnetlink import IFF_UP, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message


class Neighbours:
    """Of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._ears = Socket(groups=rtnetlink.RTMGRP_LINK)
        rtnetlink.hear_of_neighbourly(self._ears)
        self._up: set[int] = set()
        self._announcer: dad.Announcer | None = None
        daemon.loop.watch(self._ears.fileno(), select.EPOLLIN, self._hear)
        daemon.server.handlers["announce"] = self.announce
        self._look()

    def announce(self, client: Client, message: Message, fds: list[int]) -> None:
        """Tell the neighbours about new addresses of a VPS (dad.Announcer); nobody waits for an
        answer."""
        wanted = wire.text(message, "addresses").split()
        directory = state.directory(self.daemon.paths, wire.number(message, "ctid"))
        at: dict[bytes, list[Link]] = {}
        with Socket() as sock:
            for kind, *rest in netnotes.read(directory):
                if kind != netnotes.PROXY or rest[0] not in wanted:
                    continue
                if link := rtnetlink.find_link(sock, rest[1]):
                    at.setdefault(venet.Address.of(rest[0]).packed, []).append(link)
            around = venet.Neighbourhood.look(sock)
        self._announcer = self._announcer or dad.Announcer()
        venet.announce(self._announcer, around, at)

    def _look(self) -> None:
        """At all devices: at the beginning, and when something may have been missed."""
        with Socket() as sock:
            up = [link for link in rtnetlink.links(sock) if link.flags & IFF_UP]
        self._up = {link.index for link in up}
        self._put_back({link.name: link for link in up})

    def _hear(self, _: int) -> None:
        try:
            heard = self._ears.heard()
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
            self._look()  # more changes than the kernel keeps for us
            return
        risen = {}
        for kind, body in heard:
            link = Link.of(body)
            if kind == rtnetlink.RTM_DELLINK or not link.flags & IFF_UP:
                self._up.discard(link.index)
            elif link.index not in self._up:
                self._up.add(link.index)
                risen[link.name] = link
        if risen:
            self._put_back(risen)

    def _put_back(self, links: dict[str, Link]) -> None:
        at: dict[bytes, list[Link]] = {}
        paths = self.daemon.paths
        for ctid in state.running_ids(paths):
            for note in netnotes.read(state.directory(paths, ctid)):
                if note[0] == netnotes.PROXY and note[2] in links:
                    address = venet.Address.of(note[1]).packed
                    at.setdefault(address, []).append(links[note[2]])
        if not at:
            return
        try:
            with Socket() as sock:
                venet.answer_for(sock, at)
        except OSError as err:
            self.daemon.log(f"Cannot answer for addresses of containers: {err}", level=-1)
