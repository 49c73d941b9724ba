"""An advisory lock that the kernel drops when its holder dies (flock(2))."""

from __future__ import annotations

import fcntl
import os


class Flock:
    """`with Flock(path):` waits, then holds the file locked; the file stays."""

    def __init__(self, path: str, shared: bool = False) -> None:
        self.path = path
        self.kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self.fd = -1

    def __enter__(self) -> Flock:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, self.kind)
        except BaseException:
            os.close(self.fd)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)
