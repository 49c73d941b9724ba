"""What flows between a caller and a program inside, until that ends (pump.py has the pipes).

A module of its own: `vzctl exec` loads it while the program is being started (enter.py)."""

from __future__ import annotations

import os
import select
import time

from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.story.enter import Task
    from vzpy.story.pump import Pipes

_CHUNK = 65536
_PIPE_MAX = 1 << 20


class Pump:
    def __init__(
        self,
        task: Task,
        pipes: Pipes,
        stdin: bytes | int,
        stdout: int | None,
        stderr: int | None,
    ) -> None:
        self.task, self.pipes = task, pipes
        self.pending = stdin if isinstance(stdin, bytes) else b""
        self.source = stdin if isinstance(stdin, int) else -1
        self.targets = {1: stdout, 2: stderr}
        self.captured = {1: bytearray(), 2: bytearray()}
        for pair in pipes.pairs:
            os.set_blocking(pair[0], False)

    def until_end(self, deadline: float | None) -> None:
        """Copy both ways until the program has ended.

        Its end and our ends of the pipes are polled together; its input only while there is room,
        the caller's only while nothing of it waits."""
        while True:
            poll = select.poll()
            poll.register(self.task.pidfd, select.POLLIN)
            for number in (1, 2):
                if self.pipes.pairs[number][0] >= 0:
                    poll.register(self.pipes.pairs[number][0], select.POLLIN)
            into = self.pipes.pairs[0][0]
            if into >= 0:
                if self.pending:
                    poll.register(into, select.POLLOUT)
                elif self.source >= 0:
                    poll.register(self.source, select.POLLIN)
                else:
                    self.pipes.shut(0)
            wait = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
            ready = [fd for fd, _ in poll.poll(wait)]
            if not ready:
                raise VzError("Execution timeout expired", Exit.EXEC_TIMEOUT)
            for number in (1, 2):
                if self.pipes.pairs[number][0] in ready:
                    self._out(number)
            if self.task.pidfd in ready:
                for number in (1, 2):
                    self._drain(number)
                return
            if into >= 0 and into in ready:
                self._in(into)
            elif self.source in ready:
                self.pending = os.read(self.source, _CHUNK)
                if not self.pending:
                    self.source = -1

    def _in(self, fd: int) -> None:
        try:
            self.pending = self.pending[os.write(fd, self.pending) :]
        except BrokenPipeError:
            self.pending, self.source = b"", -1
            self.pipes.shut(0)
        except BlockingIOError:
            pass

    def _out(self, number: int) -> bool:
        """Copy one chunk; False when there is none now or never again."""
        fd = self.pipes.pairs[number][0]
        if fd < 0:
            return False
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.pipes.shut(number)
            return False
        target = self.targets[number]
        if target is None:
            self.captured[number] += data
            return True
        try:
            while data:
                data = data[os.write(target, data) :]
        except OSError:  # the caller no longer listens: let the program know by SIGPIPE
            self.pipes.shut(number)
            return False
        return True

    def _drain(self, number: int) -> None:
        """One pipe's worth of what lies in it: a background process may fill it for ever."""
        for _ in range(_PIPE_MAX // _CHUNK + 1):
            if not self._out(number):
                return
