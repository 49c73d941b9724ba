"""The daemon's end of its socket: who may come in, how much of it is heard, who answers.

Rooms register their requests in a table: op -> function of (client, message, descriptors) that
returns the answer, or None when it sends none. Descriptors it does not take out of the list are
closed. Of each client one request is heard a turn; an answer that a client does not fetch ends the
connection. So nobody has to be waited for."""

from __future__ import annotations

import _socket
import errno
import os
import select

from vzpy.errors import VzError
from vzpy.eventd import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vzpy.eventd.loop import Loop
    from vzpy.eventd.wire import Message

    Handler = Callable[["Client", Message, list[int]], Message | None]

MAX_CLIENTS = 1024


class Client:
    """One connection."""

    def __init__(self, server: Server, sock: _socket.socket) -> None:
        self.server, self.sock = server, sock
        self.open = True
        self.at_close: list[Callable[[], None]] = []
        server.loop.watch(sock.fileno(), select.EPOLLIN, self._ready)

    def _ready(self, _: int) -> None:
        try:
            message, fds = wire.receive(self.sock)
        except BlockingIOError:
            return
        except ConnectionResetError:
            return  # it has died before it read our answer; what it had said by then comes next
        except OSError:
            self.close()
            return
        except ValueError as err:
            self.offer({"error": f"not understood: {err}", "errno": 22})
            self.close()
            return
        try:
            answer = self._answer(message, fds)
        finally:
            for fd in fds:
                os.close(fd)
        if answer is not None:
            self.tell(answer)

    def _answer(self, message: Message, fds: list[int]) -> Message | None:
        op = message.get("op")
        handler = self.server.handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            return {"error": f"no such request: {op!r}"[:200], "errno": 38}
        try:
            return handler(self, message, fds)
        except (OSError, VzError) as err:
            return {"error": str(err), "errno": err.errno or 5}
        except (ValueError, TypeError, KeyError, IndexError) as err:
            return {"error": f"bad request: {err}", "errno": 22}

    def tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send without waiting: who does not read loses the connection."""
        if not self.offer(message, fds):
            self.close()

    def offer(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send if there is room. Who has died needs no answer, but has said things before."""
        try:
            wire.send(self.sock, message, fds, _socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError:
            return False
        return True

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self.server.loop.forget(self.sock.fileno())
        self.server.clients.discard(self)
        self.sock.close()
        for call in self.at_close:
            call()
        self.server.changed()


class Server:
    """changed  is called when a client has gone"""

    def __init__(self, loop: Loop, listener: _socket.socket, changed: Callable[[], None]) -> None:
        self.loop, self.listener, self.changed = loop, listener, changed
        self.handlers: dict[str, Handler] = {}
        self.clients: set[Client] = set()
        os.set_blocking(listener.fileno(), False)
        loop.watch(listener.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, _: int) -> None:
        try:
            sock = wire.accept(self.listener)
        except OSError as err:
            if err.errno in (errno.EMFILE, errno.ENFILE):
                self._pause()
            return
        if sock and len(self.clients) < MAX_CLIENTS:
            self.clients.add(Client(self, sock))
        elif sock:
            sock.close()

    def _pause(self) -> None:
        """Out of descriptors: who waits stays "ready", and would keep us spinning."""
        self.loop.forget(self.listener.fileno())
        self.loop.after(
            1, lambda: self.loop.watch(self.listener.fileno(), select.EPOLLIN, self._accept)
        )

    def close(self) -> None:
        self.loop.forget(self.listener.fileno())
        for client in list(self.clients):
            client.close()
