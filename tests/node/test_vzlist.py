"""vzlist on real VPSs."""

from __future__ import annotations

import json
import os
import time

import tools
from tools import wait_for
from vzpy import loadavg
from vzpy.eventd import counters


def test_a_running_and_a_stopped_vps(node, cli):
    one = node.create(101, hostname="one.example", ipadd=["10.1.1.1/24"])
    node.create(102, layout="simfs", name="two")
    one.start()
    rows = cli("vzlist", "-aH", "-o", "ctid,numproc,status,layout,ip,hostname").stdout.splitlines()
    ctid, numproc, *rest = rows[0].split()
    assert (ctid, rest) == ("101", ["running", "overlay", "10.1.1.1", "one.example"])
    assert int(numproc) >= 1
    assert rows[1] == "       102          - stopped   simfs   -               -"
    assert cli("vzlist", "-1").stdout == "       101\n"
    assert cli("vzlist", "-S1").stdout == "       102\n"
    assert cli("vzlist", "-H", "-o", "smart_name", "two").stdout == "       two\n"
    one.stop(fast=True)
    assert cli("vzlist", "-1").stdout == ""
    assert cli("vzlist", "-1").stderr == "Container(s) not found\n"


def test_numproc_counts_what_runs(vps, cli):
    def numproc() -> int:
        return int(cli("vzlist", "-H", "-o", "numproc", 101).stdout)

    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)  # one that starts nothing more meanwhile
    vps.start()
    before = numproc()
    vps.exec(["sh", "-c", "sleep 600 & sleep 600 & sleep 600 &"])
    wait_for(lambda: numproc() == before + 3, what="three more")
    seen = len(vps.exec(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.split())
    assert abs(numproc() + 2 - seen) <= 1  # sh and ls look themselves
    vps.stop(fast=True)


def test_load_averages(vps, cli):
    """Two that always run: what a look after a minute makes of it; and what vzlist shows."""
    vps.start()
    assert cli("vzlist", "-H", "-o", "laverage").stdout == "             -\n"
    vps.exec(["sh", "-c", "for i in 1 2; do while :; do :; done & done >/dev/null 2>&1"])
    cgroup = vps.facts().cgroup
    counters.look(vps.node.paths)
    assert cli("vzlist", "-H", "-o", "laverage").stdout == "0.00/0.00/0.00\n"
    minute_ago = time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    os.setxattr(cgroup, loadavg._KEPT, b"0 0 0 %.1f" % minute_ago)
    counters.look(vps.node.paths)
    text = cli("vzlist", "-H", "-o", "laverage").stdout
    one, five, fifteen = map(float, text.split("/"))
    # Who has started them may still be about on a busy machine.
    assert 1.2 < one < 3 and 0.3 < five < one and 0.1 < fifteen < five
    shown = json.loads(cli("vzlist", "-j", "-o", "laverage").stdout)
    assert shown == [{"laverage": [one, five, fifteen]}]
    assert f"[{text.strip().replace('/', ', ')}]" in cli("vzlist", "-j", "-o", "laverage").stdout


def test_mounted_and_suspended(node, vps, cli):
    def status() -> str:
        return cli("vzlist", "-aH", "-o", "status").stdout.strip()

    assert status() == "stopped"
    vps.mount()
    assert status() == "mounted"
    vps.umount()
    dump = f"{node.config.raw('DUMPDIR')}/Dump.101"
    open(dump, "w").close()
    assert status() == "suspended"
    os.unlink(dump)


def test_uptime_is_the_vps_own(vps, cli):
    vps.start()
    row = json.loads(cli("vzlist", "-j", "-o", "uptime,status").stdout)[0]
    assert row["status"] == "running"
    assert 0 <= row["uptime"] < 60
    vps.stop(fast=True)


def test_a_vps_that_was_killed_is_stopped(vps, cli):
    vps.start()
    pid = vps.facts().pid
    os.kill(pid, 9)
    wait_for(lambda: not vps.facts())
    assert cli("vzlist", "-aH", "-o", "status").stdout.strip() in ("mounted", "stopped")
    vps.settle()
    assert cli("vzlist", "-aH", "-o", "status").stdout.strip() == "stopped"


def test_a_reader_who_leaves(node, vps):
    import subprocess

    from tools import ENV, ROOT

    read, write = os.pipe()
    os.close(read)
    env = {**ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run}
    done = subprocess.run(
        [ROOT / "bin/vzlist", "-a"], stdout=write, stderr=subprocess.PIPE, env=env
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
