"""What the parent of a new VPS says to its first task and hears from it (drawn in sync.py)."""

from __future__ import annotations

import os

from vzpy.errors import Exit, VzError
from vzpy.events import Warned
from vzpy.sync import CONSOLE, GO, LISTENER, NOTIFY, READY, TABLE, WARN, Channel, ChildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.events import Report


_HELD = {TABLE: "netfilter", LISTENER: "quota"}


class Conversation:
    """The parent's side of sync.py, with the descriptors that only the child needs.

    wait    somebody wants to know when the VPS has booted
    notify  where its init will say so, -1 when it does not"""

    def __init__(self, report: Report, wait: bool = False) -> None:
        self.report = report
        self.wait = wait
        self.notify = -1
        self.ours, self.theirs = Channel.pair()
        self._handed: list[int] = []

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.handed_over()
        if self.ours.program:
            self.ours.program.close()
        self.ours.close()
        if self.notify >= 0:
            os.close(self.notify)

    def hand_over(self, *fds: int) -> int:
        self._handed += fds
        return fds[0]

    def handed_over(self) -> None:
        """The child has its copies: close ours, or its death would not be seen."""
        self.theirs.close()
        while self._handed:
            os.close(self._handed.pop())

    def ready(self, hold: Callable[[str, int], None]) -> int:
        """Hear the child out until READY; the master of its console, -1 when it has none.

        hold  is called with the name of a descriptor that has to live as long as the VPS"""
        console = -1
        while True:
            word, fields, fd = self.ours.receive()
            if word == CONSOLE:
                console = fd
            elif word == NOTIFY:
                self.notify = fd
            elif word in _HELD:
                try:
                    if word == TABLE:
                        _confirm(fd)
                    hold(_HELD[word], fd)
                finally:
                    os.close(fd)
            elif word == WARN:
                self.report(Warned(text=f"Warning: {fields[0].decode(errors='replace')}"))
            elif word == READY:
                return console
            else:
                raise _died()

    def dead(self) -> None:
        """Tell what the child has died of, if it has. Raises ChildError; VzError 7."""
        if not self.ours.is_silent():
            self.ours.receive()
            raise _died()

    def go(self) -> None:
        """GO, and the silence after it: a socket closed by exec.

        Raises VzError 47 when init cannot be executed."""
        try:
            try:
                self.ours.send(GO)
            except BrokenPipeError:  # it may have said why
                self.ours.receive()
                raise _died() from None
            self.ours.receive()
        except OSError as err:
            raise VzError(
                "Unable to start init, probably incorrect template",
                Exit.FS_BAD_TMPL,
                errno=err.errno or 0,
                hint=f"{err.filename}: {err.strerror}" if err.filename else f"{err.strerror}",
            ) from err


def _died() -> VzError:
    return VzError("The first process of the container has died", Exit.ENVCREATE)


def _confirm(table: int) -> None:
    """The kernel has made the table that the task asked for. Raises ChildError."""
    from vzpy import netfilter

    try:
        netfilter.confirm(table)
    except OSError as err:
        failure = ChildError(err.errno or 0, err.strerror)
        failure.step = "child-net"
        raise failure from None
