"""Limits that VPSs ran into, as lines of JSON in a bounded file of the node: written by vzeventd,
read by whoever wants to know."""

from __future__ import annotations

import os
import time

from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OOM_KILL, RESCUE = "oom_kill", "rescue"
_SIZE_MAX = 512 << 10  # bytes of the file and of its predecessor


@record
class Hit:
    """A VPS ran into a limit: `count` refusals of `what` that nobody had told of before.

    what   a beancounter in lower case; oom_kill: a process was killed for want of memory;
           rescue: what an administrator did about it
    total  refusals since the start of the VPS, which `start` tells from others (ticks since boot)
    limit  the limit as it is now, in units of the beancounter; None for none
    pid, comm, rss   of the killed process, where the kernel's log was there to tell (rss: bytes)
    text   for a rescue, what was done"""

    time: float
    ctid: int
    what: str
    count: int = 1
    total: int = 0
    limit: int | None = None
    start: int = 0
    pid: int | None = None
    comm: str | None = None
    rss: int | None = None
    text: str | None = None

    def as_json(self) -> str:
        import json

        return json.dumps({k: v for k, v in self.__dict__.items() if v is not None})

    def __str__(self) -> str:
        """One line, as in the log file of vzctl."""
        stamp = time.strftime("%Y-%m-%dT%T%z", time.localtime(self.time))
        return f"{stamp} CT {self.ctid} : {self.message}"

    @property
    def message(self) -> str:
        if self.what == RESCUE:
            return f"rescue: {self.text}"
        if self.what == OOM_KILL:
            if self.comm is None:
                return f"OOM killed {_counted(self.count, 'process', 'es')}"
            return f"OOM killed process {self.pid} ({self.comm}), {(self.rss or 0) >> 10} KiB"
        limit = "" if self.limit is None else f" at the limit of {self.limit}"
        return (
            f"{self.what}: refused {_counted(self.count, 'time', 's')}{limit},"
            f" {self.total} since the start"
        )


def _counted(count: int, word: str, plural: str) -> str:
    return f"{count} {word}{plural if count != 1 else ''}"


def path_of(state: str) -> str:
    """The log of a node, by its folder of lasting state."""
    return f"{state}/limits.log"


def append(path: str, hit: Hit) -> None:
    """A full disk loses it: nothing waits for a log."""
    line = f"{hit.as_json()}\n".encode()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        fd = os.open(path, flags, 0o640)
        try:
            if os.fstat(fd).st_size + len(line) > _SIZE_MAX:
                os.rename(path, f"{path}.old")
                os.close(fd)
                fd = os.open(path, flags, 0o640)
            os.write(fd, line)
        finally:
            os.close(fd)
    except OSError:
        pass


def read(path: str) -> Iterator[Hit]:
    """All that is kept, the oldest first; lines that are not ours are passed over."""
    yield from older(path)
    yield from Tail(path).more()


def older(path: str) -> Iterator[Hit]:
    """What came before the file that is written to now."""
    try:
        with open(f"{path}.old", "rb") as f:
            yield from _hits(f.read())
    except FileNotFoundError:
        pass


class Tail:
    """The file from its beginning, then what comes to it, although it is renamed and begun anew
    from time to time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.inode = self.at = 0
        try:
            self.inode = os.stat(path).st_ino
        except FileNotFoundError:
            pass

    def more(self) -> Iterator[Hit]:
        """What has come since the last call."""
        return _hits(self._more())

    def _more(self) -> bytes:
        """The whole lines that have come, of the old file to its end before the new one."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return b""
        if status.st_ino == self.inode:
            return self._from(self.path)
        left = self._from(f"{self.path}.old") if self.inode else b""
        self.inode, self.at = status.st_ino, 0
        return left + self._from(self.path)

    def _from(self, path: str) -> bytes:
        try:
            with open(path, "rb") as f:
                if os.fstat(f.fileno()).st_ino != self.inode:
                    return b""
                f.seek(self.at)
                data = f.read()
        except FileNotFoundError:
            return b""
        whole = data[: data.rfind(b"\n") + 1]
        self.at += len(whole)
        return whole


def _hits(data: bytes) -> Iterator[Hit]:
    import json

    for line in data.splitlines():
        try:
            hit = Hit(**json.loads(line))
            if _is_sound(hit):
                yield hit
        except (ValueError, TypeError, RecursionError):
            pass  # cut short by a full disk, or not ours


def _is_sound(hit: Hit) -> bool:
    whole = (hit.ctid, hit.count, hit.total, hit.start)
    numbers = all(type(n) is int for n in whole) and type(hit.time) in (int, float)
    return numbers and isinstance(hit.what, str) and -1e10 < hit.time < 1e10
