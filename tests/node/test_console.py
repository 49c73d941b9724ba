"""Consoles: attached to, kept in a log, shared."""

from __future__ import annotations

import os
import pty
import select
import termios
import time

from daemon import daemon_pid, kill, say, shown

import tools
from vzpy.eventd import client
from vzpy.eventd.client import Daemon


class Terminal:
    """`vzctl console N` on a terminal."""

    def __init__(self, node, *words) -> None:
        env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run, "TERM": "xterm"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(tools.ROOT / "bin/vzctl", ["vzctl", "console", *words], env)
        self.text = b""
        self.sees(f"Attached to CT {words[0]} (ESC . to detach)\r\n".encode())
        tools.wait_for(lambda: not termios.tcgetattr(self.fd)[3] & termios.ICANON, 5, "raw mode")

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def sees(self, text: bytes) -> None:
        """Wait for a text; what comes up to its end is used up."""
        end = time.monotonic() + 5 * tools.PATIENCE
        while text not in self.text:
            assert select.select([self.fd], [], [], max(end - time.monotonic(), 0))[0], self.text
            self.text += os.read(self.fd, 4096)
        self.text = self.text.partition(text)[2]

    def drain(self) -> None:
        while select.select([self.fd], [], [], 0.3)[0]:
            os.read(self.fd, 4096)

    def end(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_console_from_attach_to_detach(vps):
    vps.start()
    screen = Terminal(vps.node, "101")
    say(vps, "hello")
    screen.sees(b"hello\r\n")
    tools.sh(vps, "(read x </dev/console; echo got $x >/dev/console) >/dev/null 2>&1 &")
    time.sleep(0.1)
    screen.type(b"typed\r")
    screen.sees(b"got typed\r\n")
    vps.stop(fast=True)
    vps.start()
    say(vps, "second life")
    screen.sees(b"second life\r\n")
    kill(daemon_pid(vps.node))
    tools.wait_for(lambda: client.answers(vps.node.paths), 3, "started by the console")
    time.sleep(0.1)
    say(vps, "second daemon")
    screen.sees(b"second daemon\r\n")
    screen.type(b"\x1b.")
    screen.sees(b"\r\nDetached from CT 101\r\n")
    assert screen.end() == 0


def test_console_of_a_stopped_vps_waits(vps):
    screen = Terminal(vps.node, "101", "1")
    vps.start()
    say(vps, "now")
    screen.sees(b"now\r\n")
    screen.type(b"\x1b.")
    screen.sees(b"Detached")
    assert screen.end() == 0


def test_two_look_at_one_console_and_one_that_stalls_does_not_matter(vps):
    vps.start()
    stalled = Daemon.open(vps.node.paths)
    stalled.request({"op": "attach", "ctid": 101})
    one, two = Terminal(vps.node, "101"), Terminal(vps.node, "101")
    tools.sh(vps, "(seq 1 50000; echo the end) >/dev/console 2>&1 </dev/null &")
    one.sees(b"the end\r\n")  # while nobody reads what the other one writes
    two.sees(b"\n1000\r\n")
    two.drain()
    say(vps, "more")
    for screen in (one, two):
        screen.sees(b"more\r\n")
        screen.type(b"\x1b.")
        assert screen.end() == 0
    stalled.close()


def test_secure_attention_kills_what_holds_the_console_but_not_init(vps):
    vps.start()
    tools.sh(vps, "sleep 4321 <>/dev/console >&0 2>&1 & sleep 1234 >/dev/null 2>&1 </dev/null &")
    screen = Terminal(vps.node, "101")
    screen.type(b"\x1b!")
    tools.wait_for(lambda: b"sleep 4321" not in vps.exec(["ps"]).stdout, 3, "killed")
    assert b"sleep 1234" in vps.exec(["ps"]).stdout
    assert vps.facts()
    screen.type(b"\x1b.")
    assert screen.end() == 0


def test_who_is_attached_does_not_start_it_again_when_it_is_told_to_end(vps):
    screen = Terminal(vps.node, "101")
    client.stop(vps.node.paths)
    screen.sees(b"Detached")
    assert screen.end() == 0
    assert not client.answers(vps.node.paths)


def test_console_without_a_terminal(vps, vzctl):
    vps.start()
    ran = vzctl("console", 101, stdin=b"")
    assert (ran.code, ran.stdout) == (0, "")
    assert ran.stderr.startswith("Attached to CT 101 (ESC . to detach)\n")
    assert ran.stderr.endswith("\nDetached from CT 101\n")


def test_console_refusals(vps, vzctl):
    assert vzctl("console", 101, "x").stderr == "Invalid tty number: x\n"
    assert vzctl("console", 101, "0").code == 21
    assert vzctl("console", 101, "1", "2").stderr == "Invalid syntax: too many parameters!\n"
    assert vzctl("console", 101, "1", "2").code == 20
    assert vzctl("console", 102).code == 14


def test_the_boot_log_is_of_this_start_and_stays_after_the_stop(vps, vzctl):
    vps.start()
    say(vps, "first")
    tools.wait_for(lambda: b"first" in shown(vps))
    vps.stop(fast=True)
    assert "first\r\n" in vzctl("console", 101, "--log").stdout
    vps.start()
    say(vps, "second")
    tools.wait_for(lambda: b"second" in shown(vps))
    shows = vzctl("console", 101, "--log").stdout  # services of the guest have their word too
    assert "second\r\n" in shows and "first" not in shows


def test_the_console_of_one_that_has_ended_meanwhile_leaves_nothing(vps):
    """A start does not wait until the daemon has heard of it, nor does what comes next."""
    daemon = Daemon.open(vps.node.paths)
    master, slave = os.openpty()
    os.write(slave, b"late\n")
    daemon.send({"op": "console", "ctid": vps.ctid}, [master])
    daemon.request({"op": "hello"})
    time.sleep(0.1)  # a daemon that had taken it would have read by now
    assert not os.path.exists(f"{vps.node.paths.run}/console")
    for fd in (master, slave):
        os.close(fd)
    daemon.close()
