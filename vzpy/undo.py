"""What has to be taken back, in reverse order, when a story does not get to its end.

contextlib.ExitStack can do the same, and costs 5 ms of imports on every start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Undo:
    """A context: whatever it leaves by, what was pushed and not forgotten is called, last first.

    One that fails does not keep the others from being called; the last failure is raised."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[object, ...], dict[str, object]]] = []

    def callback(self, call: Callable[..., object], *args: object, **keywords: object) -> None:
        self._calls.append((call, args, keywords))

    def forget(self) -> None:
        """All is well: nothing of it has to be taken back."""
        self._calls.clear()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *_: object) -> None:
        if self._calls:
            call, args, keywords = self._calls.pop()
            try:
                call(*args, **keywords)
            finally:
                self.__exit__()
