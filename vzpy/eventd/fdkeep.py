"""vz-fdkeep: holds descriptors by name, so that consoles outlive vzeventd.

    {op: store, name} + fd     in place of the one of that name
    {op: next, name}           -> {name} + fd of the first name after it; {} when there is none
    {op: drop, name}
    {op: end}                  drop everything and end

Started by vzeventd, with its listening socket as standard input. It ends when it holds nothing
and nobody is connected."""

from __future__ import annotations

import _socket
import os
import resource
import select
import sys

from vzpy.eventd import wire


class Store:
    def __init__(self, listener: _socket.socket) -> None:
        self.listener = listener
        self.held: dict[str, int] = {}
        self.clients: dict[int, _socket.socket] = {}

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.listener.fileno():
                    if new := wire.accept(self.listener):
                        self.clients[new.fileno()] = new
                        poll.register(new.fileno(), select.POLLIN)
                elif not self.hear(self.clients[fd]):
                    poll.unregister(fd)
                    self.clients.pop(fd).close()
                    if not self.held and not self.clients:
                        return

    def hear(self, sock: _socket.socket) -> bool:
        """Serve one request; False when its client has gone, or talks rubbish."""
        try:
            message, fds = wire.receive(sock)
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False
        try:
            return self.serve(sock, message, fds)
        except (OSError, ValueError):
            return False
        finally:
            for fd in fds:
                os.close(fd)

    def serve(self, sock: _socket.socket, message: wire.Message, fds: list[int]) -> bool:
        op = message.get("op")
        if op == "end":
            self.held.clear()
            os._exit(0)
        name = wire.text(message, "name")
        if op == "next":
            after = min((n for n in self.held if n > name), default=None)
            if after is None:
                wire.send(sock, {"end": 1})
            else:
                wire.send(sock, {"name": after}, [self.held[after]])
        elif op in ("store", "drop"):
            if (old := self.held.pop(name, None)) is not None:
                os.close(old)
            if op == "store" and fds:
                self.held[name] = fds.pop()
        return True


def main(argv: list[str]) -> int:
    if argv != ["--listening"]:
        print("vz-fdkeep is started by vzeventd.", file=sys.stderr)
        return 20
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = _socket.socket(fileno=0)
    listener.setblocking(False)
    Store(listener).run()
    return 0
