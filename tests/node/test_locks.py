"""The lock of a VPS: one works on it, the others are told who (vzctl-cli 1.3)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

import tools
from vzpy.errors import Exit, Locked
from vzpy.kernel.proc import starttime

ME = os.getpid()


@pytest.fixture
def lock(node) -> Path:
    return Path(node.config.raw("LOCKDIR"), "101.lck")


@pytest.fixture
def other():
    """Another process that lives."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


LOCKING = ["start", "stop --fast", "restart", "mount", "umount", "destroy", "create",
           "set --save --onboot yes", "chkpnt --suspend", "quotaon",
           "runscript /bin/true"]  # fmt: skip


class TestHeld:
    @pytest.mark.parametrize("third", ["\n{born}\n", "\n", "\n\n", "", "migrating\n"])
    def test_by_a_living_process(self, vps, vzctl, lock, other, third):
        """With the start time of its holder, by `echo $$`, by vzmigrate with its status word."""
        lock.write_text(f"{other.pid}\n" + third.format(born=starttime(other.pid)))
        ran = vzctl("start", 101)
        assert (ran.code, ran.stdout) == (9, "")
        assert ran.stderr == (
            f"Locked by: pid {other.pid}, cmdline sleep 600\nContainer already locked\n")
        lock.unlink()

    def test_every_action_that_locks(self, vps, vzctl, lock, other):
        lock.write_text(f"{other.pid}\n\n{starttime(other.pid)}\n")
        for line in LOCKING:
            action, *rest = line.split()
            ran = vzctl(action, 101, *rest)
            assert ran.code == 9 and "Container already locked\n" in ran.stderr, (line, ran)
        assert str(vps.status) == "exist unmounted down"
        lock.unlink()

    def test_what_does_not_lock(self, vps, vzctl, lock, other):
        vps.start()
        lock.write_text(f"{other.pid}\n\n{starttime(other.pid)}\n")
        assert vzctl("status", 101).code == 0
        assert vzctl("exec", 101, "true").code == 0
        assert vzctl("enter", 101, stdin=b"exit\n").code == 0
        lock.unlink()

    def test_skiplock(self, vps, vzctl, lock, other):
        lock.write_text(f"{other.pid}\n")
        assert vzctl("--skiplock", "start", 101).code == 0
        assert lock.read_text() == f"{other.pid}\n"
        lock.unlink()

    def test_by_a_thread_of_our_own(self, vps):
        with vps.locked(), pytest.raises(Locked) as caught:
            vps.start()
        assert caught.value.code == 9 and f"pid {ME}" in str(caught.value)
        vps.start()

    def test_while_an_action_runs(self, node, vps, vzctl, lock):
        script = Path(node.paths.conf, "101.mount")
        script.write_text("#!/bin/sh\nsleep 1\n")
        script.chmod(0o755)
        tool = tools.start_tool(node, ("vzctl", "start", 101))
        tools.wait_for(lock.exists)
        ran = vzctl("stop", 101)
        assert ran.code == 9
        assert f"Locked by: pid {tool.pid}, cmdline " in ran.stderr
        assert "vzctl start 101\n" in ran.stderr
        assert tool.communicate()[0].endswith(b"Container start in progress...\n")
        assert not lock.exists()


class TestStale:
    def test_of_a_dead_process(self, vps, vzctl, lock):
        process = subprocess.Popen(["true"])
        process.wait()
        for rest in ("", "\n", "\n12345\n"):
            lock.write_text(f"{process.pid}\n{rest}")
            ran = vzctl("mount", 101)
            assert ran.code == 0, ran
            assert ran.stdout == f"Removing stale lock file {lock}\nContainer is mounted\n"
            assert not lock.exists()
            vps.umount()

    def test_of_a_pid_that_is_anothers_by_now(self, vps, vzctl, lock, other):
        lock.write_text(f"{other.pid}\n\n{starttime(other.pid) - 1}\n")
        assert vzctl("mount", 101).stdout.startswith("Removing stale lock file ")

    def test_of_a_zombie(self, vps, vzctl, lock):
        process = subprocess.Popen(["true"])
        tools.wait_for(lambda: ") Z " in Path(f"/proc/{process.pid}/stat").read_text())
        lock.write_text(f"{process.pid}\n")
        assert vzctl("mount", 101).code == 0
        process.wait()

    @pytest.mark.parametrize("text", ["", "x", "-1\n", "0\n", "99999999999999999999\n", "\0\0",
                                      "1.5\n", "12 34\n"])  # fmt: skip
    def test_rubbish(self, vps, vzctl, lock, text):
        """Told, or removed; never a hang or a traceback."""
        lock.write_text(text)
        begun = time.monotonic()
        ran = vzctl("mount", 101)
        assert time.monotonic() - begun < 20 * tools.PATIENCE and "Traceback" not in ran.stderr
        assert ran.code in (Exit.OK, Exit.SYSTEM), ran
        if ran.code:
            assert "Unable to lock container" in ran.stderr
        lock.unlink(missing_ok=True)

    @pytest.mark.parametrize("text", ["", "\0\0\0\0\0\0"])
    def test_what_a_power_failure_has_left(self, vps, vzctl, lock, text):
        """A file without its content, of an earlier boot."""
        lock.write_text(text)
        os.utime(lock, (0, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 5))
        ran = vzctl("mount", 101)
        assert ran.code == 0 and ran.stdout.startswith("Removing stale lock file "), ran
        assert not lock.exists()

    def test_a_killed_tool(self, node, vps, vzctl, lock):
        script = Path(node.paths.conf, "101.premount")
        script.write_text("#!/bin/sh\nexec sleep 1\n")
        script.chmod(0o755)
        tool = tools.start_tool(node, ("vzctl", "mount", 101))
        tools.wait_for(lock.exists)
        tool.kill()
        tool.communicate()
        script.unlink()
        assert lock.exists()
        assert vzctl("mount", 101).stdout.startswith("Removing stale lock file ")


class TestFight:
    def test_many_processes_start_one(self, node, vps):
        """One wins; the others are told that it is locked, or running already."""
        for _ in range(3):
            fighters = [tools.start_tool(node, ("vzctl", "start", 101)) for _ in range(6)]
            ends = [(tool.communicate(timeout=60)[1].decode(), tool.returncode)
                    for tool in fighters]  # fmt: skip
            codes = sorted(code for _, code in ends)
            assert codes[0] == 0 and set(codes[1:]) <= {9, 32}, ends
            for text, code in ends:
                if code == 9:
                    assert "Locked by: pid " in text and "Container already locked\n" in text
                if code == 32:
                    assert text.endswith("Container is already running\n")
            assert tools.sh(vps, "echo up") == "up\n"
            vps.stop(fast=True)

    def test_start_against_stop(self, node, vps):
        """Whatever wins, it ends up wholly running or wholly stopped."""
        for _ in range(5):
            fighters = [tools.start_tool(node, ("vzctl", *words)) for words in
                        (("start", 101), ("stop", 101, "--fast"), ("start", 101))]  # fmt: skip
            codes = {tool.wait(60) for tool in fighters}
            for tool in fighters:
                tool.communicate()
            assert codes <= {0, 9, 32}, codes
            vps.reload()
            assert str(vps.status) in ("exist unmounted down", "exist mounted running")
            if vps.status.running:
                assert tools.sh(vps, "echo up") == "up\n"

    def test_threads(self, vps):
        got: list[object] = []

        def fight() -> None:
            try:
                vps.start()
                got.append("started")
            except Exception as err:
                got.append(getattr(err, "code", err))

        threads = [threading.Thread(target=fight) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got.count("started") == 1 and set(got) <= {"started", 9, 32}, got

    def test_many_take_a_stale_lock(self, node, vps, lock):
        lock.write_text("999999999\n")
        fighters = [tools.start_tool(node, ("vzctl", "start", 101)) for _ in range(6)]
        codes = sorted(tool.wait(60) for tool in fighters)
        for tool in fighters:
            tool.communicate()
        assert codes[0] == 0 and codes.count(0) == 1 and set(codes) <= {0, 3, 9, 32}, codes
