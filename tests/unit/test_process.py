"""What is asked of the kernel about processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess

import pytest

from vzpy.kernel import caps, libc, process


@pytest.mark.parametrize(
    "name", ["CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NOFILE", "MEMLOCK", "AS",
             "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO"]
)  # fmt: skip
def test_limits_are_the_kernels(name):
    number = getattr(resource, f"RLIMIT_{name}")
    assert getattr(process, f"RLIMIT_{name}") == number
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            soft, hard = resource.prlimit(child.pid, number)
            lower = hard if hard < 1 else hard - 1
            resource.prlimit(child.pid, number, (lower, hard))
            assert process.limits(child.pid)[number] == (lower, hard)
        finally:
            child.kill()
    assert process.limits()[number] == resource.getrlimit(number)


def test_a_pidfd_is_sent_a_signal():
    with subprocess.Popen(["sleep", "60"]) as child:
        fd = os.pidfd_open(child.pid)
        process.pidfd_send_signal(fd, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            process.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)


def test_a_function_that_there_is_not():
    with pytest.raises(AttributeError, match="no nonsense"):
        libc.libc.nonsense(1)


def test_a_call_that_fails_says_why():
    with pytest.raises(OSError) as caught:
        process.setns(-1)
    assert caught.value.errno == 9
    with pytest.raises(OSError) as caught:
        libc.syscall(-1)
    assert caught.value.errno == 38


def test_the_bounding_set_of_a_process():
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("CapBnd:"))
    assert caps.bounding_of(os.getpid()) == int(line.split()[1], 16)
    with pytest.raises(OSError):
        caps.bounding_of(1 << 30)
