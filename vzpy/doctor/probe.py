"""How a probe is run where it can do no harm: in a forked child that is gone afterwards."""

from __future__ import annotations

import os
import select
import signal
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # name, whether no VPS starts without it, what tries it
    Probe = tuple[str, bool, Callable[[], str]]

_LIMIT = 10.0  # seconds


class Failed(Exception):
    """The ability is not there: why, and what to do."""

    def __init__(self, why: str, todo: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.todo = todo


def in_child(act: Callable[[], object], todo: str = "") -> str:
    """Run `act` in a forked child; its text is returned, its failure raised here as Failed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.write(writer, b"+" + str(act() or "").encode())
        except OSError as err:
            where = f"{os.fsdecode(err.filename)}: " if err.filename else ""
            os.write(writer, f"-{where}{err.strerror or err}".encode())
        except Failed as no:
            os.write(writer, f"-{no.why}".encode())
        except BaseException:
            os.write(writer, b"-" + traceback.format_exc(limit=-1).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        answer = b""
        if select.select([reader], [], [], _LIMIT)[0]:
            answer = os.read(reader, 4096)
        else:
            os.kill(pid, signal.SIGKILL)
            answer = b"-no answer in %d s" % _LIMIT
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    text = answer[1:].decode(errors="replace").strip()
    if answer[:1] != b"+":
        raise Failed(text or "the child that tried it was killed", todo)
    return text


def probe(act: Callable[[], object], todo: str = "") -> Callable[[], str]:
    """`act` as a probe that runs in a child."""
    return lambda: in_child(act, todo)


def read(path: str) -> str:
    """A small file of /proc or /sys, stripped."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()
