"""Helpers of the node suite: tools of the checkout as processes, waiting, looks into a VPS."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("VZ_TEST_CACHE", "/var/cache/vzpy-tests"))
# Tools are run with this and nothing of the environment of the tests.
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

# How often what has to come out the same again and again is done: `make test-long` asks for 1000.
ROUNDS = int(os.environ.get("VZ_TEST_ROUNDS", "200"))

needs = pytest.mark.needs
slow = pytest.mark.slow


class Ran:
    """What a tool came to: exit code (or minus the signal) and what it wrote."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout.decode(errors="surrogateescape")
        self.stderr = stderr.decode(errors="surrogateescape")

    @property
    def errors(self) -> str:
        """What it wrote, but for the line on what this machine does not apply."""
        lines = self.stderr.splitlines(keepends=True)
        return "".join(x for x in lines if not x.startswith("Warning: not applied on this node"))

    def __repr__(self) -> str:
        return f"exit code {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"


def start_tool(node, words, *, env=None, before=(), **kw) -> subprocess.Popen[bytes]:
    """A tool of the checkout, with the environment of the contract and no other.

    before  words in front of it: a program that runs it"""
    command = [*before, ROOT / "bin" / words[0], *map(str, words[1:])]
    given = {**ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run, **(env or {})}
    kw = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | kw
    return subprocess.Popen(command, env=given, **kw)


def run_tool(node, words, *, stdin=b"", timeout=120, **kw) -> Ran:
    """The same, run to its end; stdin is bytes, or what Popen takes."""
    given = stdin if isinstance(stdin, bytes) else None
    kw |= {} if given is not None else {"stdin": stdin}
    with start_tool(node, words, **kw) as tool:
        try:
            stdout, stderr = tool.communicate(given, timeout)
        except BaseException:
            tool.kill()
            raise
    return Ran(tool.returncode, stdout or b"", stderr or b"")


# A busy machine takes its time, and the virtual one is emulated: times in seconds are those of an
# idle one, and only a failure waits longer.
PATIENCE = 20 if os.environ.get("VZ_TEST_VM") == "1" else 4


def wait_for(condition, seconds: float = 10, what: str = ""):
    """Poll until the condition is true; its value. Fails with `what` after the time."""
    end = time.monotonic() + seconds * PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds * PATIENCE} s: {what or condition}"
        time.sleep(0.01)
    return value


def in_threads(work, items, seconds: float = 600) -> list:
    """work(item) for all items at once, each in a thread; their results. What one raises, and a
    hang, fail the test."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items, timeout=seconds))


@contextmanager
def no_daemon(node):
    """The node daemon of a node cannot be started: something lies at the place of its socket."""
    os.makedirs(f"{node.paths.socket}/x")
    try:
        yield
    finally:
        shutil.rmtree(node.paths.socket)
        Path(node.paths.run, "vzeventd.lock").unlink(missing_ok=True)


@contextmanager
def zram_swap(mib: int):
    """Swap in compressed memory, for as long as the context lasts."""
    Path("/sys/block/zram0/reset").write_text("1")
    Path("/sys/block/zram0/disksize").write_text(f"{mib}M")
    for command in (["mkswap", "/dev/zram0"], ["swapon", "-p", "100", "/dev/zram0"]):
        subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", "/dev/zram0"], check=True)
        Path("/sys/block/zram0/reset").write_text("1")


# Inside a VPS


def sh(vps, line: str, **kw) -> str:
    """What a shell line prints inside; it has to succeed."""
    done = vps.exec(["sh", "-c", line], **kw)
    assert done.returncode == 0, f"{line}: {done}"
    return done.stdout.decode(errors="surrogateescape")


def plant(vps, path: str, content: str | bytes = "", mode: int = 0o644, link: str = "") -> Path:
    """Put a file (or a symbolic link) into a stopped VPS, before its init can know; its owner is
    the VPS's root."""
    top = Path(vps.private, "upper") if vps.layout == "overlay" else Path(vps.private)
    at = Path(top, path.lstrip("/"))
    at.parent.mkdir(parents=True, exist_ok=True)
    at.unlink(missing_ok=True)  # not what a link in its place leads to
    if link:
        at.symlink_to(link)
    else:
        at.write_bytes(content.encode() if isinstance(content, str) else content)
        at.chmod(mode)
    for made in (at, *at.parents):
        if made == top:
            return at
        os.lchown(made, vps.ids.base, vps.ids.base)
    raise AssertionError(path)


# An init that does nothing at all: what it was given shows unchanged in /proc/1.
IDLE = "#!/bin/sh\nexec sleep 1000000\n"


# Files of the host


def remove(path) -> None:
    """A file, a link or a tree."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def fill(file, leave: int = 0) -> None:
    """Write until the disk has room for `leave` more bytes."""
    about = os.statvfs(file.fileno())
    room = about.f_bavail * about.f_bsize - leave
    if room > 0:
        os.posix_fallocate(file.fileno(), 0, room)
