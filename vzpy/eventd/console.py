"""Consoles: the master of each VPS's /dev/console, its log, and who is attached.

The master is always read, or the guest would stand still once its buffer is full. It is watched
edge-triggered: while nobody inside has the console open, a pty is "ready" all the time for EIO.
What a guest writes costs the host time that no limit of the VPS counts, so it is read in so many
pieces (of 4 KiB at most) a tenth of a second; a guest that writes faster waits."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time

from vzpy import state
from vzpy.eventd import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message

_CHUNK = 65536
_PIECES, _WINDOW = 20, 0.1  # reads in so many seconds
_LOG_HALF = 128 << 10  # bytes; the log and its predecessor
_LAST_WORDS = 256  # pieces that are read when init has ended
_NAME = "console-"  # of the descriptor in vz-fdkeep
_EVENTS = select.EPOLLIN | select.EPOLLET


class Console:
    """The console of one running VPS."""

    def __init__(self, owner: Consoles, ctid: int, master: int) -> None:
        self.owner, self.ctid, self.master = owner, ctid, master
        self.log = state.console_log(owner.daemon.paths, ctid)
        self.window = 0.0
        self.pieces = 0
        os.set_blocking(master, False)
        owner.daemon.loop.watch(master, _EVENTS, self.ready)

    def ready(self, _: int = 0) -> None:
        now = time.monotonic()
        if now - self.window >= _WINDOW:
            self.window, self.pieces = now, 0
        while self.pieces < _PIECES:
            self.pieces += 1
            if not self.read():
                return
        self.owner.daemon.loop.forget(self.master)
        self.owner.daemon.loop.after(self.window + _WINDOW - now, self.go_on)

    def go_on(self) -> None:
        if self.master >= 0:
            self.owner.daemon.loop.watch(self.master, _EVENTS, self.ready)

    def read(self) -> bytes:
        """One piece, passed on; empty when there is none now."""
        try:
            data = os.read(self.master, _CHUNK)
        except OSError:  # EAGAIN; EIO: nobody inside has it open
            return b""
        self.record(data)
        for client in self.owner.attached(self.ctid):
            client.offer({"data": data})  # one that is too slow misses something
        return data

    def record(self, data: bytes) -> None:
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size > _LOG_HALF:
                    os.rename(self.log, f"{self.log}.old")
                    self.begin_log()
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError:
            pass  # a full disk stops no console; that of a destroyed VPS is not made again

    def begin_log(self) -> None:
        """An empty one, which also keeps the folder. Raises OSError."""
        os.makedirs(os.path.dirname(self.log), 0o700, True)
        os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def write(self, data: bytes) -> None:
        """What is typed; what the guest does not take is lost, as on a serial line."""
        try:
            os.write(self.master, data)
        except OSError:
            pass

    def resize(self, rows: int, columns: int) -> None:
        try:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        except OSError:
            pass

    def close(self) -> None:
        self.owner.daemon.loop.forget(self.master)
        os.close(self.master)
        self.master = -1


class Consoles:
    """Clients stay attached over stop and start: they belong to a number, not to a console."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.consoles: dict[int, Console] = {}
        self.clients: dict[Client, int] = {}
        self.sizes: dict[Client, tuple[int, int]] = {}
        handlers = daemon.server.handlers
        handlers["console"] = self.new
        handlers["attach"] = self.attach
        handlers["input"] = self.input
        handlers["size"] = self.size

    def attached(self, ctid: int) -> list[Client]:
        return [client for client, theirs in self.clients.items() if theirs == ctid]

    # Requests

    def new(self, client: Client, message: Message, fds: list[int]) -> None:
        """The master of a VPS that is being started; its log begins anew. Nobody waits for this, so
        that the VPS may have ended meanwhile, and have been destroyed."""
        ctid = wire.number(message, "ctid")
        if not fds:
            raise ValueError("the console is missing")
        if state.read_facts(self.daemon.paths, ctid):
            state.forget_console(self.daemon.paths, ctid)
            self.install(ctid, fds.pop(0))
            try:
                self.consoles[ctid].begin_log()
            except OSError:
                pass  # there will be none

    def attach(self, client: Client, message: Message, fds: list[int]) -> Message:
        """From now on the client gets what the console shows, and may type."""
        ctid = wire.number(message, "ctid")
        self.clients[client] = ctid
        client.at_close.append(lambda: self.detach(client))
        return {"running": int(ctid in self.consoles)}

    def dismiss(self) -> None:
        """The daemon ends for good: who is attached should not start it again."""
        for client in self.clients:
            client.offer({"end": 1})

    def detach(self, client: Client) -> None:
        self.clients.pop(client, None)
        self.sizes.pop(client, None)

    def input(self, client: Client, message: Message, fds: list[int]) -> None:
        data = message["data"]
        console = self.consoles.get(self.clients[client])
        if console and isinstance(data, bytes):
            console.write(data)

    def size(self, client: Client, message: Message, fds: list[int]) -> None:
        rows, columns = wire.number(message, "rows"), wire.number(message, "columns")
        self.sizes[client] = (rows & 0xFFFF, columns & 0xFFFF)
        if console := self.consoles.get(self.clients[client]):
            console.resize(*self.sizes[client])

    # From start to end

    def install(self, ctid: int, master: int) -> None:
        if old := self.consoles.pop(ctid, None):
            old.close()
        self.consoles[ctid] = console = Console(self, ctid, master)
        self.daemon.keeper.store(f"{_NAME}{ctid}", master)
        for client in self.attached(ctid):
            if client in self.sizes:
                console.resize(*self.sizes[client])

    def adopts(self, name: str, master: int) -> bool:
        """Take a console that vz-fdkeep held while there was no daemon; its VPS has to run."""
        number = name.removeprefix(_NAME)
        if not number.isdigit() or not state.begun(self.daemon.paths, int(number)):
            return False
        self.install(int(number), master)
        return True

    def ended(self, ctid: int) -> bytes:
        """Init has ended: hear its last words, close; the end of what the log has."""
        console = self.consoles.pop(ctid, None)
        if console is None:
            return b""
        for _ in range(_LAST_WORDS):
            if not console.read():
                break
        console.close()
        self.daemon.keeper.drop(f"{_NAME}{ctid}")
        try:
            with open(console.log, "rb") as f:
                f.seek(max(os.fstat(f.fileno()).st_size - _CHUNK // 16, 0))
                return f.read()
        except OSError:
            return b""
