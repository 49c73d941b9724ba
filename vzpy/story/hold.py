"""A running VPS, and its image, held still for a moment, whatever becomes of who asked for it."""

from __future__ import annotations

import os
from contextlib import contextmanager

from vzpy import cgroups
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.model import Facts

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h, _IOWR('X', 119 and 120, int)


@contextmanager
def still(facts: Facts | None, code: int = Exit.CHKPNT) -> Iterator[None]:
    """No task of the VPS runs, and nothing is on its way to an image, while the block does.

    A child lets them go: at the end of the block, or when we are killed. A VPS that was frozen
    before stays so. Raises VzError with `code` when a task cannot be frozen."""
    if facts is None:
        yield
        return
    was_frozen = cgroups.read(facts.cgroup, "cgroup.freeze").strip() == "1"
    guard, pid = _guard(facts, was_frozen)
    try:
        try:
            if not was_frozen and not cgroups.freeze(facts.cgroup, True):
                raise VzError("A task of the container cannot be frozen", code)
            if facts.layout == "image":
                _ioctl(facts.root, _FIFREEZE)
        except OSError as err:
            raise VzError.of("Unable to freeze the container", err, code) from err
        yield
    finally:
        os.close(guard)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass  # SIGCHLD is ignored


def _guard(facts: Facts, was_frozen: bool) -> tuple[int, int]:
    """A child that thaws when the descriptor returned is closed by all who have it."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)[::-1]
    pid = os.fork()
    if pid:
        os.close(theirs)
        return ours, pid
    try:
        os.close(ours)
        os.setsid()  # a signal to the group of the tool is not for us
        os.read(theirs, 1)
        if facts.layout == "image":
            _ioctl(facts.root, _FITHAW)
        if not was_frozen:
            cgroups.freeze(facts.cgroup, False)
    finally:
        os._exit(0)


def _ioctl(root: str, request: int) -> None:
    from fcntl import ioctl

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ioctl(fd, request, 0)
    except OSError:
        if request == _FIFREEZE:
            raise
    finally:
        os.close(fd)
