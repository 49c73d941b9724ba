"""Devices of a VPS: what each has, what is granted at start and live, and the fence around it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import abilities
import pytest

from tools import needs, sh
from vzpy.errors import Exit

REFUSED = "Operation not permitted"
TUN = "net/tun"


def opens(vps, path: str, mode: str = "<>") -> str:
    """"" when a path can be opened inside, else what the shell says."""
    done = vps.exec(["sh", "-c", f"exec 3{mode}{shlex.quote(path)}"])
    return done.stderr.decode().strip().rpartition(": ")[2] if done.returncode else ""


def exists(vps, name: str) -> bool:
    return vps.exec(["test", "-e", f"/dev/{name}"]).returncode == 0


def number(path: str) -> str:
    about = os.stat(path).st_rdev
    return f"{os.major(about)}:{os.minor(about)}"


def plant_node(vps, name: str, device: str) -> str:
    """A device node in the root of a stopped VPS, as an old template may bring it along."""
    at = Path(vps.private, "upper", name)
    os.mknod(at, os.stat(device).st_mode, os.stat(device).st_rdev)
    at.chmod(0o666)
    os.chown(at, vps.ids.base, vps.ids.base)
    return f"/{name}"


def test_what_every_vps_has(vps):
    vps.start()
    for name in ("null", "zero", "full", "random", "urandom", "ptmx"):
        assert opens(vps, f"/dev/{name}") == "", name
    assert not exists(vps, TUN)
    # What is removed of a lower layer is a device 0:0 in the upper one.
    sh(vps, "rm /usr/bin/yes && ! test -e /usr/bin/yes")


@needs("BPF programs", "tun")
def test_granted_at_start(vps, vzctl, parent):
    ran = vzctl("set", 101, "--devnodes", f"{TUN}:rw", "--iolimit", "100", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    ran = vzctl("start", 101)
    assert ran.code == 0, ran
    told = [line.partition(":")[0] for line in ran.stdout.splitlines() if "Setting" in line]
    disks = ["Setting iolimit"] if "iolimit" not in ran.stderr else []
    assert told == ["Setting CPU units", "Setting devices", *disks]
    assert "devnodes" not in ran.stderr
    assert opens(vps, f"/dev/{TUN}") == ""
    host = os.stat(f"/dev/{TUN}")
    assert sh(vps, f"stat -c '%a %u:%g' /dev/{TUN}") == (
        f"{host.st_mode & 0o777:o} {host.st_uid}:{host.st_gid}\n"
    )
    assert sh(vps, "ls /dev/.vz") == "proc\nsys\n"


@needs("BPF programs", "tun")
def test_granted_and_taken_while_it_runs(vps, vzctl):
    vps.start()
    ran = vzctl("set", 101, "--devnodes", f"{TUN}:rw", "--save")
    assert (ran.code, ran.stderr) == (0, ""), ran
    assert ran.stdout == f"Setting devices\nCT configuration saved to {vps.conf_path}\n"
    assert opens(vps, f"/dev/{TUN}") == ""

    # What was set without --save stays when something else is set.
    assert vzctl("set", 101, "--devnodes", "zero:rw").code == 0
    assert vzctl("set", 101, "--devices", "c:1:5:r", "--save").code == 0
    assert opens(vps, f"/dev/{TUN}") == "" and opens(vps, "/dev/zero", "<") == ""

    ran = vzctl("set", 101, "--devnodes", f"{TUN}:none", "--save")
    assert (ran.code, ran.stderr) == (0, ""), ran
    assert not exists(vps, TUN)
    assert f'DEVNODES="{TUN}:none"' in Path(vps.conf_path).read_text()


@needs("BPF programs", "tun")
def test_the_fence(vps, vzctl, node):
    """A node alone opens nothing; what one VPS is granted no other one has."""
    planted = plant_node(vps, "planted", f"/dev/{TUN}")
    vps.start()
    other = node.create(102)
    plant_node(other, "planted", f"/dev/{TUN}")
    other.start()
    assert opens(vps, planted) == opens(other, planted) == REFUSED

    device = f"c:{number(f'/dev/{TUN}')}"
    assert vzctl("set", 101, "--devices", f"{device}:r", "--save").code == 0
    assert opens(vps, planted, "<") == "" and opens(vps, planted, ">") == REFUSED
    assert vzctl("set", 101, "--devices", f"{device}:rw", "--save").code == 0
    assert opens(vps, planted) == "" and opens(other, planted) == REFUSED
    assert vzctl("set", 101, "--devices", "c:1:8:none", "--save").code == 0
    assert opens(vps, "/dev/random", "<") == REFUSED and opens(other, "/dev/random", "<") == ""
    assert opens(vps, planted) == ""

    assert vzctl("restart", 101, "--fast").code == 0
    assert opens(vps, planted) == "" and opens(vps, "/dev/random", "<") == REFUSED
    os.close(os.open("/dev/random", os.O_RDONLY))


@needs("BPF programs", "tun")
@pytest.mark.parametrize("trap", [
    "ln -s /etc /dev/net", "mkdir /dev/net; ln -s /etc/passwd /dev/net/tun",
    "mkdir -p /dev/net/tun",
])
def test_a_guest_that_lays_a_trap(vps, vzctl, trap):
    vps.start()
    sh(vps, f"{trap}; ls -l /etc >/tmp/before")
    ran = vzctl("set", 101, "--devnodes", f"{TUN}:rw", "--save")
    assert ran.code == Exit.SET_DEVICES
    assert ran.stderr.startswith("Unable to create device: "), ran
    assert "DEVNODES" not in Path(vps.conf_path).read_text()
    assert "/dev/net" not in sh(vps, "mount") and sh(vps, "ls /dev/.vz") == "proc\nsys\n"
    sh(vps, "ls -l /etc | cmp - /tmp/before; rm -rf /dev/net")
    assert vzctl("set", 101, "--devnodes", f"{TUN}:rw", "--save").code == 0
    assert opens(vps, f"/dev/{TUN}") == ""


@needs("BPF programs", "tun")
def test_a_guest_that_takes_its_node_away(vps, vzctl):
    vzctl("set", 101, "--devnodes", f"{TUN}:rw", "--save")
    vps.start()
    sh(vps, f"umount /dev/{TUN}; rm -r /dev/net")
    assert vzctl("set", 101, "--devnodes", f"{TUN}:none").code == 0
    assert vzctl("set", 101, "--devnodes", f"{TUN}:rw").code == 0
    assert opens(vps, f"/dev/{TUN}") == ""


@needs("BPF programs")
def test_a_device_the_host_has_not(vps, vzctl):
    with open(vps.conf_path, "a") as f:
        f.write('DEVNODES="nosuch/thing:rw"\nFEATURES="nfs:on sysfs:on"\n')
    ran = vzctl("start", 101)
    assert ran.code == 0
    assert "features nfs, devnodes nosuch/thing" in ran.stderr and "sysfs" not in ran.stderr


def test_a_stopped_vps_without_save(vps, vzctl):
    ran = vzctl("set", 101, "--devices", "c:10:200:rw")
    assert (ran.code, ran.stderr) == (
        Exit.VE_NOT_RUNNING, "Unable to apply devperm: container is not running\n"
    )


@needs("BPF programs", "empty disk")
def test_a_disk_for_reading(vps, vzctl):
    """A block device is readable with r, and nothing else (checklist 16)."""
    disk = abilities.empty_disk()
    plant_node(vps, "planted", disk)
    vps.start()
    assert opens(vps, "/planted", "<") == REFUSED
    assert vzctl("set", 101, "--devices", f"b:{number(disk)}:r", "--save").code == 0
    sh(vps, "dd if=/planted of=/dev/null bs=4096 count=1")
    assert opens(vps, "/planted", ">") == REFUSED
