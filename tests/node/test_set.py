"""`vzctl set` on VPSs of the real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

import tools
from vzpy.errors import Exit


def test_hostname_of_a_running_vps(vps, vzctl):
    vps.start()
    ran = vzctl("set", 101, "--hostname", "new.example", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    assert tools.sh(vps, "hostname; cat /etc/hostname") == "new.example\n" * 2
    assert "new.example" in tools.sh(vps, "cat /etc/hosts")
    assert Path(vps.conf_path).read_text().count('HOSTNAME="new.example"') == 1


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_userpasswd(vps, vzctl, running):
    if running:
        vps.start()
    before = Path(vps.conf_path).read_text()
    ran = vzctl("set", 101, "--userpasswd", "joe:s3cret", "--userpasswd", "ann:other", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.stdout == "No changes in CT configuration, not saving\n"
    assert vps.status.running == running and vps.status.mounted == running
    assert Path(vps.conf_path).read_text() == before
    if not running:
        vps.start()
    shadow = tools.sh(vps, "cat /etc/shadow")
    hashes = [line.split(":")[1] for line in shadow.splitlines() if line[:4] in ("joe:", "ann:")]
    assert len(hashes) == 2 and all(len(one) > 10 for one in hashes)
    assert "s3cret" not in Path(vps.node.config.raw("LOGFILE")).read_text()


def test_a_hostile_password_tool(vps, vzctl):
    """What the guest's programs do stays inside; a failure is the contract's."""
    tools.plant(vps, "/bin/chpasswd", "#!/bin/sh\nexit 1\n", 0o755)
    tools.plant(vps, "/usr/sbin/chpasswd", "#!/bin/sh\nexit 1\n", 0o755)
    tools.plant(vps, "/sbin/chpasswd", "#!/bin/sh\nexit 1\n", 0o755)
    vps.start()
    ran = vzctl("set", 101, "--userpasswd", "root:x")
    assert (ran.code, ran.stdout) == (Exit.CHANGEPASS, "Password change failed\n")


def test_capability_with_setmode_restart(vps, vzctl):
    vps.start()
    born = vps.facts().pid
    ran = vzctl("set", 101, "--capability", "chown:off", "--save")
    assert ran.code == 0
    assert ran.stderr.startswith("Unable to set capability on a running container\nWARNING: ")
    assert vps.facts().pid == born

    ran = vzctl("set", 101, "--capability", "kill:off", "--setmode", "restart", "--save")
    assert ran.code == 0, ran
    assert "Container was stopped\n" in ran.stdout and "Starting container...\n" in ran.stdout
    assert vps.facts().pid != born
    bounding = int(tools.sh(vps, "grep CapBnd /proc/1/status").split()[1], 16)
    assert not bounding & (1 << 0) and not bounding & (1 << 5) and bounding & (1 << 1)


@pytest.mark.needs("pids controller")
def test_numproc_bites_at_once(vps, vzctl):
    vps.start()
    ran = vzctl("set", 101, "--numproc", "20", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.stdout.startswith("UB limits were set successfully\n")
    line = "for i in $(seq 40); do sleep 5 & done; wait"
    assert "fork" in vzctl("exec", 101, line).stderr


@pytest.mark.needs("memory controller")
def test_ram_is_written(vps, vzctl):
    vps.start()
    assert vzctl("set", 101, "--ram", "64M", "--swap", "64M", "--save").code == 0
    assert Path(vps.facts().cgroup, "memory.max").read_text() == f"{64 << 20}\n"


def test_what_this_version_cannot_do_is_said(vps, vzctl):
    vps.start()
    ran = vzctl("set", 101, "--pci_add", "00:1f.2")
    assert ran.code and ran.stdout == "" and "pci_add" in ran.stderr
    assert "1f.2" not in Path(vps.conf_path).read_text()
    ran = vzctl("set", 101, "--pci_add", "00:1f.2", "--cpuweight", "5", "--save")
    assert ran.code == 0 and ran.stdout.startswith("CT configuration saved to ")
    assert len(ran.stderr.splitlines()) == 1
    assert "pci_add" in ran.stderr and "cpuweight" in ran.stderr


def test_runscript(vps, vzctl, tmp_path):
    script = tmp_path / "script"
    script.write_text("echo in $PWD $(id -u); exit 9\n")
    assert (vzctl("runscript", 101, script).code, vps.status.mounted) == (9, False)
    vps.start()
    ran = vzctl("runscript", 101, script)
    assert (ran.code, ran.stdout) == (9, "in / 0\n")


def test_dns_of_a_running_vps_and_at_the_next_start(vps, vzctl):
    tools.plant(vps, "/etc/resolv.conf", "options rotate\nnameserver 9.9.9.9\n", 0o644)
    vps.start()
    ran = vzctl("set", 101, "--nameserver", "10.0.0.1", "--nameserver", "fd00::1",
                "--searchdomain", "a.example", "--save")  # fmt: skip
    assert (ran.code, ran.stderr) == (0, "")
    wanted = "search a.example\noptions rotate\nnameserver 10.0.0.1\nnameserver fd00::1\n"
    assert tools.sh(vps, "cat /etc/resolv.conf; stat -c %u%g /etc/resolv.conf") == f"{wanted}00\n"
    tools.sh(vps, "echo nameserver 9.9.9.9 >/etc/resolv.conf")
    assert vzctl("restart", 101, "--fast").code == 0
    text = tools.sh(vps, "cat /etc/resolv.conf")
    assert text == "search a.example\nnameserver 10.0.0.1\nnameserver fd00::1\n"
