"""What is the same each time is made once in a process that lives for long."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    K = TypeVar("K")
    T = TypeVar("T")

_AT_MOST = 32


def once(made: dict[K, T], key: K, make: Callable[[], T]) -> T:
    """What `made` has for the key, made now if it is not there; when there is too much of it all is
    forgotten. From any thread: two that ask at once may both make one."""
    found = made.get(key)
    if found is None:
        found = make()
        if len(made) >= _AT_MOST:
            made.clear()
        made[key] = found
    return found
