"""vzctl enter, and what a systemd inside makes of those who come in."""

from __future__ import annotations

import termios
import time
from pathlib import Path

import pytest
import stores
from terminal import Terminal

import tools
from tools import needs, sh
from vzpy.errors import Exit


class TestEnter:
    def test_a_session(self, up):
        with Terminal(up.node, "enter", 101) as t:
            t.expect("entered into CT 101")
            t.type("tty; stty size; echo T=$TERM H=$HOME U=$USER; pwd; echo done-$((1+1))\n")
            text = t.expect("done-2")
            assert "/dev/pts/" in text and "33 99" in text
            assert "T=xterm-test H=/root U=root" in text and "\n/\r" in text
            t.resize(50, 120)
            t.type("stty size; cat /proc/self/cgroup | tail -1\n")
            t.expect("50 120")
            t.type("exit 7\n")
            t.expect("exited from CT 101")
            assert t.tool.wait(10) == 0
            assert termios.tcgetattr(t.slave) == t.mode

    def test_control_c_reaches_inside_only(self, up):
        with Terminal(up.node, "enter", 101) as t:
            t.expect("entered")
            t.type("echo ready; sleep 99\n")
            t.expect("ready\r\n")
            time.sleep(0.3)
            t.type("\x03")
            t.type("echo still-$((2+2))\n")
            t.expect("still-4")
            t.expect("# ")  # what is typed before a prompt may be flushed by it
            t.type("\x04")
            t.expect("exited from CT 101")
            assert t.tool.wait(10) == 0

    def test_a_command_to_begin_with(self, up):
        with Terminal(up.node, "enter", 101, "--exec", "echo", "x=$((5+5))") as t:
            t.expect("x=10")
            t.type("exit\n")
            t.expect("exited from CT 101")

    def test_killed_inside(self, up):
        with Terminal(up.node, "enter", 101) as t:
            t.expect("entered")
            t.type("kill -9 $$\n")
            t.expect("got signal 9")
            t.expect("exited from CT 101")
            assert t.tool.wait(10) == 0

    def test_without_a_terminal(self, run):
        ran = run("enter", 101, stdin=b"echo x-$((1+2))\nexit\n")
        assert ran.code == 0 and "x-3" in ran.stdout, ran
        assert ran.stdout.startswith("entered into CT 101\n")
        assert ran.stdout.endswith("exited from CT 101\n")
        assert "Unable to get term attr" in ran.stderr

    def test_words(self, run):
        ran = run("enter", 101, "sh")
        assert (ran.code, ran.stderr) == (20, "Invalid option 'sh'\n")
        ran = run("enter", 101, "--exec")
        assert (ran.code, ran.stderr) == (20, "No command line given for --exec\n")

    def test_a_stop_ends_the_session(self, vps):
        vps.start()
        with Terminal(vps.node, "enter", 101) as t:
            t.expect("entered")
            t.type("echo in-$((3*3))\n")
            t.expect("in-9")
            vps.stop(fast=True)
            assert t.tool.wait(10) is not None

    def test_no_shell(self, vps, vzctl):
        vps.start()
        sh(vps, "rm /bin/sh")
        ran = vzctl("enter", 101)
        assert ran.code == Exit.FS_BAD_TMPL and "enter into CT 101 failed" in ran.stdout


@pytest.fixture(scope="module")
def debian(bed):
    node = bed.node(stores.debian_store())
    vps = node.create(101, ostemplate="debian-12-x86_64")
    vps.start()
    states = (b"running\n", b"degraded\n")
    ask = ["systemctl", "is-system-running"]
    tools.wait_for(lambda: vps.exec(ask).stdout in states, 200, "boot")
    yield vps
    bed.clear(node)


@needs("debian template")
class TestSystemd:
    """A VPS whose systemd owns the cgroup tree."""

    def test_boots_without_a_failed_unit(self, debian):
        done = debian.exec(["systemctl", "is-system-running"])
        failed = sh(debian, "systemctl --failed --no-legend --plain")
        assert (done.stdout, failed) == (b"running\n", "")

    def test_exec(self, debian):
        assert sh(debian, "cat /proc/1/comm") == "systemd\n"
        assert sh(debian, "cat /proc/1/cgroup").splitlines()[-1] == "0::/init.scope"
        assert sh(debian, "cat /proc/self/cgroup").splitlines()[-1].startswith("0::/.vz-")

    def test_a_scope_of_ones_own(self, debian):
        assert sh(debian, "systemd-run --quiet --scope cat /proc/self/cgroup").splitlines()[-1] \
            .startswith("0::/system.slice/run-")

    def test_a_login_session(self, debian):
        line = "useradd -m u 2>/dev/null; su - u -c 'echo $XDG_SESSION_ID; cat /proc/self/cgroup'"
        with Terminal(debian.node, "enter", 101) as t:
            t.expect("entered")
            t.type(line + "; echo end-$((1+1))\n")
            assert "/user.slice/user-1000.slice/session-" in t.expect("end-2", 60)

    def test_leaves_go(self, debian):
        before = set(Path(debian.running().cgroup, "ve").glob(".vz-*"))
        for _ in range(3):
            sh(debian, "true")
        assert set(Path(debian.running().cgroup, "ve").glob(".vz-*")) <= before
