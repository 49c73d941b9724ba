"""The kernel's log (Documentation/ABI/testing/dev-kmsg), and what it says of the OOM killer."""

from __future__ import annotations

import os

from vzpy.record import record

_RECORD_MAX = 8192


class KernelLog:
    """What is written to it from now on. Raises OSError EPERM."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> list[str]:
        """The lines since the last call; what was overwritten meanwhile is lost."""
        found: list[str] = []
        while True:
            try:
                data = os.read(self._fd, _RECORD_MAX)
            except BrokenPipeError:
                continue  # the next read gives the oldest that is still there
            except OSError:
                return found
            if not data:
                return found
            # "level,number,time,flags;text\n KEY=value ..."
            text = data.decode(errors="replace").partition(";")[2]
            found.append(text.partition("\n")[0])

    def close(self) -> None:
        os.close(self._fd)


@record
class OomKill:
    """A process that the OOM killer killed; `rss` in bytes, ids as the host numbers them."""

    pid: int
    uid: int
    comm: str
    rss: int


_KILLED = "Killed process "


def oom_kill(line: str) -> OomKill | None:
    """`...: Killed process PID (COMM) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:0kB,
    UID:0 ...` (mm/oom_kill.c, Linux 5.3); None for any other line. The name is the process's own
    choice, up to 15 bytes of anything, so the rest is looked for behind the last that it could
    imitate."""
    before, found, rest = line.partition(_KILLED)
    if not found or not before.endswith("ut of memory: "):
        return None
    pid, _, rest = rest.partition(" (")
    comm, found, sizes = rest.rpartition(") total-vm:")
    fields = {}
    for word in sizes.replace(",", " ").split():
        name, _, value = word.partition(":")
        fields[name] = value.removesuffix("kB")
    try:
        rss = sum(int(fields[f"{kind}-rss"]) for kind in ("anon", "file", "shmem"))
        return OomKill(int(pid), int(fields["UID"]), comm, rss << 10)
    except (KeyError, ValueError):
        return None
