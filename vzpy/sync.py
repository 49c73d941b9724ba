"""What a parent and the first task of a VPS (or of an exec) say to each other.

    parent (tool)               vzeventd, or a launcher         child
      |  a launch                  |                               |
      |--------------------------->|  euid = base                  |
      |                            |  clone3(7 namespaces) ------->|
      |                            |  limits of the child          | waits
      |<------ PID host-pid -------|                               |
      |  uid_map, gid_map                      lo up, netfilter    |
      |------------------------- MAPPED -------------------------->|
      |  state                                 time ns, mounts, pivot_root, hostname
      |<------------ TABLE [fd that a table of netfilter lasts as long as]
      |<------------ WARN text, CONSOLE [fd of a pty master] ------|
      |<------------ NOTIFY [fd of init's NOTIFY_SOCKET] ----------|
      |<------------ LISTENER [fd that hears its quotactl] --------|
      |<------------------------ READY ----------------------------|
      |  network, N.start                                          | waits
      |--------------------------- GO ---------------------------->|
      |                                        capabilities, seccomp, exec init
      |<---- end of file: init runs;   ERROR step errno path text -|

The socket is SOCK_SEQPACKET and close-on-exec: one message a packet, words joined by NUL. A parent
that dies closes it, and a child that reads end of file exits without having run anything of the
guest. A child that fails says ERROR with the step, errno, path and text of its OSError, and the
parent raises the same; if nobody listens any more the child says it on stderr. exec and enter use
PID, CONSOLE and ERROR in the same way."""

from __future__ import annotations

import _socket
import os

from vzpy.errors import VzError
from vzpy.kernel.program import FAILED as FAILED
from vzpy.tasks import BORN as BORN

PID = b"PID"
MAPPED = b"MAPPED"
WARN = b"WARN"
CONSOLE = b"CONSOLE"
NOTIFY = b"NOTIFY"
LISTENER = b"LISTENER"
TABLE = b"TABLE"
READY = b"READY"
GO = b"GO"
ERROR = b"ERROR"

_MAX = 16384
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
    """One end of the conversation."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        a, b = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        return cls(a), cls(b)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, word: bytes, *fields: bytes, fd: int = -1) -> None:
        packet = b"\0".join((word, *fields))[:_MAX]
        rights = [(_socket.SOL_SOCKET, _SCM_RIGHTS, fd.to_bytes(4, "little"))] if fd >= 0 else []
        self.sock.sendmsg([packet], rights, _socket.MSG_NOSIGNAL)

    def tell(self, pid: int) -> None:
        """Say PID; ERROR for the negative errno of a clone that failed (see ns.launch)."""
        if pid > 0:
            self.send(PID, b"%d" % pid)
        else:
            self.fail("clone", OSError(-pid, os.strerror(-pid)))

    def fail(self, step: str, err: BaseException) -> None:
        """Say ERROR for an exception; on stderr when the other end is gone."""
        number = getattr(err, "errno", None) or 0
        path = getattr(err, "filename", None) or b""
        path = path if isinstance(path, bytes) else str(path).encode(errors="surrogateescape")
        text = (getattr(err, "strerror", None) or repr(err)).encode(errors="replace")
        path, text = path.replace(b"\0", b"?"), text.replace(b"\0", b"?")
        try:
            self.send(ERROR, step.encode(), str(number).encode(), path, text)
        except OSError:
            os.write(2, b": ".join((b"vzpy", step.encode(), path, text)) + b"\n")

    def receive(self) -> tuple[bytes, list[bytes], int]:
        """The next message: word, fields, descriptor or -1; word b"" at end of file.

        Raises ChildError for an ERROR message."""
        packet, rights, _, _ = self.sock.recvmsg(
            _MAX, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
        )
        fd = -1
        for level, kind, data in rights:
            if level == _socket.SOL_SOCKET and kind == _SCM_RIGHTS:
                fd = int.from_bytes(data[:4], "little")
        if packet[:8] in (BORN, FAILED):  # of a program: numbers follow
            return packet[:8], [packet], fd
        word, *fields = packet.split(b"\0")
        if word == ERROR:
            step, number, path, text = (f.decode(errors="replace") for f in fields)
            err = ChildError(int(number), text, path or None)
            err.step = step
            raise err
        return word, fields, fd

    def expect(self, word: bytes) -> list[bytes]:
        """The fields of the next message, which has to be `word`.

        Raises ChildError; VzError when the other end is gone or says something else."""
        got, fields, _ = self.receive()
        if got != word:
            said = got.decode(errors="replace") or "nothing: it has died"
            raise VzError(f"The child should have said {word.decode()} but said {said}")
        return fields
