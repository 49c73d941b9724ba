"""A place in a directory tree: one descriptor however deep, no name followed (openat(2))."""

from __future__ import annotations

import os
from errno import ESTALE

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Cursor:
    """Stands at a directory and moves by one name at a time.

    A guest nests directories without end, so the way up is "..", which the kernel knows better
    than a path; each such step is compared with where it came from."""

    def __init__(self, top: int | str) -> None:
        """top  a directory: its path, or a descriptor (O_PATH will do), which stays the caller's"""
        if isinstance(top, int):
            self.fd = os.open(".", DIRECTORY, dir_fd=top)
        else:
            self.fd = os.open(top, DIRECTORY)
        self.way: list[str] = []
        self._above: list[os.stat_result] = []

    def down(self, name: str) -> None:
        """Raises OSError: ENOTDIR, ELOOP when it is no directory any more."""
        above = os.fstat(self.fd)
        self._stand(os.open(name, DIRECTORY, dir_fd=self.fd))
        self._above.append(above)
        self.way.append(name)

    def up(self) -> None:
        """Raises OSError ESTALE when the directory was moved meanwhile."""
        there = os.open("..", DIRECTORY, dir_fd=self.fd)
        if not os.path.samestat(os.fstat(there), self._above[-1]):
            os.close(there)
            raise OSError(ESTALE, "was moved meanwhile")
        self._stand(there)
        self._above.pop()
        self.way.pop()

    def path(self, name: str = "") -> str:
        """The way from the top, for a message."""
        return "/".join((*self.way, name) if name else self.way)

    def at(self, name: str) -> str:
        """A name for the calls that take no directory descriptor."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def _stand(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
