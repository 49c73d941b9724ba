"""The log file: lines like `2012-06-13T10:11:12+0400 vzctl : CT 101 : text` (vzctl-cli 1.2)."""

from __future__ import annotations

import os
import time


class Log:
    """Appends lines to a file; silent when the file cannot be opened (a full disk stops no VPS)."""

    def __init__(self, path: str | None, level: int = 0, program: str = "vzctl") -> None:
        self.path = path
        self.level = level
        self.program = program

    def write(self, text: str, ctid: int = 0, level: int = 0) -> None:
        if self.path is None or level > self.level:
            return
        stamp = time.strftime("%Y-%m-%dT%T%z")
        ct = f"CT {ctid} : " if ctid else ""
        line = f"{stamp} {self.program} : {ct}{text}\n".encode(errors="surrogateescape")
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return
        try:
            os.write(fd, line)
        except OSError:
            pass
        finally:
            os.close(fd)
