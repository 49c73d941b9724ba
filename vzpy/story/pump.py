"""Streams of a program inside: pipes between it and the caller, pumped until it ends.

The guest never gets a descriptor of the caller's: with a terminal's it could type into the shell
of the host's root. What it leaves running in the background may keep the pipes open; they are
drained once when the program itself has ended, and nobody waits for them (vzctl-cli 2.7)."""

from __future__ import annotations

import os
import time

from vzpy import state
from vzpy.errors import Exit, VzError
from vzpy.model import Facts, NodePaths
from vzpy.record import record
from vzpy.story import enter


@record
class Result:
    """What a program inside came to: exit status (or minus the signal) and what was captured."""

    returncode: int
    stdout: bytes = b""
    stderr: bytes = b""


def run(
    facts: Facts,
    candidates: tuple[tuple[bytes, tuple[bytes, ...]], ...],
    *,
    stdin: bytes | int = b"",
    stdout: int | None = None,
    stderr: int | None = None,
    env: dict[bytes, bytes] | None = None,
    timeout: float | None = None,
    filter_cache: str | None = None,
) -> Result:
    """Run a program inside to its end.

    stdin           bytes for it, or a descriptor that is read as long as it runs
    stdout, stderr  descriptors to copy to; None = captured in the result
    Raises what enter.spawn() does; VzError 15 when the timeout (seconds) expires."""
    pipes = Pipes(facts.base)
    try:
        task = enter.spawn(
            facts,
            enter.Command(
                candidates, tuple((env or enter.EXEC_ENV).items()), stdio=pipes.inside()
            ),
            filter_cache,
            timeout,
        )
        pipes.close_inside()
        from vzpy.story.flow import Pump

        pump = Pump(task, pipes, stdin, stdout, stderr)
        try:
            pump.until_end(None if timeout is None else time.monotonic() + timeout)
        except BaseException:
            task.kill()
            task.wait()
            raise
        return Result(task.wait() or 0, bytes(pump.captured[1]), bytes(pump.captured[2]))
    finally:
        pipes.close()


def run_in(
    paths: NodePaths,
    ctid: int,
    candidates: tuple[tuple[bytes, tuple[bytes, ...]], ...],
    *,
    stdin: bytes | int = b"",
    stdout: int | None = None,
    stderr: int | None = None,
    env: dict[bytes, bytes] | None = None,
    timeout: float | None = None,
) -> Result:
    """run() in the VPS of a number, for who has asked for just this program.

    Raises NotRunning (31); VzError 15 after the timeout (seconds); VzError 47 when the program
    cannot be executed."""
    facts = state.running(paths, ctid)
    try:
        return run(
            facts, candidates, stdin=stdin, stdout=stdout, stderr=stderr, env=env,
            timeout=timeout, filter_cache=paths.state,
        )  # fmt: skip
    except OSError as err:
        what = "Unable to execute in the container"
        raise VzError.of(what, err, Exit.FS_BAD_TMPL) from err


class Pipes:
    """stdin, stdout and stderr of the program: (our end, its end) each.

    They belong to the root of the VPS, or it could not reopen /dev/stdout."""

    def __init__(self, owner: int) -> None:
        self.pairs: list[list[int]] = []
        for number in range(3):
            r, w = os.pipe2(os.O_CLOEXEC)
            os.fchown(r, owner, owner)
            self.pairs.append([w, r] if number == 0 else [r, w])

    def inside(self) -> tuple[int, int, int]:
        return (self.pairs[0][1], self.pairs[1][1], self.pairs[2][1])

    def close_inside(self) -> None:
        for pair in self.pairs:
            self._shut(pair, 1)

    def shut(self, number: int) -> None:
        """Close our end of one stream."""
        self._shut(self.pairs[number], 0)

    @staticmethod
    def _shut(pair: list[int], end: int) -> None:
        if pair[end] >= 0:
            os.close(pair[end])
            pair[end] = -1

    def close(self) -> None:
        self.close_inside()
        for number in range(3):
            self.shut(number)
