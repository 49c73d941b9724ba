"""The node daemon with real VPSs, real ends and real kills."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import tools
from vzpy import cgroups, state
from vzpy.eventd import client, summon
from vzpy.eventd.client import Daemon
from vzpy.kernel import proc, watch
from vzpy.story.start import STEPS


def daemon_pid(node) -> int:
    daemon = Daemon.open(node.paths, start=False)
    daemon.close()
    return daemon.pid


def keeper_pid(node) -> int:
    """vz-fdkeep of a node: it shares the daemons' cgroup with vzeventd."""
    procs = cgroups.tasks(f"{cgroups.mountpoint()}/{node.paths.cgroup}/{summon.LEAF}")
    return next(pid for pid in procs if b"vz-fdkeep" in cmdline(pid))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(pid: int) -> None:
    """kill -9, and wait until it has gone."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def log(node) -> str:
    return Path(node.config.raw("LOGFILE")).read_text(errors="replace")


def is_clean(vps) -> bool:
    """Not running, not mounted, no cgroup, no state. Looking does not clean up."""
    gone = not os.path.exists(cgroups.path_of(vps.node.paths.cgroup, vps.ctid))
    no_state = state.read_facts(vps.node.paths, vps.ctid) is None
    return gone and no_state and not proc.is_mounted(vps.root)


def shown(vps) -> bytes:
    """What the console has shown."""
    try:
        return Path(state.console_log(vps.node.paths, vps.ctid)).read_bytes()
    except FileNotFoundError:
        return b""


def say(vps, text: str) -> None:
    tools.sh(vps, f"echo {text} >/dev/console")


# How a VPS ends


@pytest.mark.parametrize("how", ["halt", "poweroff"])
def test_halted_from_inside_it_is_cleaned_up(vps, how):
    vps.start()
    vps.exec([how, "-f"])
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")
    assert f"CT {vps.ctid} : Container halted\n" in log(vps.node)
    assert str(vps.status) == "exist unmounted down"


def test_rebooted_from_inside_it_comes_back(vps):
    vps.start()
    before = vps.facts()
    vps.exec(["reboot", "-f"])
    tools.wait_for(lambda: vps.facts() not in (None, before), 3, "started again")
    after = vps.facts()
    assert after.pid != before.pid and after.daemon
    assert proc.parent(after.pid) == daemon_pid(vps.node)
    assert "Container reboots\n" in log(vps.node)
    tools.wait_for(lambda: not state.is_locked(vps.node.config.raw("LOCKDIR"), 101))
    assert vps.exec(["true"]).returncode == 0


def test_a_look_does_not_take_a_reboot_for_a_halt(vps):
    """vzlist and vzctl status clean up after a VPS that has ended; the daemon is faster."""
    vps.start()
    before = vps.facts()
    vps.exec(["reboot", "-f"])

    def back():
        assert vps.status.exist
        return vps.facts() not in (None, before)

    tools.wait_for(back, 3)


def test_one_that_does_nothing_but_reboot_is_slowed_down(vps):
    tools.plant(vps, "/etc/inittab", "::sysinit:/bin/busybox reboot -f\n")
    vps.start()
    time.sleep(3)
    assert 2 <= log(vps.node).count("Container reboots") <= 4  # at 0, 1 and 3 s after the first
    vps.stop(fast=True)
    time.sleep(4.5)  # the one that was planned does not happen any more
    assert is_clean(vps)


def test_after_a_crash_it_stays_down_and_the_log_has_its_last_words(vps):
    vps.start()
    say(vps, "last words")
    os.kill(vps.facts().pid, signal.SIGKILL)
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")
    text = log(vps.node)
    assert "Container crashed: its init was killed by signal 9\n\tconsole: last words\n" in text
    time.sleep(0.3)
    assert vps.facts() is None


def test_an_init_that_ends_at_once_is_told(vps):
    tools.plant(vps, "/sbin/init", "#!/bin/sh\necho no way; exit 3\n", 0o755)
    vps.start()
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")
    assert "its init exited with status 3\n\tconsole: no way\n" in log(vps.node)


def test_while_a_tool_holds_the_lock_nothing_is_touched(vps):
    vps.start()
    with vps.locked():
        vps.exec(["halt", "-f"])
        time.sleep(0.5)
        assert proc.is_mounted(vps.root)
        assert state.read_facts(vps.node.paths, 101)
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")


def test_a_stop_by_a_tool_is_no_end_of_ours(vps):
    vps.start()
    vps.stop(fast=True)
    time.sleep(0.3)
    assert "crashed" not in log(vps.node)


def test_action_scripts_run_after_a_halt(vps):
    tools.plant(vps, "/x")
    script = Path(vps.node.paths.conf, "101.umount")
    mark = Path(vps.node.paths.etc, "mark")
    script.write_text(f"#!/bin/sh\necho $VEID >{mark}\n")
    script.chmod(0o755)
    vps.start()
    vps.exec(["halt", "-f"])
    tools.wait_for(lambda: is_clean(vps), 2)
    assert mark.read_text() == "101\n"


def begun(vps):
    return state.begun(vps.node.paths, vps.ctid)


def test_a_guest_that_hangs_its_start_script_keeps_nobody_from_being_put_away(node):
    hanging = [node.create(200 + n) for n in range(3)]
    other = node.create(300)
    for vps in (*hanging, other):
        vps.start()
    before = {vps: vps.facts().pid for vps in hanging}
    for vps in hanging:
        Path(node.paths.conf, f"{vps.ctid}.start").write_text("#!/bin/sh\nsleep 1000\n")
        vps.exec(["reboot", "-f"])
    for vps in hanging:
        tools.wait_for(lambda: (now := begun(vps)) and now.pid != before[vps], 5)  # noqa: B023
    other.exec(["halt", "-f"])
    tools.wait_for(lambda: is_clean(other), 2, "put away")
    for vps in hanging:
        os.kill(begun(vps).pid, signal.SIGKILL)
        tools.wait_for(lambda: is_clean(vps), 5, "the start has failed")  # noqa: B023
    tools.wait_for(lambda: log(node).count("Cannot restart: ") == 3, 2, "three lines in the log")


# Kills


@pytest.mark.parametrize("step", STEPS)
def test_the_daemon_killed_at_any_step_of_a_start(vps, step):
    vps.start()
    vps.stop(fast=True)

    def report(event):
        if getattr(event, "name", "") == step:
            kill(daemon_pid(vps.node))

    vps.start(report=report)
    assert vps.exec(["true"]).returncode == 0
    assert vps.facts().daemon
    daemon_pid(vps.node)  # it answers
    say(vps, "after")
    tools.wait_for(lambda: b"after" in shown(vps), 2, "console")
    vps.exec(["halt", "-f"])
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")


def kernel_keeps_exit_status() -> bool:
    """A pidfd tells how a process ended that somebody else has reaped (Linux 6.15)."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    status = watch.exit_status(pid, pidfd)
    os.close(pidfd)
    return status is not None


def test_after_a_kill_vpss_run_and_the_next_one_adopts_them(vps):
    vps.start()
    init = vps.facts().pid
    kill(daemon_pid(vps.node))
    assert vps.facts().pid == init
    assert vps.exec(["true"]).returncode == 0
    Daemon.open(vps.node.paths).close()
    assert proc.parent(init) != daemon_pid(vps.node)
    say(vps, "back")
    tools.wait_for(lambda: b"back" in shown(vps), 2, "console")
    vps.exec(["reboot", "-f"])  # seen by one that is not the parent
    if kernel_keeps_exit_status():
        tools.wait_for(lambda: (now := vps.facts()) and now.pid != init, 3, "started again")
    else:
        tools.wait_for(lambda: is_clean(vps), 3, "cleaned up")


def test_what_ended_while_there_was_no_daemon_is_cleaned_up_by_the_next(vps):
    vps.start()
    kill(daemon_pid(vps.node))
    os.kill(vps.facts().pid, signal.SIGKILL)
    tools.wait_for(lambda: not vps.facts())
    assert proc.is_mounted(vps.root)
    Daemon.open(vps.node.paths).close()
    tools.wait_for(lambda: is_clean(vps), 2, "cleaned up")


def test_a_reboot_mark_tells_what_nobody_saw(vps):
    vps.start()
    tools.sh(vps, "touch /reboot")
    kill(daemon_pid(vps.node))
    init = vps.facts().pid
    os.kill(init, signal.SIGKILL)
    tools.wait_for(lambda: not vps.facts())
    Daemon.open(vps.node.paths).close()
    tools.wait_for(lambda: vps.facts(), 3, "started again")
    r = vps.exec(["test", "-e", "/reboot"])
    assert r.returncode == 1, log(vps.node)


def test_consoles_outlive_both_daemons_as_long_as_one_lives(vps):
    vps.start()
    for text in ("one", "two"):
        old = tools.wait_for(lambda: keeper_or_none(vps.node), 3, "a vz-fdkeep")
        kill(old)
        tools.wait_for(lambda: keeper_or_none(vps.node) not in (None, old), 3, "another vz-fdkeep")  # noqa: B023
        time.sleep(0.1)  # it is given what is to be kept
        kill(daemon_pid(vps.node))
        Daemon.open(vps.node.paths).close()
        say(vps, text)
        tools.wait_for(lambda: text.encode() in shown(vps), 2, "console")  # noqa: B023


def keeper_or_none(node):
    try:
        return keeper_pid(node)
    except StopIteration:
        return None


def test_both_daemons_killed_vpss_run_without_console(vps):
    vps.start()
    kill(daemon_pid(vps.node))
    kill(tools.wait_for(lambda: keeper_or_none(vps.node)))
    Daemon.open(vps.node.paths).close()
    assert vps.exec(["true"]).returncode == 0
    vps.stop()
    vps.start()
    say(vps, "anew")
    tools.wait_for(lambda: b"anew" in shown(vps), 2, "console")


def test_a_tool_killed_in_a_start_leaves_nothing_for_long(vps, vzctl):
    Daemon.open(vps.node.paths).close()
    for step in STEPS:
        ran = vzctl("start", 101, env={"VZ_TEST_STOP_AT": step})
        assert ran.code == -9
        tools.wait_for(lambda: is_clean(vps), 3, f"cleaned up after {step}")
        assert vzctl("start", 101).code == 0
        assert vzctl("stop", 101, "--fast").code == 0
    assert "Container start was cut short\n" in log(vps.node)


def test_a_step_of_the_child_fails_in_the_daemon_as_it_does_in_the_caller(vps, vzctl):
    for step in ("child-time", "child-root", "child-exec"):
        ran = vzctl("start", 101, env={"VZ_TEST_FAIL_AT": step})
        assert ran.code in (7, 47), ran
        assert is_clean(vps)
    assert vzctl("start", 101).code == 0


def test_an_upgrade_keeps_the_process_and_its_children(vps, cli):
    vps.start()
    before = daemon_pid(vps.node)
    assert cli("vzeventd", "--replace").code == 0
    assert daemon_pid(vps.node) == before
    assert proc.parent(vps.facts().pid) == before
    assert "vzeventd loads its program anew" in log(vps.node)
    say(vps, "still here")
    tools.wait_for(lambda: b"still here" in shown(vps), 2, "console")
    vps.exec(["halt", "-f"])
    tools.wait_for(lambda: is_clean(vps), 2)


def test_a_daemon_of_another_version_is_renewed(vps, monkeypatch):
    vps.start()
    before = daemon_pid(vps.node)
    monkeypatch.setattr("vzpy.__version__", "0.0.1")
    Daemon.open(vps.node.paths).close()
    tools.wait_for(lambda: "loads its program anew" in log(vps.node))
    assert daemon_pid(vps.node) == before


def test_the_last_one_out_removes_their_cgroup(node):
    Daemon.open(node.paths).close()
    os.kill(daemon_pid(node), signal.SIGTERM)
    leaf = f"{cgroups.mountpoint()}/{node.paths.cgroup}"
    tools.wait_for(lambda: not os.path.exists(leaf), 3, "cgroup of the daemons")
    client.stop(node.paths)


def test_sigterm_ends_it_and_the_next_one_goes_on(vps):
    vps.start()
    pid = daemon_pid(vps.node)
    os.kill(pid, signal.SIGTERM)
    tools.wait_for(lambda: not os.path.exists(vps.node.paths.socket))
    say(vps, "meanwhile")
    Daemon.open(vps.node.paths).close()
    assert daemon_pid(vps.node) != pid
    tools.wait_for(lambda: b"meanwhile" in shown(vps), 2, "console")


def test_one_that_runs_in_the_foreground_takes_over(vps, cli, node):
    vps.start()
    old = daemon_pid(node)
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run}
    new = subprocess.Popen([tools.ROOT / "bin/vzeventd", "--foreground"], env=env)
    tools.wait_for(lambda: not cmdline(old), what="the old one has gone")
    tools.wait_for(lambda: client.answers(node.paths), what="the new one answers")
    assert daemon_pid(node) == new.pid
    say(vps, "new")
    tools.wait_for(lambda: b"new" in shown(vps), 2, "console")
    assert cli("vzeventd", "--status").stdout == (
        f"vzeventd is running, pid {new.pid}, 1 running VPSs\n"
    )
    assert cli("vzeventd", "--stop").code == 0
    assert new.wait() == 0
    assert cli("vzeventd", "--status").code == 3
    assert cli("vzeventd", "--stop").code == 3


# Without it


def test_without_a_daemon_a_start_works_with_one_warning(vps):
    os.makedirs(vps.node.paths.socket)
    warned = []
    vps.start(report=lambda e: warned.append(str(e)) if "vzeventd" in str(e) else None)
    assert len(warned) == 1
    assert warned[0].startswith("Warning: vzeventd does not answer (")
    assert vps.exec(["stat", "-c", "%t:%T", "/dev/console"]).stdout == b"1:3\n"
    assert not vps.facts().daemon
    vps.stop()
    os.rmdir(vps.node.paths.socket)
    client.stop(vps.node.paths)


def test_one_that_hangs_is_not_waited_for_longer_than_a_few_seconds(vps, monkeypatch):
    Daemon.open(vps.node.paths).close()
    pid = daemon_pid(vps.node)
    monkeypatch.setattr(client, "_TIMEOUT", 0.5)
    os.kill(pid, signal.SIGSTOP)
    warned = []
    try:
        vps.start(report=lambda e: warned.append(str(e)) if "vzeventd" in str(e) else None)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len(warned) == 1
    assert vps.exec(["true"]).returncode == 0
    vps.stop(fast=True)


def test_unused_it_ends(node, vps, cli):
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run}
    command = [tools.ROOT / "bin/vzeventd", "--foreground", "--idle", "1"]
    daemon = subprocess.Popen(command, env=env)
    tools.wait_for(lambda: client.answers(node.paths))
    vps.start()
    time.sleep(1.5)
    assert daemon.poll() is None
    vps.stop(fast=True)
    assert daemon.wait(4) == 0
    tools.wait_for(lambda: keeper_or_none(node) is None, 2, "vz-fdkeep ends, it holds nothing")
    assert not os.path.exists(node.paths.socket)
    cli("vzeventd", "--stop")


def test_started_by_many_at_once_there_is_one(make_node):
    node = make_node()
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run}
    many = [subprocess.Popen([tools.ROOT / "bin/vzeventd"], env=env) for _ in range(8)]
    assert [one.wait() for one in many] == [0] * 8
    leaf = f"{cgroups.mountpoint()}/{node.paths.cgroup}/{summon.LEAF}"
    assert cgroups.tasks(leaf) == [daemon_pid(node)]


def test_nodes_stand_side_by_side(make_node):
    one, two = make_node(), make_node()
    for node in (one, two):
        node.create(101).start()
    assert daemon_pid(one) != daemon_pid(two)
    one.vps(101).exec(["halt", "-f"])
    tools.wait_for(lambda: is_clean(one.vps(101)), 2)
    assert two.vps(101).exec(["true"]).returncode == 0
    client.stop(one.paths)
    say(two.vps(101), "two")
    tools.wait_for(lambda: b"two" in shown(two.vps(101)), 2)


# What it costs


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


# Nobody in it has the console open: its master is then "ready" for nothing.
SILENT = "#!/bin/sh\nexec sleep 1000000 <&- >&- 2>&-\n"


@contextmanager
def many(node, count, init=None):
    made = [node.create(1000 + n) for n in range(count)]
    if init:
        tools.plant(made[0], "/sbin/init", init, 0o755)
    try:
        for vps in made:
            vps.start()
        yield made
    finally:
        for vps in made:
            if vps.facts():
                vps.stop(fast=True)


def test_it_sleeps_and_is_small(node):
    with many(node, 10, SILENT) as vpss:
        pid = daemon_pid(node)
        time.sleep(1)
        before, switches = cpu_seconds(pid), context_switches(pid)
        time.sleep(3)
        assert cpu_seconds(pid) == before
        assert context_switches(pid) == switches
        assert rss_mb(pid) < 20
        for vps in vpss:
            os.kill(vps.facts().pid, signal.SIGKILL)
        tools.wait_for(lambda: all(map(is_clean, vpss)), 10, "all cleaned up")


def context_switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if "ctxt_switches" in x)


def test_a_flood_on_a_console_stays_with_its_vps(node):
    with many(node, 2) as (loud, quiet):
        pid = daemon_pid(node)
        tools.sh(loud, "yes 0123456789 >/dev/console 2>&1 & yes x >/dev/console 2>&1 &")
        time.sleep(0.5)
        before = cpu_seconds(pid)
        for n in range(10):
            say(quiet, f"line-{n}")
            tools.wait_for(lambda: f"line-{n}".encode() in shown(quiet), 1)  # noqa: B023
            time.sleep(0.2)
        spent = cpu_seconds(pid) - before
        assert spent < 1, f"{spent} s of processor in about 2 s"
        assert rss_mb(pid) < 20
        path = Path(state.console_log(node.paths, loud.ctid))
        size = path.stat().st_size + Path(f"{path}.old").stat().st_size
        assert size < 300_000


# The console


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
        end = time.monotonic() + 5
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
    assert vzctl("console", 101, "--log").stdout == "first\r\n"
    vps.start()
    say(vps, "second")
    tools.wait_for(lambda: b"second" in shown(vps))
    assert vzctl("console", 101, "--log").stdout == "second\r\n"


# Its socket


def test_rubbish_and_stalls_harm_nobody(vps):
    vps.start()
    for n in range(50):
        sock = summon.connect(vps.node.paths.socket)
        sock.send(os.urandom(n * 100 + 1))
        sock.close()
    idle = [summon.connect(vps.node.paths.socket) for _ in range(200)]
    bad = Daemon.open(vps.node.paths)
    for message in (
        {"op": "launch"}, {"op": "launch", "ctid": 101, "birth": {}},
        {"op": "launch", "ctid": 101, "birth": {"ids": (1,), "seen": ()}},
        {"op": "console", "ctid": 101}, {"op": "console", "ctid": "x"}, {"op": "watch"},
        {"op": "attach"}, {"op": "input", "data": b"x"}, {"op": "size", "rows": 1, "columns": 1},
    ):
        with pytest.raises(OSError):
            bad.request(message)
    bad.close()
    say(vps, "unharmed")
    tools.wait_for(lambda: b"unharmed" in shown(vps), 2)
    vps.stop(fast=True)
    vps.start()
    for sock in idle:
        sock.close()


def test_it_belongs_to_root(vps):
    vps.start()
    run = vps.node.paths.run
    for name in (vps.node.paths.socket, f"{run}/{summon.FDKEEP}"):
        assert os.stat(name).st_mode & 0o777 == 0o600
    assert os.stat(run).st_mode & 0o777 == 0o700


def test_stop_leaves_nothing_of_it(vps, cli):
    vps.start()
    vps.stop(fast=True)
    vps.destroy()
    assert cli("vzeventd", "--stop").code == 0
    assert os.listdir(vps.node.paths.run) == []
    assert not os.path.exists(f"{cgroups.mountpoint()}/{vps.node.paths.cgroup}")


def test_refusals_of_the_tool(cli):
    assert cli("vzeventd", "--what").code == 20
    assert cli("vzeventd", "--idle", "x").code == 20
    assert cli("vzeventd", "--help").code == 0
    assert cli("vz-fdkeep").code == 20


def test_a_daemon_that_does_not_answer(node, cli):
    """It is told, and when its socket has gone a new one can be started."""
    os.makedirs(node.paths.run, exist_ok=True)
    mute = summon.listen(node.paths.socket)
    try:
        for words in ((), ("--replace",)):
            ran = cli("vzeventd", *words)
            assert (ran.code, ran.stdout) == (3, "")
            assert ran.stderr.startswith("vzeventd: it does not answer")
        assert cli("vzeventd", "--status").stdout == "vzeventd does not answer\n"
    finally:
        mute.close()
    assert cli("vzeventd").code == 0
