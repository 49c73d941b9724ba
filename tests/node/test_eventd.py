"""The node daemon with real VPSs and real ends: what it does, what it costs, who may talk to it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon import daemon_pid, is_clean, log, say, shown

import tools
from vzpy import cgroups, state
from vzpy.eventd import summon
from vzpy.eventd.client import Daemon
from vzpy.kernel import proc

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
    begun = time.monotonic()
    tools.wait_for(lambda: log(vps.node).count("Container reboots") >= 3, 6)
    assert time.monotonic() - begun > 2.5  # at 0, 1 and 3 s after the first
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

        def effort():
            return cpu_seconds(pid), context_switches(pid)

        def sleeps() -> bool:
            before = effort()
            time.sleep(3)
            return effort() == before

        tools.wait_for(sleeps, 5, "three seconds without anything")
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
        begun, before = time.monotonic(), cpu_seconds(pid)
        for n in range(10):
            say(quiet, f"line-{n}")
            tools.wait_for(lambda: f"line-{n}".encode() in shown(quiet), 1)  # noqa: B023
            time.sleep(0.2)
        spent, passed = cpu_seconds(pid) - before, time.monotonic() - begun
        assert spent < passed / 2, f"{spent} s of processor in {passed} s"
        assert rss_mb(pid) < 20
        path = Path(state.console_log(node.paths, loud.ctid))

        def size() -> int:
            try:
                return path.stat().st_size + Path(f"{path}.old").stat().st_size
            except FileNotFoundError:  # one is just becoming the other
                return 0

        assert tools.wait_for(size) < 300_000


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
        {"op": "launch"}, {"op": "launch", "ctid": 101},
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
