"""Commands inside: statuses, streams, and what they must not do (vzctl-cli 2.7, 2.8)."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

import tools
from tools import needs, sh
from vzpy.errors import Exit, NotRunning, VzError


class TestStatus:
    # the line, then what exec, exec2 and exec3 and the library return, and stderr of vzctl
    CASES = [
        ("true", (0, 0, 0, 0), ""),
        ("exit 1", (8, 1, 1, 1), ""),
        ("exit 8", (8, 8, 8, 8), ""),
        ("exit 42", (8, 42, 42, 42), ""),
        ("exit 255", (8, 255, 255, 255), ""),
        ("kill -9 $$", (8, 3, 3, -9), "Got signal 9\n"),
        ("kill -15 $$", (8, 3, 3, -15), "Got signal 15\n"),
        ("kill -SEGV $$", (8, 3, 3, -11), "Got signal 11\n"),
    ]

    @pytest.mark.parametrize("line,codes,stderr", CASES, ids=[c[0] for c in CASES])
    def test_of_a_command(self, run, up, line, codes, stderr):
        for action, code in zip(("exec", "exec2"), codes):
            ran = run(action, 101, line)
            assert (ran.code, ran.stdout, ran.stderr) == (code, "", stderr), action
        ran = run("exec3", 101, "sh", "-c", line)
        assert (ran.code, ran.stderr) == (codes[2], stderr)
        assert up.exec(["sh", "-c", line]).returncode == codes[3]

    def test_no_program(self, run, up):
        for action, code in (("exec", 8), ("exec2", 127)):
            ran = run(action, 101, "no-such-program")
            assert ran.code == code and "not found" in ran.stderr, ran
        for words in (["no-such-program"], ["/etc/passwd"], ["/etc"], [""]):
            ran = run("exec3", 101, *words)
            assert ran.code == Exit.FS_BAD_TMPL and ran.stderr, (words, ran)
            with pytest.raises(VzError) as caught:
                up.exec(words)
            assert caught.value.code == Exit.FS_BAD_TMPL and caught.value.errno

    def test_not_running(self, node, vps, vzctl):
        for action, code in (("exec", 8), ("exec2", 31), ("exec3", 31), ("enter", 31)):
            ran = vzctl(action, 101, *([] if action == "enter" else ["true"]))
            assert (ran.code, ran.stderr) == (code, "Container is not running\n"), action
            assert vzctl(action, 102, "true").code == Exit.NOVECONFIG
        with pytest.raises(NotRunning):
            vps.exec(["true"])

    def test_no_command(self, run):
        for action in ("exec", "exec2", "exec3"):
            ran = run(action, 101)
            assert (ran.code, ran.stderr) == (20, "No command line given for exec\n")

    def test_no_shell(self, vps, vzctl):
        vps.start()
        sh(vps, "rm /bin/sh /bin/ash")
        assert vzctl("exec", 101, "true").code == 8
        assert vzctl("exec2", 101, "true").code == Exit.FS_BAD_TMPL
        assert vzctl("exec3", 101, "true").code == 0


class TestWords:
    def test_joined_for_the_shell(self, run):
        assert run("exec", 101, "echo", "a  b", "", "|", "cat").stdout == "a b \n"
        assert run("exec", 101, "echo a; echo b").stdout == "a\nb\n"
        assert run("exec", 101, "echo", "$HOME").stdout == "/\n"

    def test_as_they_are_for_exec3(self, run, up):
        words = ("echo", "a  b", "", "|", "$HOME", "ü\udcff")
        assert run("exec3", 101, *words).stdout == "a  b  | $HOME ü\udcff\n"
        assert up.exec(list(words)).stdout == "a  b  | $HOME ü".encode() + b"\xff\n"

    def test_options_are_the_commands_own(self, run):
        assert run("exec", 101, "echo", "--verbose", "-x", "--").stdout == "--verbose -x --\n"

    def test_a_script_from_stdin(self, run):
        assert run("exec", 101, "-", "ignored", stdin=b"echo a\nexit 5\n").code == 8
        ran = run("exec2", 101, "-", stdin=b"echo a\nexit 5\n")
        assert (ran.code, ran.stdout) == (5, "a\n")


class TestStreams:
    def test_apart(self, run, up):
        ran = run("exec", 101, "echo out; echo err >&2")
        assert (ran.stdout, ran.stderr) == ("out\n", "err\n")
        done = up.exec(["sh", "-c", "echo out; echo err >&2"])
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")

    def test_stdin(self, run, up):
        data = os.urandom(3 << 20)
        assert run("exec", 101, "wc -c", stdin=data).stdout.strip() == str(len(data))
        assert up.exec(["cat"], stdin=data).stdout == data

    def test_stdin_that_nobody_reads(self, run, up):
        data = bytes(3 << 20)
        assert run("exec", 101, "true", stdin=data).code == 0
        assert up.exec(["true"], stdin=data).returncode == 0

    def test_end_of_input(self, run):
        assert run("exec", 101, "cat", stdin=b"").code == 0
        assert run("exec", 101, "cat; echo end", stdin=subprocess.DEVNULL).stdout == "end\n"

    def test_a_terminal_is_not_handed_in(self, up):
        """With a descriptor of the caller's the guest could type into the host's shell."""
        master, slave = pty.openpty()
        try:
            ran = tools.run_tool(up.node, ("vzctl", "exec", 101, "ls -l /proc/self/fd; tty"),
                                 stdin=slave)
            assert "/pts/" not in ran.stdout and "not a tty" in ran.stdout
        finally:
            os.close(master)
            os.close(slave)

    def test_much_on_both(self, run, up):
        """More than any pipe holds, both ways at once."""
        line = "yes out | head -c 2000000 & yes err | head -c 2000000 >&2; wait"
        ran = run("exec", 101, line)
        assert (len(ran.stdout), len(ran.stderr)) == (2000000, 2000000)
        done = up.exec(["sh", "-c", line])
        assert (len(done.stdout), len(done.stderr)) == (2000000, 2000000)

    def test_all_of_the_last_words(self, up):
        for _ in range(20):
            done = up.exec(["sh", "-c", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"])
            assert (len(done.stdout), len(done.stderr)) == (60000, 60000)

    def test_a_background_child_is_not_waited_for(self, run, up):
        """It holds all three pipes."""
        begun = time.monotonic()
        ran = run("exec", 101, "sleep 3600 & echo $!")
        assert time.monotonic() - begun < 10 * tools.PATIENCE
        assert sh(up, f"kill {ran.stdout}") == ""
        pid = sh(up, "sleep 3600 & echo $!")
        assert time.monotonic() - begun < 20 * tools.PATIENCE
        sh(up, f"kill {pid}")

    def test_a_background_child_that_floods(self, up):
        begun = time.monotonic()
        done = up.exec(["sh", "-c", "yes & echo $! >&2"])
        assert done.returncode == 0 and time.monotonic() - begun < 10 * tools.PATIENCE
        up.exec(["kill", done.stderr.decode().strip()])

    def test_closed_stdout(self, up):
        """`vzctl exec 101 yes | head -1`, then a caller without any stdout."""
        with tools.start_tool(up.node, ("vzctl", "exec", 101, "yes")) as tool:
            assert tool.stdout.readline() == b"y\n"
            tool.stdout.close()
            assert tool.wait(10) == 8
        without = ["sh", "-c", '"$@" >&- <&-', "sh"]
        ran = tools.run_tool(up.node, ("vzctl", "exec", 101, "echo x; exit 0"), before=without)
        assert "Traceback" not in ran.stderr, ran

    def test_timeout(self, up):
        begun = time.monotonic()
        with pytest.raises(VzError) as caught:
            up.exec(["sleep", "3600"], timeout=0.3)
        assert caught.value.code == Exit.EXEC_TIMEOUT
        assert time.monotonic() - begun < 5 * tools.PATIENCE
        assert str(caught.value) == "Execution timeout expired"
        tools.wait_for(lambda: "sleep 3600" not in sh(up, "ps"), 5)

    def test_an_interrupted_tool_leaves_nothing_running(self, up):
        for number in (1, 2, 15):
            tool = tools.start_tool(up.node, ("vzctl", "exec", 101, "echo in; sleep 77"))
            assert tool.stdout.readline() == b"in\n"
            tool.send_signal(number)
            assert tool.communicate(timeout=10)[1] == b""
            assert tool.returncode == 128 + number
            tools.wait_for(lambda: "sleep 77" not in sh(up, "ps"), 5, f"signal {number}")

    def test_environment_given(self, up):
        done = up.exec(["env"], env={"PATH": "/bin:/usr/bin", "A": "b c"})
        assert sorted(done.stdout.decode().split("\n")) == ["", "A=b c", "PATH=/bin:/usr/bin"]


class TestCgroups:
    def leaves(self, vps) -> list[str]:
        return [p.name for p in Path(vps.running().cgroup, "ve").glob(".vz-*")]

    def test_the_leaf_goes_with_the_command(self, up):
        before = self.leaves(up)
        assert sh(up, "cat /proc/self/cgroup").splitlines()[-1].startswith("0::/.vz-")
        assert self.leaves(up) == before

    def test_a_leaf_left_behind_goes_with_a_later_command(self, vps):
        """One that a background child kept, one whose tool was killed."""
        vps.start()
        pid = sh(vps, "sleep 60 >/dev/null 2>&1 & echo $!")
        tool = tools.start_tool(vps.node, ("vzctl", "exec", 101, "echo in; read x"))
        assert tool.stdout.readline() == b"in\n"
        tool.kill()
        tool.communicate()
        tools.wait_for(lambda: "read x" not in sh(vps, "ps"))
        leaves = [Path(vps.running().cgroup, "ve", name) for name in self.leaves(vps)]
        assert len(leaves) == 2  # the second might be of an exec that is about to begin
        for leaf in leaves:
            os.utime(leaf, (1, 1))
        sh(vps, f"kill {pid}")
        assert tools.wait_for(lambda: sh(vps, "true") == "" and not self.leaves(vps))

    def test_after_a_failed_exec(self, up):
        before = self.leaves(up)
        with pytest.raises(VzError):
            up.exec(["no-such-program"])
        assert self.leaves(up) == before

    def test_when_the_guest_made_a_tree_of_its_own(self, vps):
        """As systemd does: controllers passed down, init moved away (gotcha G15)."""
        vps.start()
        # Init still forks what it begins with: until none is left there.
        sh(vps, "cd /sys/fs/cgroup; mkdir init.scope; while grep -q . cgroup.procs; do"
                " for p in $(cat cgroup.procs); do"
                " echo $p >init.scope/cgroup.procs; done 2>/dev/null; done;"
                " for c in $(cat cgroup.controllers); do echo +$c >cgroup.subtree_control; done")
        assert sh(vps, "cat /proc/1/cgroup").splitlines()[-1] == "0::/init.scope"
        assert sh(vps, "echo in") == "in\n"
        # And whoever came in may be moved by the guest's root, as pam_systemd does.
        sh(vps, "mkdir /sys/fs/cgroup/user; echo $$ >/sys/fs/cgroup/user/cgroup.procs")

    @needs("pids controller")
    def test_the_limit_holds_for_what_is_executed(self, node):
        vps = node.create(101, numproc="30")
        vps.start()
        line = "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; echo $i"
        assert vps.exec(["sh", "-c", line], timeout=60).stdout != b"50\n"


def test_many_at_once_in_one_vps(up):
    """8 threads, each its own output."""

    def work(n: int) -> None:
        for k in range(15):
            done = up.exec(["sh", "-c", f"echo {n}-{k}; exit {n}"])
            assert (done.returncode, done.stdout) == (n, f"{n}-{k}\n".encode())

    tools.in_threads(work, range(8))
