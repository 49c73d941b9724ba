"""One event loop over epoll: descriptors, signals and timers, asleep when nothing happens."""

from __future__ import annotations

import select
import time

from vzpy.kernel import watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """One call to come; cancel() is harmless once it has run."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call = when, call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """failed  is told of an exception that a callback let through; the loop goes on"""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._failed = failed
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._ended = False

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the event mask whenever the descriptor is ready; it should not block."""
        self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Before the descriptor is closed. Absence is success."""
        if self._calls.pop(fd, None):
            self._epoll.unregister(fd)

    def on_signals(self, signals: tuple[int, ...], call: Callable[[int], None]) -> None:
        fd = watch.signalfd(*signals)

        def ready(_: int) -> None:
            for sig in watch.signals_of(fd):
                call(sig)

        self.watch(fd, select.EPOLLIN, ready)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        self._timers.append(timer)
        return timer

    def end(self) -> None:
        self._ended = True

    def run(self) -> None:
        while not self._ended:
            for fd, events in self._epoll.poll(self._until_next()):
                if call := self._calls.get(fd):
                    self._guarded(call, events)
            self._run_due()

    def _until_next(self) -> float | None:
        """Seconds to the next timer; None, without end, when there is none."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        if not self._timers:
            return None
        # A little late rather than early: epoll counts in milliseconds, and would spin.
        return max(min(timer.when for timer in self._timers) - time.monotonic() + 0.001, 0)

    def _run_due(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        due = [timer for timer in self._timers if timer.when <= now]
        self._timers = [timer for timer in self._timers if timer.when > now]
        for timer in due:
            if not timer.cancelled:
                self._guarded(timer.call)

    def _guarded(self, call: Callable[..., None], *args: int) -> None:
        try:
            call(*args)
        except Exception as err:
            self._failed(err)

    def close(self) -> None:
        self._epoll.close()
