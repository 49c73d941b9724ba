"""`vzctl enter`: a login shell on a pty of the VPS, and the caller's terminal around it.

The pty comes from the VPS's own devpts, so that tty(1), su and logind inside know it; only bytes
cross between it and the caller's terminal (vzctl-cli 2.8)."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import time
import tty
from errno import ENOSPC

from vzpy.model import Facts
from vzpy.story import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 65536
# What the shell wrote last may still be in the pty when it has ended.
_DRAIN = 0.2
# A pty that nobody inside has open is always "ready", for nothing.
_NOBODY = 0.02


def login_shell() -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    return ((b"/bin/bash", (b"-bash",)), (b"/bin/sh", (b"-sh",)))


def environment(term: str | None) -> dict[bytes, bytes]:
    env = {
        b"PATH": enter.PATH.encode(),
        b"HISTFILE": b"/dev/null",
        b"USER": b"root",
        b"HOME": b"/root",
        b"LOGNAME": b"root",
    }
    if term:
        env[b"TERM"] = os.fsencode(term)
    return env


def run(facts: Facts, typed: bytes = b"", stdin: int = 0, stdout: int = 1) -> int:
    """Run the session to its end; the exit status of the shell, or minus the signal.

    typed  what is typed into it first
    Raises NotRunning; OSError when there is no shell or no pty inside."""
    task = _shell(facts)
    try:
        with Terminal(stdin, task.master):
            _pump(task, typed, stdin, stdout)
        return task.wait() or 0
    except BaseException:
        task.kill()
        task.wait()
        raise
    finally:
        os.close(task.master)


def _shell(facts: Facts) -> enter.Task:
    """On a pty of the VPS. One that has all that it may have gets one of the host's, for which it
    has no name."""
    env = tuple(environment(os.getenv("TERM")).items())
    try:
        return enter.spawn(facts, enter.Command(login_shell(), env, pty=True))
    except OSError as err:
        if err.errno != ENOSPC:
            raise
    master, slave = os.openpty()
    try:
        task = enter.spawn(facts, enter.Command(login_shell(), env, (slave,) * 3, owns=True))
        task.master = master
        return task
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)


class Terminal:
    """The caller's terminal in raw mode, its size followed; nothing of it when it is none."""

    def __init__(self, fd: int, master: int) -> None:
        self.fd, self.master = fd, master
        self._mode: list[Any] | None = None
        self._handler: Any = None

    def __enter__(self) -> Terminal:
        try:
            self._mode = termios.tcgetattr(self.fd)
        except termios.error as err:
            os.write(2, f"Unable to get term attr: {err.args[1]}\n".encode())
            return self
        self._handler = signal.signal(signal.SIGWINCH, lambda *_: self.resize())
        self.resize()
        tty.setraw(self.fd, termios.TCSADRAIN)  # what was typed ahead is for the shell
        return self

    def resize(self) -> None:
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # a terminal that has gone has no size

    def __exit__(self, *_: object) -> None:
        if self._mode is not None:
            signal.signal(signal.SIGWINCH, self._handler)
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._mode)


def _pump(task: enter.Task, typed: bytes, stdin: int, stdout: int) -> None:
    """Both ways until the shell ends; the end of the caller's input is ^D for the shell."""
    os.set_blocking(task.master, False)
    pending = typed
    reading = True
    while True:
        poll = select.poll()
        poll.register(task.pidfd, select.POLLIN)
        poll.register(task.master, select.POLLIN | (select.POLLOUT if pending else 0))
        if reading and not pending:
            poll.register(stdin, select.POLLIN)
        ready = dict(poll.poll())
        if task.master in ready:
            readable = ready[task.master] & (select.POLLIN | select.POLLHUP)
            if readable and not _copy(task.master, stdout):
                time.sleep(_NOBODY)
            if pending and ready[task.master] & select.POLLOUT:
                pending = pending[os.write(task.master, pending) :]
        if stdin in ready:
            pending = os.read(stdin, _CHUNK)
            if not pending:
                reading, pending = False, b"\x04"
        if task.pidfd in ready:
            rest = select.poll()
            rest.register(task.master, select.POLLIN)
            while rest.poll(_DRAIN * 1000) and _copy(task.master, stdout):
                pass
            return


def _copy(master: int, stdout: int) -> bool:
    try:
        data = os.read(master, _CHUNK)
        while data:
            data = data[os.write(stdout, data) :]
    except OSError:  # EIO: nobody has the terminal open (any more); EAGAIN: nothing there
        return False
    return True
