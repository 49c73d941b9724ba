"""A progress bar for long work: on standard error, only where that is a terminal."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from vzpy import unpack


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
