"""Which VPS ran into which limit, as the daemon tells; and how one that thrashes is rescued."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time

import pytest

from tools import needs, run_tool, sh, wait_for, zram_swap
from vzpy.errors import VzError
from vzpy.eventd.client import Daemon
from vzpy.limitlog import path_of

# Eats memory until it is killed, `$0` MiB at once.
HOG = "exec dd if=/dev/zero of=/dev/null bs=$0M count=1"


def started(vps, **params):
    """Born with the daemon: on a machine that is emulated and busy it may be late for a start."""
    wait_for(lambda: run_tool(vps.node, ("vzeventd",)).code == 0, 10, "the daemon")
    vps.set(**params)
    vps.start()
    assert vps.running().daemon
    return vps


def told(node, what, count=1):
    """The hits of a kind, when there are so many."""
    def found():
        hits = [hit for hit in node.events() if hit.what == what]
        return hits if sum(hit.count for hit in hits) >= count else None

    return wait_for(found, 10, f"{count} of {what}: {[str(h) for h in node.events()]}")


def fork(vps, count):
    """Start so many processes; a shell gives up at the first that cannot be, awk does not."""
    line = f'BEGIN {{ for (i = 0; i < {count}; i++) system("sleep 3 &") }}'
    vps.exec(["awk", line])


def test_without_events(node, cli):
    node.create(101)
    assert cli("vz", "events").stdout == cli("vz", "events", "--json", "101").stdout == ""
    wrong = cli("vz", "events", "nobody")
    assert (wrong.code, wrong.stderr) == (21, "Bad CT ID nobody\n")
    os.makedirs(path_of(node.paths.state))
    wrong = cli("vz", "events")
    assert wrong.code == 3 and wrong.stderr.startswith("Unable to read events: ")
    os.rmdir(path_of(node.paths.state))


def test_rescue_refuses(node, cli):
    vps = node.create(101)
    assert cli("vz", "rescue", 101).code == 31
    assert cli("vz", "rescue", 102).code == 14
    vps.set(applyconfig="basic")
    vps.start()
    refused = cli("vz", "rescue", 101)
    assert refused.code == 1 and "no memory limit" in refused.stderr
    assert vps.exec(["true"]).returncode == 0


@needs("pids controller")
def test_refused_forks_are_told_once(vps, node, cli):
    started(vps, numproc=20)
    fork(vps, 60)
    failcnt = next(row.failcnt for row in vps.beancounters() if row.name == "numproc")
    assert failcnt > 10
    hits = told(node, "numproc", failcnt)
    assert sum(hit.count for hit in hits) == failcnt == hits[-1].total
    assert {hit.ctid for hit in hits} == {101} and {hit.limit for hit in hits} == {20}
    line = cli("vz", "events", 101).stdout.splitlines()[-1]
    assert line.endswith(f" at the limit of 20, {failcnt} since the start")
    assert json.loads(cli("vz", "events", "--json").stdout.splitlines()[-1])["what"] == "numproc"
    assert cli("vz", "events", 999999).stdout == ""


@needs("memory controller")
def test_an_oom_kill_is_told_by_name_and_size(vps, node):
    started(vps, ram="32M", swap="0")
    assert vps.exec(["sh", "-c", HOG, "100"]).returncode != 0
    (kill,) = told(node, "oom_kill")
    assert (kill.comm, kill.ctid) == ("dd", 101)
    assert 16 << 20 < kill.rss < 33 << 20
    assert f"CT 101 : OOM killed process {kill.pid} (dd)" in open(node.config.raw("LOGFILE")).read()
    assert told(node, "physpages")[0].limit == (32 << 20) // 4096


@needs("memory controller", "pids controller")
def test_nothing_is_told_twice_or_lost_over_the_death_of_the_daemon(vps, node, cli):
    started(vps, ram="32M", swap="0", numproc=20)
    vps.exec(["sh", "-c", HOG, "100"])
    told(node, "oom_kill")
    daemon = Daemon.open(node.paths, start=False)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.close()
    vps.exec(["sh", "-c", HOG, "100"])  # nobody watches
    fork(vps, 40)
    wait_for(lambda: cli("vzeventd").code == 0, 10, "the daemon")
    hits = told(node, "oom_kill", 2)
    assert sum(hit.count for hit in hits) == 2
    told(node, "numproc", 5)
    time.sleep(2)
    assert sum(hit.count for hit in node.events() if hit.what == "oom_kill") == 2


@needs("memory controller")
def test_followed(vps, node):
    started(vps, ram="32M", swap="0")
    coming = (hit for hit in node.events(101, follow=True) if hit.what == "oom_kill")
    found = []
    reader = threading.Thread(target=lambda: found.extend(itertools.islice(coming, 2)))
    reader.start()
    for _ in range(2):
        vps.exec(["sh", "-c", HOG, "100"])
    reader.join(60)
    assert [hit.comm for hit in found] == ["dd", "dd"]


@needs("memory controller", "zram swap")
def test_one_that_thrashes_is_rescued(vps, node, cli):
    with zram_swap(512):
        started(vps, ram="64M", swap="256M")
        # Touches 160 MiB again and again: each page is somewhere else by the time it comes round.
        big = "awk 'BEGIN{for(n=0;n<2500000;n++)a[n]=n; while(1)for(k in a)a[k]++}'"
        vps.exec(["sh", "-c", f"({big}; {big}) >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 &"])
        cgroup = vps.running().cgroup

        def thrashes():
            with open(f"{cgroup}/memory.pressure") as f:
                return float(f.read().split("full avg10=")[1].split()[0]) > 15

        wait_for(thrashes, 20, "thrashing")
        done = cli("vz", "rescue", 101)
        assert done.code == 0, done
        lines = done.stdout.splitlines()
        assert lines[0] == "Container stands still" and "Container goes on" in lines
        assert any(line.startswith("Killed process") and "(awk)" in line for line in lines), lines
        assert int(open(f"{cgroup}/memory.max").read()) == 64 << 20
        assert "sleep" in sh(vps, "ps")
        (rescue,) = [hit for hit in node.events() if hit.what == "rescue"]
        assert "(awk)" in rescue.text


@needs("memory controller")
def test_one_that_is_well_is_left_alone(vps, node, cli, monkeypatch):
    started(vps, ram="64M", swap="64M")
    done = cli("vz", "rescue", 101)
    assert done.code == 0 and "Killed" not in done.stdout and "Container goes on" in done.stdout
    assert sh(vps, "echo well") == "well\n"
    monkeypatch.setenv("VZ_TEST_FAIL_AT", "rescue-frozen")
    with pytest.raises(VzError):
        vps.rescue()
    monkeypatch.delenv("VZ_TEST_FAIL_AT")
    assert sh(vps, "echo goes on") == "goes on\n"
    assert cli("vz", "rescue", 101, env={"VZ_TEST_STOP_AT": "rescue-frozen"}).code == -9
    assert "frozen 1" in open(f"{vps.running().cgroup}/cgroup.events").read()
    assert cli("vz", "rescue", 101).code == 0
    assert sh(vps, "echo so it does") == "so it does\n"


def test_the_log_is_where_the_node_keeps_what_lasts(node):
    assert path_of(node.paths.state) == f"{node.paths.etc}/var/limits.log"
