"""Snapshots and dumps on file systems of their own: reflinks, quota, power cuts."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from belongings import furnish, picture
from test_quota import mount_disk, umount_disk

import tools
from tools import sh
from vzpy import config
from vzpy.backup import Job
from vzpy.events import silent
from vzpy.story import snapshot, states

pytestmark = tools.needs("disks", "mkfs.xfs", "mkfs.btrfs")
MIB = 1 << 20


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request, bed, leaks):
    where = f"{bed.folder}/disk"
    mount_disk(request.param, "usrquota,grpquota,prjquota", where)
    yield where
    umount_disk(where)


@pytest.fixture
def fstype(disk, request) -> str:
    return str(request.node.callspec.params["disk"])


@pytest.fixture
def node(disk, make_node):
    made = make_node()
    config.save(f"{made.paths.etc}/vz.conf", {"VE_PRIVATE": f"{disk}/private/$VEID"})
    return type(made)(etc=made.paths.etc, run=made.paths.run)


def used(disk: str) -> int:
    """Bytes in use, all written back."""
    os.sync()
    about = os.statvfs(disk)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def df(vps) -> int:
    """KiB that the VPS sees as used."""
    return int(sh(vps, "df -k / | tail -n 1").split()[2])


@pytest.mark.parametrize(
    "disk,layout",
    [*((fs, layout) for fs in ("ext4", "xfs", "btrfs") for layout in ("overlay", "simfs")),
     ("xfs", "image")],
    indirect=["disk"],
)
def test_everything(node, disk, fstype, layout):
    """Each file as it was; a copy shares its data where the file system can."""
    vps = node.create(101, layout=layout, diskspace="300M", diskinodes=50000)
    furnish(vps)
    before = picture(vps)
    guid = vps.snapshot()
    vps.start()
    sh(vps, "rm /home/one/plain; echo x > /etc/group; mkdir /new;"
            " dd if=/dev/urandom of=/new/big bs=1M count=64 conv=fsync 2>/dev/null")
    filled, shown = used(disk), df(vps)
    began = time.monotonic()
    running = vps.snapshot()
    print(f"\n{fstype} {layout}: {time.monotonic() - began:.2f} s for a snapshot with 64 MiB")
    grown = used(disk) - filled
    if fstype != "ext4":
        assert grown < 16 * MIB, grown
    assert abs(df(vps) - shown) < 4096  # a copy of the host's does not count for the VPS
    vps.snapshot_switch(guid, skip_config=True)
    after = picture(vps)
    assert {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)} == set()
    vps.snapshot_switch(running)
    assert vps.status.running
    assert int(sh(vps, "stat -c %s /new/big")) == 64 * MIB
    # And the quota holds for what took the place.
    assert abs(df(vps) - shown) < 4096
    sh(vps, "dd if=/dev/zero of=/fill bs=1M count=400 2>/dev/null; true")
    assert int(sh(vps, "stat -c %s /fill")) < 290 * MIB or fstype == "btrfs" and layout != "image"
    vps.stop(fast=True)
    for one in vps.snapshots():
        vps.snapshot_delete(one.guid)
    assert set(os.listdir(states.of(vps).folder)) <= {"stack"}


@pytest.mark.parametrize("disk", ["xfs"], indirect=True)
def test_dumps(node, disk, tmp_path):
    for layout, ctid in (("overlay", 101), ("simfs", 102), ("image", 103)):
        vps = node.create(ctid, layout=layout, diskspace="100M", diskinodes=50000)
        vps.start()
        sh(vps, "echo one > /data")
        for mode in ("suspend", "snapshot", "stop"):
            path = vps.dump(Job(mode=mode, dumpdir=str(tmp_path)))
            new = node.restore(path, 200)
            assert new.layout == layout
            new.start()
            assert sh(new, "cat /data") == "one\n"
            new.stop(fast=True)
            new.destroy()
            os.unlink(path)
        vps.stop(fast=True)
        vps.destroy()


@pytest.mark.parametrize("disk", ["ext4", "xfs"], indirect=True)  # btrfs has no such ioctl
@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_power_cut(node, disk, layout):
    """The file system as it is on the disk at each step: old or new, nothing in between."""
    vps = node.create(101, layout=layout)
    private = Path(vps.private)
    top = private / "upper" if layout == "overlay" else private
    (top / "data").write_text("a")
    guid = vps.snapshot()
    area = states.of(vps)
    for step in ("prepare", "journal", "moves", "move", "stack", "files", "file", "journal-end"):
        (top / "data").write_text(step)
        os.sync()
        env = {"VZ_TEST_STOP_AT": step}
        tools.run_tool(node, ("vzctl", "snapshot-switch", 101, "--id", guid), env=env)
        with cut_power(disk):
            snapshot.recover(vps, silent)
            found = (top / "data").read_text() if (top / "data").exists() else below(area)
            assert found in ("a", step), step
            assert len(vps.snapshots()) == 1
        vps.snapshot_switch(guid)


def below(area) -> str:
    """From the topmost layer of the present state."""
    return Path(area.folder, area.stack()[0], "data").read_text()


class cut_power:
    """The disk as a crash leaves it: shut down without a flush (XFS_IOC_GOINGDOWN), and mounted
    again."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        from fcntl import ioctl

        fd = os.open(self.where, os.O_RDONLY)
        ioctl(fd, 0x8004587D, (2).to_bytes(4, "little"))  # EXT4 and XFS alike: NOLOGFLUSH
        os.close(fd)
        device = os.environ["VZ_TEST_DISKS"].split()[0]
        tools.wait_for(lambda: not subprocess.run(["umount", self.where]).returncode)
        options = "usrquota,grpquota,prjquota"
        subprocess.run(["mount", "-o", options, device, self.where], check=True)

    def __exit__(self, *exc: object) -> None:
        pass
