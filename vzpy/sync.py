"""What a parent and the first task of a VPS (or of an exec) say to each other.

    parent (tool)               launcher, child of vzeventd     task
      |  a program, a cgroup        |                               |
      |---------------------------->|  limits, euid = base          |
      |  root, action scripts       |  clone3(7 namespaces) ------->|
      |  the second list            |                               | waits
      |<------ BORN host-pid -------|                               |
      |  uid_map, gid_map           .                               |
      |------------------ MAPPED [fds of the root ...] ------------>|
      |  state                                  lo up, netfilter, time ns, mounts, pivot_root
      |<------------ TABLE [fd that a table of netfilter lasts as long as]
      |<------------ WARN text, CONSOLE [fd of a pty master] -------|
      |<------------ NOTIFY [fd of init's NOTIFY_SOCKET] -----------|
      |<------------ LISTENER [fd that hears its quotactl] ---------|
      |<------------------------ READY -----------------------------|
      |  network, N.start                       filter, capabilities
      |--------------------------- GO ----------------------------->|
      |                                                             | exec init
      |<---- end of file: init runs;            FAILED call result -|

Launcher and task are one program, a list of system calls (kernel/program.py, child.py); what only
the mounted root can tell is a second one, written while the namespaces are made. The socket is
SOCK_SEQPACKET and close-on-exec: one message a packet, words joined by NUL; in BORN and FAILED
numbers follow. A parent that dies closes it, and a task that reads end of file ends without having
run anything of the guest. Of a call that fails the parent, who made the program, knows what it was.
exec and enter use BORN, CONSOLE, LISTENER and FAILED in the same way."""

from __future__ import annotations

import _socket
import os
import select
import sys

from vzpy.errors import VzError
from vzpy.kernel.program import FAILED
from vzpy.tasks import BORN as BORN
from vzpy.tasks import WARN as WARN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.kernel.program import Program

MAPPED = b"MAPPED"
CONSOLE = b"CONSOLE"
NOTIFY = b"NOTIFY"
LISTENER = b"LISTENER"
TABLE = b"TABLE"
READY = b"READY"
GO = b"GO"

_MAX = 4096
_SCM_RIGHTS = 1


class ChildError(OSError):
    """The OSError of a child, with the step it was at."""

    step = ""

    @classmethod
    def of(cls, number: int, step: str, path: bytes) -> ChildError:
        err = cls(number, os.strerror(number), os.fsdecode(path) or None)
        err.step = step
        return err


class Channel:
    """One end of the conversation.

    program  what the other end runs"""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.program: Program | None = None

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        a, b = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        return cls(a), cls(b)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, word: bytes, fds: Sequence[int] = ()) -> None:
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        beside = [(_socket.SOL_SOCKET, _SCM_RIGHTS, rights)] if fds else []
        self.sock.sendmsg([word], beside, _socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[bytes, list[bytes], int]:
        """The next message: word, fields, descriptor or -1; word b"" at end of file.

        Raises ChildError for a call that has failed."""
        packet, rights, _, _ = self.sock.recvmsg(
            _MAX, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
        )
        fd = -1
        for level, kind, data in rights:
            if level == _socket.SOL_SOCKET and kind == _SCM_RIGHTS:
                fd = int.from_bytes(data[:4], "little")
        if packet.startswith(FAILED) and self.program:
            raise ChildError.of(*self.program.failure(packet))
        if packet.startswith(BORN):
            return BORN, [packet[len(BORN) :]], fd
        word, *fields = packet.split(b"\0")
        return word, fields, fd

    def is_silent(self) -> bool:
        """Nothing has been said, and the other end is there."""
        return not select.select([self.sock], [], [], 0)[0]

    def born(self) -> int:
        """The pid of the task, which has to be told next.

        Raises ChildError; VzError when the other end is gone or says something else."""
        word, fields, _ = self.receive()
        if word != BORN:
            said = word.decode(errors="replace") or "nothing: it has died"
            raise VzError(f"The child should have told its birth but said {said}")
        return pid_of(fields)


def pid_of(fields: list[bytes]) -> int:
    """What BORN says."""
    return int.from_bytes(fields[0], sys.byteorder)
