"""Faults on request, at the named steps of a story: how the tests cut every step of every story.

A story calls `fault(step)` before each step, with names from its own STEPS. Without the two
environment variables it is one dictionary look-up."""

from __future__ import annotations

import os


def fault(step: str) -> None:
    """VZ_TEST_STOP_AT=step: kill -9 of this process; VZ_TEST_FAIL_AT=step: OSError EIO."""
    if os.getenv("VZ_TEST_STOP_AT") == step:
        os.kill(os.getpid(), 9)
        os._exit(137)  # process 1 of a pid namespace does not hear its own SIGKILL
    if os.getenv("VZ_TEST_FAIL_AT") == step:
        import errno

        raise OSError(errno.EIO, f"fault asked for at step {step}")
