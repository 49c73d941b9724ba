"""A user at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time

import tools


class Terminal:
    """A program on a pty of ours, as a user's terminal."""

    def __init__(self, node, *words, rows=33, columns=99, term="xterm-test") -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.tool = tools.start_tool(node, ("vzctl", *words), env={"TERM": term}, stdin=slave,
                                     stdout=slave, stderr=slave, start_new_session=True)
        self.mode = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, seconds: float = 20) -> str:
        """Read until `text` comes; all up to its end, which is forgotten."""
        end = time.monotonic() + seconds * tools.PATIENCE
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.tool.send_signal(28)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.tool.kill()
        self.tool.wait()
        os.close(self.master)
        os.close(self.slave)
