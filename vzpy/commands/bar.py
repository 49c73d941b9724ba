"""A progress bar for long work: on standard error, only where that is a terminal."""

from __future__ import annotations

import sys

from vzpy.events import ReshiftProgress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vzpy import unpack
    from vzpy.commands.output import Output
    from vzpy.events import Event, Report


class Bar:
    """`with Bar("Unpacking debian") as progress:` gives what the library calls with (done, total).

    None where there is no terminal, or not `wanted`. rich is imported by the first call, so that
    short work pays nothing; a bar that is full goes away, and the next call begins another."""

    def __init__(self, title: str, wanted: bool = True) -> None:
        self._title = title
        self._wanted = wanted and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> unpack.Progress | None:
        return self._draw if self._wanted else None

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._title, total=total)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.__exit__()


class OwnersBar:
    """`with OwnersBar(out) as report:` for what may have to change the owners of a private area
    first: a report that draws how far that has come."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._bar = Bar("Changing owners", wanted=not out.quiet)

    def __enter__(self) -> Report:
        self._draw = self._bar.__enter__()
        return self._tell

    def __exit__(self, *exc: object) -> None:
        self._bar.__exit__()

    def _tell(self, event: Event) -> None:
        if self._draw and isinstance(event, ReshiftProgress):
            self._draw(event.fields["done"], event.fields["total"])  # type: ignore[arg-type]
        else:
            self._out.report(event)
