"""What vzctl says: events and errors by level to standard output, standard error and the log file
(vzctl-cli 1.2). Standard output is written at once and never waited for: a reader that went away
does not end an operation halfway."""

from __future__ import annotations

import os

from vzpy import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.errors import VzError
    from vzpy.events import Event
    from vzpy.log import Log

STDOUT, STDERR = 1, 2


def say(fd: int, text: str) -> None:
    """A line, in the bytes that came in (surrogateescape), whole if the reader takes it."""
    data = os.fsencode(f"{text}\n")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass


class Output:
    """The console and the log of one command.

    verbosity: -1 shows errors only, 0 progress too, more shows details; quiet shows nothing."""

    def __init__(self, verbosity: int = 0, quiet: bool = False) -> None:
        self.verbosity = verbosity
        self.quiet = quiet
        self.log: Log | None = None
        self.ctid = 0

    def report(self, event: Event) -> None:
        """The `report=` of a library call."""
        self.line(str(event), event.level)

    def line(self, text: str, level: int = events.NORMAL) -> None:
        if not self.quiet and level <= self.verbosity:
            say(STDERR if level < 0 else STDOUT, text)
        if self.log:
            self.log.write(text, self.ctid, level)

    def error(self, err: VzError) -> int:
        """Tell why the command failed; returns its exit code."""
        if err.stdout:
            self.line(err.message)
        elif err.message:
            self.line(err.message, events.ERROR)
        if err.hint and not self.quiet:
            say(STDERR, err.hint)
        return err.code
