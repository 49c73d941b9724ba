"""The node daemon killed, renewed, ended and missing."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from daemon import cmdline, daemon_pid, is_clean, keeper_pid, kill, log, say, shown

import tools
from vzpy import cgroups
from vzpy.eventd import client, summon
from vzpy.eventd.client import Daemon
from vzpy.kernel import proc, watch
from vzpy.story.start import STEPS


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
    again = cli("vzeventd", "--stop")
    assert (again.code, again.stderr) == (3, "vzeventd is not running\n")


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
    assert daemon.wait(4 * tools.PATIENCE) == 0
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
