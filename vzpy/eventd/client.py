"""The way to vzeventd for tools and the library: connect, starting it where nobody listens."""

from __future__ import annotations

import _socket
import os
import select

import vzpy
from vzpy.eventd import summon, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.eventd.wire import Message
    from vzpy.model import NodePaths

_TIMEOUT = 5.0  # seconds for an answer
_TRIES = 3
_HELLO: Message = {"op": "hello"}


class Daemon:
    """A connection to a daemon that answers."""

    def __init__(self, sock: _socket.socket, pid: int) -> None:
        self.sock, self.pid = sock, pid
        self._calling = False  # hello has been said and not been answered yet

    @classmethod
    def open(cls, paths: NodePaths, start: bool = True) -> Daemon:
        """Connect and say hello. A daemon of another version is asked to become this one.

        start  start one when there is none, and renew an old one
        Raises OSError when none answers."""
        renewed = False
        for left in reversed(range(_TRIES)):
            sock = cls._connect(paths, start)
            daemon = cls(sock, 0)
            try:
                daemon.send(_HELLO)
                if daemon._hear_hello() or not start or renewed:
                    return daemon
                renewed = True
                daemon.request({"op": "renew"})
                daemon.close()
            except ConnectionError:  # it was just ending, or was killed
                daemon.close()
                if not left:
                    raise
            except BaseException:
                daemon.close()
                raise
        raise ConnectionAbortedError(103, os.strerror(103))

    @classmethod
    def call(cls, paths: NodePaths) -> Daemon:
        """Connect, starting one when there is none, and say hello; greeted() hears the answer.

        Raises OSError."""
        daemon = cls(cls._connect(paths, start=True), 0)
        try:
            daemon.send(_HELLO)
        except ConnectionError:
            daemon.close()
            return cls.open(paths)
        daemon._calling = True
        return daemon

    def greeted(self, paths: NodePaths) -> Daemon:
        """A daemon that has answered and is of our version: mostly this one, else another one in
        its place. Raises OSError when none answers."""
        if not self._calling:
            return self
        self._calling = False
        try:
            if self._hear_hello():
                return self
        except ConnectionError:  # it was just ending, or was killed
            pass
        self.close()
        return self.open(paths)

    def _hear_hello(self) -> bool:
        """Whether the daemon that answers is of our version. Raises OSError."""
        hello = self.receive()
        self.pid = wire.number(hello, "pid")
        return hello.get("version") == vzpy.__version__

    @staticmethod
    def _connect(paths: NodePaths, start: bool) -> _socket.socket:
        if start:
            sock = summon.connect_or_start("vzeventd", paths.socket, paths)
        else:
            sock = summon.connect(paths.socket)
        sock.settimeout(_TIMEOUT)
        return sock

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        wire.send(self.sock, message, fds)

    def receive(self) -> Message:
        """The next message. Raises ConnectionError at end of file; OSError for an error."""
        message, fds = self._receive()
        for fd in fds:
            os.close(fd)
        return message

    def descriptors(self) -> list[int]:
        """Those that come with the next message. Raises OSError."""
        return self._receive()[1]

    def _receive(self) -> tuple[Message, list[int]]:
        try:
            message, fds = wire.receive(self.sock)
        except ValueError as err:
            raise OSError(71, f"not understood: {err}") from None
        if "error" in message:
            for fd in fds:
                os.close(fd)
            raise OSError(wire.number(message, "errno"), wire.text(message, "error"))
        return message, fds

    def is_outrun(self, fd: int) -> bool:
        """Wait for an answer, or for something to be read from another descriptor: then True.

        Raises TimeoutError."""
        ready, _, _ = select.select([self.sock.fileno(), fd], [], [], _TIMEOUT)
        if not ready:
            raise TimeoutError(110, os.strerror(110))
        return fd in ready

    def request(self, message: Message, fds: Sequence[int] = ()) -> Message:
        self.send(message, fds)
        return self.receive()

    def close(self) -> None:
        self.sock.close()


def answers(paths: NodePaths) -> bool:
    """A daemon runs; it is not started."""
    try:
        Daemon.open(paths, start=False).close()
    except OSError:
        return False
    return True


def tell(paths: NodePaths, message: Message) -> bool:
    """Say something to the daemon that needs no answer; False when none runs."""
    try:
        sock = summon.connect(paths.socket)
    except OSError:
        return False
    try:
        sock.settimeout(_TIMEOUT)
        wire.send(sock, message)
    except OSError:
        return False
    finally:
        sock.close()
    return True


def stop(paths: NodePaths, keep: bool = False) -> bool:
    """End the daemon and what it holds; returns when it has gone, True if there was one.

    keep  leave vz-fdkeep alone, for the next daemon"""
    try:
        daemon = Daemon.open(paths, start=False)
        gone = os.pidfd_open(daemon.pid)
    except OSError:
        found = False
    else:
        found = True
        try:
            daemon.request({"op": "stop"})
            select.select([gone], [], [], _TIMEOUT)
        except OSError:
            pass  # it is ending already
        finally:
            os.close(gone)
            daemon.close()
    if not keep:
        _sweep(paths)
    return found


def _sweep(paths: NodePaths) -> None:
    """vz-fdkeep, the sockets and the cgroup of daemons that have gone."""
    keeper = f"{paths.run}/{summon.FDKEEP}"
    try:
        with summon.Guarded(paths):
            try:
                sock = summon.connect(keeper)
                sock.settimeout(_TIMEOUT)
                wire.send(sock, {"op": "end"})
                sock.recv(1)
                sock.close()
            except OSError:
                pass
            for path in (keeper, paths.socket, f"{paths.run}/vzeventd.lock"):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
        summon.remove_cgroup(paths, _TIMEOUT)
    except OSError:
        pass
