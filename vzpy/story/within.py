"""Work that the host does inside a running VPS, with no more rights than its root has."""

from __future__ import annotations

import os

from vzpy import ns
from vzpy.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.model import Facts


def as_root(pid: int, namespaces: int, act: Callable[[], None]) -> None:
    """Run `act` in a child that has entered the user namespace of a VPS's init, and others.

    namespaces  CLONE_NEW* beside that one. With CLONE_NEWNS everything that `act` needs has to be
                imported before
    Raises the OSError that it raises."""
    init = os.pidfd_open(pid)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process.setns(init, process.CLONE_NEWUSER | namespaces)
            ns.poison_imports()
            ns.become_root()
            act()
            os._exit(0)
        except OSError as err:
            path = err.filename if isinstance(err.filename, str) else ""
            os.write(writer, b"%d %s" % (err.errno or _EIO, os.fsencode(path)))
        finally:
            os._exit(1)
    os.close(writer)
    os.close(init)
    with open(reader, "rb") as pipe:
        said = os.fsdecode(pipe.read())
    if os.waitpid(child, 0)[1]:
        number, _, path = said.partition(" ")
        code = int(number or _EIO)  # it was killed
        raise OSError(code, os.strerror(code), path or None)


class root_of:
    """A context: a descriptor of the root that init of a running VPS has."""

    def __init__(self, facts: Facts) -> None:
        self.pid = facts.pid

    def __enter__(self) -> int:
        self.fd = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


_EIO = 5
