"""The daemon's side of vz-fdkeep: what it holds, given again to a new one when it has died."""

from __future__ import annotations

import _socket
import os
import select

from vzpy.eventd import summon, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.eventd.loop import Loop
    from vzpy.eventd.wire import Message
    from vzpy.model import NodePaths

_TIMEOUT = 2.0  # seconds, only where the daemon starts
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 60.0  # between attempts to have a living one


class Keeper:
    def __init__(self, loop: Loop, paths: NodePaths, log: Callable[[str], None]) -> None:
        self.loop, self.paths, self.log = loop, paths, log
        self.path = f"{paths.run}/{summon.FDKEEP}"
        self.held: dict[str, int] = {}  # descriptors of their owners, not ours to close
        self._sock: _socket.socket | None = None
        self._pause = _FIRST_PAUSE

    def fetch(self) -> dict[str, int]:
        """All that a predecessor of ours has stored: copies, by name."""
        found: dict[str, int] = {}
        try:
            sock = summon.connect(self.path)
        except OSError:
            return found
        sock.settimeout(_TIMEOUT)
        name = ""
        try:
            while True:
                wire.send(sock, {"op": "next", "name": name})
                message, fds = wire.receive(sock)
                if "name" not in message:
                    break
                name = wire.text(message, "name")
                found[name] = fds[0]
        except (OSError, ValueError) as err:
            self.log(f"vz-fdkeep does not answer: {err}")
        sock.close()
        return found

    def store(self, name: str, fd: int) -> None:
        self.held[name] = fd
        if self._sock:
            self._tell({"op": "store", "name": name}, [fd])
        else:
            self._connect()

    def drop(self, name: str) -> None:
        self.held.pop(name, None)
        if self._sock:
            self._tell({"op": "drop", "name": name})

    def close(self) -> None:
        """It goes on with what it holds, or ends when that is nothing."""
        if self._sock:
            self._sock.close()

    def _connect(self) -> None:
        try:
            sock = summon.connect_or_start("vz-fdkeep", self.path, self.paths)
        except OSError as err:
            self.log(f"Cannot start vz-fdkeep: {err}: consoles end with vzeventd")
            self._again()
            return
        self._sock = sock
        os.set_blocking(sock.fileno(), False)
        self.loop.watch(sock.fileno(), select.EPOLLIN, self._lost)
        for name, fd in self.held.items():
            self._tell({"op": "store", "name": name}, [fd])

    def _tell(self, message: Message, fds: tuple[int, ...] | list[int] = ()) -> None:
        """Not waited for: one that is stopped by a debugger must not stop us."""
        if self._sock:
            try:
                wire.send(self._sock, message, fds, _socket.MSG_DONTWAIT)
            except OSError:
                pass  # its death is told by the socket

    def _lost(self, _: int) -> None:
        if self._sock:
            self.loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._again()

    def _again(self) -> None:
        if self.held:
            self.loop.after(self._pause, self._reconnect)
            self._pause = min(self._pause * 2, _LAST_PAUSE)

    def _reconnect(self) -> None:
        if self.held and not self._sock:
            self._connect()
