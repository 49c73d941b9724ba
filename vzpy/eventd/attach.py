"""`vzctl console`: the caller's terminal joined with the console of a VPS (vzctl-cli 2.8).

Whether the VPS runs does not matter, nor does it when the daemon is replaced: the terminal stays
attached to the number until ESC . is typed at the start of a line, or the input ends."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

from vzpy import cgroups, state
from vzpy.eventd.client import Daemon
from vzpy.kernel import process
from vzpy.story.session import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import NodePaths

_CHUNK = 4096
_ESC = 0x1B
DETACH, SAK = "detach", "sak"
# The console is the first pty of a VPS: /dev/pts/0, as the kernel numbers terminals.
_CONSOLE_TTY = os.makedev(136, 0)
_CONSOLE_NAMES = ("/dev/console", "/dev/pts/0")


class Keys:
    """What is typed, with the escapes taken out: ESC . and ESC ! count at the start of a line."""

    def __init__(self) -> None:
        self._at_start = True
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | str]:
        """Bytes for the VPS, and DETACH or SAK, in order."""
        found: list[bytes | str] = []
        plain = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if command := {0x2E: DETACH, 0x21: SAK}.get(byte):
                    if plain:
                        found.append(bytes(plain))
                        plain.clear()
                    found.append(command)
                    continue
                plain.append(_ESC)
            elif byte == _ESC and self._at_start:
                self._escaped = True
                continue
            plain.append(byte)
            self._at_start = byte in b"\r\n"
        if plain:
            found.append(bytes(plain))
        return found


class _Screen(Terminal):
    """The caller's terminal, whose size is told to the daemon."""

    daemon: Daemon

    def resize(self) -> None:
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
            rows, columns = struct.unpack("4H", size)[:2]
            self.daemon.send({"op": "size", "rows": rows, "columns": columns})
        except OSError:
            pass  # no terminal; or no daemon, and the next one is told


def join(daemon: Daemon, paths: NodePaths, ctid: int, stdin: int = 0, stdout: int = 1) -> None:
    """Copy both ways until the user detaches or stdin ends; the connection is closed then.

    Raises OSError when the daemon has gone and no other can be had."""
    keys = Keys()
    screen = _Screen(stdin, -1)
    screen.daemon = daemon
    with screen:
        while not _until_lost(screen, paths, ctid, keys, stdin, stdout):
            screen.daemon.close()
            screen.daemon = attach(paths, ctid)
            screen.resize()
    screen.daemon.close()


def attach(paths: NodePaths, ctid: int) -> Daemon:
    """A connection that the console's output comes through. Raises OSError."""
    daemon = Daemon.open(paths)
    daemon.request({"op": "attach", "ctid": ctid})
    return daemon


def _until_lost(
    screen: _Screen, paths: NodePaths, ctid: int, keys: Keys, stdin: int, stdout: int
) -> bool:
    """Copy both ways; True when the user has had enough or the daemon ends, False when it has been
    killed or replaced."""
    daemon = screen.daemon
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    poll.register(daemon.sock.fileno(), select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        try:
            if daemon.sock.fileno() in ready:
                message = daemon.receive()
                if "end" in message:
                    return True
                data = message.get("data")
                if isinstance(data, bytes):
                    _write(stdout, data)
            if stdin in ready:
                typed = os.read(stdin, _CHUNK)
                for item in keys.feed(typed):
                    if item == DETACH:
                        return True
                    if item == SAK:
                        secure_attention(paths, ctid)
                    elif isinstance(item, bytes):
                        daemon.send({"op": "input", "data": item})
                if not typed:
                    return True
        except ConnectionError:
            return False


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def secure_attention(paths: NodePaths, ctid: int) -> None:
    """The secure attention key: kill whatever has the console open or as its terminal, so that
    who logs in next talks to nobody but init."""
    facts = state.find(paths, ctid)
    if facts is None:
        return
    for pid in cgroups.tasks(facts.cgroup):
        if pid == facts.pid:
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at after the pidfd was had: it is the same process that is killed.
            if _has_console(pid):
                process.pidfd_send_signal(pidfd, process.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(pidfd)


def _has_console(pid: int) -> bool:
    """Its controlling terminal (field 7 of /proc/PID/stat), or something it has open. Links are
    read and not followed: what they lead to is the guest's."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        if int(f.read().rpartition(b")")[2].split()[4]) == _CONSOLE_TTY:
            return True
    folder = f"/proc/{pid}/fd"
    return any(os.readlink(f"{folder}/{fd}") in _CONSOLE_NAMES for fd in os.listdir(folder))
