"""vz start and stop with ten VPSs, a shutdown, and a machine that lost its power."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import tools
from vzpy import cgroups, config, state
from vzpy.events import silent
from vzpy.story import boot


@pytest.fixture
def ten(node):
    """201 to 210: odd numbers have ONBOOT=yes, 202 has no, the others say nothing."""
    vpss = [node.create(ctid) for ctid in range(201, 211)]
    for vps in vpss:
        if vps.ctid % 2:
            vps.set(onboot="yes", bootorder=vps.ctid)
    vpss[1].set(onboot="no")
    yield vpss
    boot.stop(node, silent)


def running(vpss):
    return {vps.ctid for vps in vpss if vps.facts()}


def test_shutdown_and_boot(node, ten, cli):
    assert cli("vz", "status").stdout == "OpenVZ is stopped.\n"
    done = cli("vz", "start")
    assert done.code == 0
    assert running(ten) == {201, 203, 205, 207, 209}
    order = [line for line in done.stdout.splitlines() if line.startswith("Starting CT")]
    assert order[0] == "Starting CT 209"
    assert cli("vz", "status").stdout == "OpenVZ is running...\n"
    for vps in ten[1:4:2]:  # 202 and 204, by hand
        vps.start()
    assert cli("vz", "stop").code == 0
    assert running(ten) == set()
    assert not any(vps.status.mounted for vps in ten)
    assert cli("vz", "status").code == 3
    cli("vz", "start")
    assert running(ten) == {201, 203, 204, 205, 207, 209}  # 204 came back, 202 may not
    assert cli("vz", "restart").code == 0
    assert running(ten) == {201, 203, 204, 205, 207, 209}


def test_power_failure(node, ten, cli):
    """All processes gone at once, mounts and locks left, the state of another boot."""
    cli("vz", "start")
    for vps in ten:
        facts = vps.facts()
        if facts:
            os.kill(facts.pid, signal.SIGKILL)
            path = f"{node.paths.run}/{vps.ctid}/start.json"
            with open(path) as file:
                text = file.read().replace(facts.boot_id, "00000000-0000-0000-0000-000000000000")
            with open(path, "w") as file:
                file.write(text)
    with open(f"{node.paths.run}/service", "w") as file:
        file.write("00000000-0000-0000-0000-000000000000")
    lockdir = node.config.raw("LOCKDIR")
    with open(f"{lockdir}/204.lck", "w") as file:
        file.write("1\n\n")
    os.utime(f"{lockdir}/204.lck", (1000, 1000))
    ten[1].mount()
    done = cli("vz", "start")
    assert done.code == 0, done
    assert running(ten) == {201, 203, 205, 207, 209}
    assert os.listdir(lockdir) == []
    assert not ten[1].status.mounted
    assert f"Removing stale lock file {lockdir}/204.lck" in done.stdout


def test_a_held_lock_and_a_broken_one_stop_no_other(node, ten, cli):
    with state.Lock(node.config.raw("LOCKDIR"), 203):
        with open(f"{node.paths.conf}/205.conf", "a") as file:
            file.write('DISABLED="yes"\n')
        done = cli("vz", "start")
    assert done.code == 0
    assert running(ten) == {201, 207, 209}
    assert "CT 205: Container start disabled" in done.stderr
    assert "CT 203: Locked by: pid" in done.stderr


@tools.needs("cpu controller")
def test_the_host_is_one_competitor_with_units_of_its_own(node, vps, cli, vzctl):
    """VE0CPUUNITS at `vz start`, another number by hand; the VPSs together weigh against it."""
    config.save(f"{node.paths.etc}/vz.conf", {"VE0CPUUNITS": "2000"})
    vps.set(onboot="yes", cpuunits="3000")
    assert cli("vz", "start").code == 0
    above = f"{cgroups.mountpoint()}/{node.paths.cgroup}"
    assert cgroups.read(above, "cpu.weight") == "150\n"
    done = vzctl("set", 0, "--cpuunits", 500, "--save")
    assert done.code == 0 and done.stdout.startswith("Setting CPU units: 500\n"), done
    assert cgroups.read(above, "cpu.weight") == "600\n"
    assert 'CPUUNITS="500"' in Path(node.paths.conf, "0.conf").read_text()
    vps.set(cpuunits="1000", save=False)
    assert cgroups.read(above, "cpu.weight") == "200\n"
    assert vzctl("set", 0, "--numproc", 100).code == 1
    boot.stop(node, silent)


@tools.needs("cpu controller", "io controller")
def test_limits_are_lifted_before_all_stop(node, vps):
    vps.set(cpulimit="30", iolimit="1M", cpuunits="8")
    vps.start()
    boot._lift_limits(vps)
    cgroup = vps.facts().cgroup
    assert cgroups.read(cgroup, "cpu.max") == "max 100000\n"
    assert cgroups.read(cgroup, "cpu.weight") == "200\n"
    assert "wbps=1048576" not in cgroups.read(cgroup, "io.max")
    assert vps.config.value("CPULIMIT") == 30


def test_vzpid(node, vps, cli):
    vps.start()
    pid = vps.facts().pid
    assert cli("vzpid", "-p", pid).stdout.splitlines()[1] == f"{pid}\t1\t101\tinit"
    assert cli("vzpid", os.getpid()).stdout.splitlines()[1].split("\t")[1] == "0"


def test_doctor_says_that_a_vps_starts(node, cli, vps):
    done = cli("vz", "doctor")
    assert done.code == 0
    assert done.stdout.endswith("A VPS can start here.\n")
    vps.start()
