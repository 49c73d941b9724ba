"""Disk quota of VPSs on real file systems. Only the virtual machine has the disks for it."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

import tools
from vzpy import config, quota, quotafile, quotaid
from vzpy.commands import vzdqcheck
from vzpy.errors import Exit, VzError
from vzpy.events import Step
from vzpy.kernel import quotactl as q
from vzpy.quotaid import Quota
from vzpy.record import replace

pytestmark = tools.needs("disks", "project quota")
MKFS = {
    "ext4": ("mkfs.ext4", "-qF", "-O", "project,quota", "-E",
             "quotatype=usrquota:grpquota:prjquota,lazy_itable_init=1"),
    "xfs": ("mkfs.xfs", "-qf"),
}  # fmt: skip


def of(vps) -> Quota:
    return Quota(vps.ctid, vps.node.paths.quota_file(vps.ctid))


def df(vps, *options) -> list[int]:
    """Size, used, available of / inside, in KiB or (-i) inodes."""
    line = tools.sh(vps, f"df -P {' '.join(options)} / | tail -n 1")
    return [int(word) for word in line.split()[1:4]]


def timer(vps) -> int:
    """When the soft limit turns hard."""
    return in_kernel(vps).btime


def in_kernel(vps) -> q.Dqblk:
    found = of(vps).load("show")
    fd = quota.open_tree(found.path)
    try:
        return q.getquota(fd, q.PRJQUOTA, found.project)
    finally:
        os.close(fd)


def write(vps, path: str, kib: int, user: str = "") -> tuple[int, str]:
    """Write so much inside, as far as it goes: the bytes that are there then, and dd's words."""
    line = f"dd if=/dev/zero of={path} bs=4k count={kib // 4} conv=fsync 2>&1"
    argv = ["su", "-s", "/bin/sh", user, "-c", line] if user else ["sh", "-c", line]
    done = vps.exec(argv)
    # A full xfs makes not even a name.
    return int(tools.sh(vps, f"stat -c %s {path} || echo 0")), done.stdout.decode()


def joe(vps) -> None:
    """A user, and a folder for everybody."""
    tools.sh(vps, "mkdir -m 777 /d; echo joe:x:1000:1000::/:/bin/sh >>/etc/passwd")


def mount_disk(fstype: str, options: str, where: str) -> None:
    disk = os.environ["VZ_TEST_DISKS"].split()[0]
    os.makedirs(where)
    if fstype == "btrfs":
        subprocess.run(["mkfs.btrfs", "-qf", disk], check=True)
        options = "rw"
    else:
        subprocess.run([*MKFS[fstype], disk], check=True)
    subprocess.run(["mount", "-o", options, disk, where], check=True)
    if fstype == "btrfs":
        subprocess.run(["btrfs", "quota", "enable", where], check=True)


def umount_disk(where: str) -> None:
    """The remover of private areas may still be at work there."""
    tools.wait_for(lambda: not subprocess.run(["umount", where]).returncode, what=where)
    os.rmdir(where)


@pytest.fixture(params=["ext4", "xfs"])
def disk(request, bed, leaks):
    where = f"{bed.folder}/disk"
    mount_disk(request.param, "usrquota,grpquota,prjquota", where)
    yield where
    umount_disk(where)


@pytest.fixture
def node(disk, make_node):
    """Private areas lie on the disk."""
    made = make_node()
    config.save(f"{made.paths.etc}/vz.conf", {"VE_PRIVATE": f"{disk}/private/$VEID"})
    start_daemon(made)
    return type(made)(etc=made.paths.etc, run=made.paths.run)


def start_daemon(node) -> None:
    """In the network namespace of the machine, which alone hears the kernel's quota warnings."""
    ran = tools.run_tool(node, ("vzeventd",), before=("nsenter", "--net=/proc/1/ns/net"))
    assert ran.code == 0, ran


@pytest.fixture(params=["overlay", "simfs"])
def small(request, node):
    vps = node.create(
        101, layout=request.param, diskspace="20M:24M", diskinodes="1000:1100", quotatime=100
    )
    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)  # nothing is written but by the tests
    vps.start()
    return vps


def test_space(small, vzctl):
    tools.wait_for(lambda: is_right(small))  # its init is still at work
    size, used, free = df(small)
    assert size == 20 << 10 == used + free
    found = of(small).stat()
    assert (found.space.soft, found.space.hard) == (20 << 10, 24 << 10)
    assert used == found.space.used >> 10

    written, said = write(small, "/fill", 40 << 10)
    assert "quota exceeded" in said or "No space left" in said
    found = in_kernel(small)
    assert found.curspace == 24 << 20, "to the byte: whole blocks of 4 KiB"
    # The file system's week, until the daemon has heard of it.
    tools.wait_for(lambda: timer(small) < time.time() + 101)
    assert 60 < timer(small) - time.time() <= 100
    assert df(small)[2] == 0

    ran = vzctl("set", 101, "--diskspace", "30M:40M")
    assert (ran.code, ran.stderr) == (0, ""), ran
    assert df(small)[0] == 30 << 10
    assert not of(small).stat().space.expires
    assert write(small, "/fill", 22 << 10)[0] == 22 << 20
    # Below what is used: nothing more can be written, and what is there stays.
    assert vzctl("set", 101, "--diskspace", "10M:11M").code == 0
    assert df(small)[::2] == [10 << 10, 0]
    assert write(small, "/more", 4)[0] == 0
    # And so full it stops and starts.
    assert vzctl("set", 101, "--diskspace", "10M:11M", "--save").code == 0
    small.stop(fast=True)
    small.reload()
    small.start()
    assert df(small)[::2] == [10 << 10, 0]


def is_right(vps) -> bool:
    """The quota counts what a walk of the private area finds."""
    os.sync()
    found = of(vps).stat()
    return (found.space.used, found.inodes.used) == vzdqcheck.count(vps.private)


@pytest.mark.parametrize("small", ["overlay"], indirect=True)
def test_vzlist_and_the_library_agree_with_vzquota(small, cli):
    write(small, "/fill", 64)
    os.sync()
    batch = cli("vzquota", "-b", "stat", 101).stdout.split()
    fields = [f"disk{kind}{part}" for kind in ("space", "inodes") for part in ("", ".s", ".h")]
    ran = cli("vzlist", "-H", "-o", ",".join(fields), 101)
    assert ran.stdout.split() == [*batch[:3], *batch[5:8]]
    rows = [line.split() for line in small.node.vzquota().splitlines()]
    assert rows[1:] == [["101:", small.private], ["1k-blocks", *batch[:5]], ["inodes", *batch[5:]]]
    small.stop(fast=True)
    assert cli("vzlist", "-aH", "-o", "diskspace", 101).stdout.split() == ["-"]


def test_inodes_as_root_and_as_user(small):
    joe(small)
    used = df(small, "-i")[1]
    assert df(small, "-i")[0] == 1000
    make = "i=0; while echo > /d/{}$i; do i=$((i+1)); done 2>/dev/null; echo $i"
    made = int(small.exec(["su", "-s", "/bin/sh", "joe", "-c", make.format("u")]).stdout)
    assert made == 1100 - used
    assert of(small).stat().inodes.used == 1100
    assert tools.sh(small, make.format("r")) == "0\n"
    done = small.exec(["sh", "-c", "mkdir /d/x"])
    # Of a project xfs says that it is the disk which is full.
    assert done.returncode and (b"uota exceeded" in done.stderr or b"No space" in done.stderr)


def test_a_user_is_stopped_too(small):
    joe(small)
    before = of(small).stat().space.used
    written, said = write(small, "/d/fill", 40 << 10, user="joe")
    assert "quota exceeded" in said or "No space left" in said
    assert of(small).stat().space.used == 24 << 20
    assert (24 << 20) - before - 65536 <= written <= (24 << 20) - before


def test_a_full_one_is_set_up_all_the_same(small):
    """1024 KiB and inodes more than the limits, until its init runs (quota.md 5)."""
    write(small, "/fill", 40 << 10)
    small.stop(fast=True)
    small.set(nameserver=["192.0.2.1"])
    seen = []

    def report(event) -> None:
        if isinstance(event, Step) and event.name == "ready":
            seen.append(in_kernel(small))

    small.start(report=report)
    assert (seen[0].bhardlimit, seen[0].ihardlimit) == ((24 << 10) + 1024, 2124)
    now = in_kernel(small)
    assert (now.bhardlimit, now.bsoftlimit, now.ihardlimit) == (24 << 10, 20 << 10, 1100)
    assert tools.sh(small, "cat /etc/resolv.conf") == "nameserver 192.0.2.1\n"
    assert 0 < now.btime - time.time() <= 100, "the grace goes on"


def test_what_the_host_writes(small, cli, tmp_path):
    """Its root is stopped by no limit of ext4, so whoever writes for it looks, or is not root."""
    big = tmp_path / "big"
    big.write_bytes(bytes(30 << 20))
    ran = cli("vz", "cp", big, "101:/big")
    assert ran.code, ran
    assert in_kernel(small).curspace <= 24 << 20
    assert tools.sh(small, "ls /") and small.status.running


def test_a_template_that_is_too_large(node, vzctl):
    for layout, limit in (("simfs", ("--diskspace", "100K:200K")),
                          ("simfs", ("--diskinodes", "10:20"))):
        ran = vzctl("create", 101, "--layout", layout, *limit)
        assert ran.code == Exit.FS_NO_DISK_SPACE, ran
        assert "more than the limits" in ran.stderr
        assert vzctl("status", 101).stdout == "CTID 101 deleted unmounted down\n"
        assert not os.path.exists(node.paths.quota_file(101))


def test_without_grace_soft_is_hard(node):
    vps = node.create(101, diskspace="8M:24M", diskinodes="1000:1100", quotatime=0)
    vps.start()
    write(vps, "/fill", 16 << 10)
    assert of(vps).stat().space.used == 8 << 20
    assert of(vps).stat().space.hard == 24 << 10


def test_nothing_is_left_of_a_destroyed_one(small):
    project, private = of(small).load("stat").project, small.private
    small.stop(fast=True)
    assert not of(small).load("show").on
    fd = quota.open_tree(os.path.dirname(private))
    assert q.getquota(fd, q.PRJQUOTA, project).bhardlimit == 0
    small.destroy()
    assert not os.path.exists(of(small).file)
    tools.wait_for(lambda: quota.is_unused(fd, project), what="the files are removed")
    os.close(fd)


def test_off_means_no_limit(node, vzctl):
    vps = node.create(101, diskspace="8M:8M", diskinodes="1000:1100")
    assert vzctl("quotaon", 101).code == 0
    assert vzctl("quotaon", 101).code == Exit.DQ_ON
    ran = vzctl("quotaoff", 101)
    assert (ran.code, ran.stdout) == (0, "")
    ran = vzctl("quotaoff", 101)
    assert ran.code == Exit.DQ_OFF and ran.stderr.startswith("vzquota off failed [6]\n")
    os.unlink(of(vps).file)
    ran = vzctl("quotaon", 101)
    assert (ran.code, ran.stdout) == (0, "Initializing quota ...\n")
    vps.start()
    ran = vzctl("quotaoff", 101)
    assert ran.code == Exit.DQ_OFF
    assert "Quota off syscall for id 101: Device or resource busy\nPossible" in ran.stderr
    assert vzctl("set", 101, "--diskquota", "no", "--save").code == 0
    for action, code in (("on", Exit.DQ_ON), ("off", Exit.DQ_OFF), ("init", Exit.DQ_INIT)):
        ran = vzctl(f"quota{action}", 101)
        skipped = "Disk quota is not enabled, skipping operation\n"
        assert (ran.code, ran.stdout, ran.stderr) == (code, skipped, "")


def test_set_needs_a_running_quota(node, vzctl):
    vps = node.create(101)
    ran = vzctl("set", 101, "--diskspace", "1G:1.1G")
    assert ran.code == Exit.DQ_SET
    assert ran.stderr == "Error: Unable to apply new quota values: quota not running\n"
    assert vzctl("set", 101, "--diskspace", "1G:1.1G", "--save").code == 0
    vps.reload()
    vps.start()
    assert df(vps)[0] == 1 << 20
    for key, code in (("DISKSPACE", 63), ("DISKINODES", 64)):
        with pytest.raises(VzError) as caught:
            vps.stop(fast=True)
            config.save(vps.conf_path, {key: None})
            vps.reload()
            vps.start()
        assert caught.value.code == code
        config.save(vps.conf_path, {key: "1000000:1000000"})
        vps.reload()
        vps.start()


@pytest.mark.parametrize("small", ["overlay"], indirect=True)
def test_after_a_crash(small, cli):
    """The machine stops with the quota on: dirty, and right again with the next start."""
    write(small, "/fill", 1 << 10)
    used = of(small).stat().space.used
    small.stop(fast=True)
    found = of(small).load("show")
    quotafile.save(of(small).file, replace(found, on=True, boot="another"))
    assert cli("vzquota", "show", 101).code == 10
    assert cli("vzquota", "stat", 101).code == 6
    small.start()
    assert abs(of(small).stat().space.used - used) <= 64 << 10
    assert not quotafile.is_dirty(of(small).load("show"))


@pytest.mark.parametrize("small", ["simfs"], indirect=True)
def test_an_area_without_a_project_gets_one(small):
    """Of a VPS from a time without quota, or restored from an archive."""
    used = of(small).stat()
    small.stop(fast=True)
    of(small).drop()
    fd = quota.open_tree(small.private)
    assert quota.project_of(fd) == 0
    os.close(fd)
    small.start()
    found = of(small).stat()
    assert abs(used.inodes.used - found.inodes.used) < 5
    moved = "mv /bin/ls /bin/l2 && mv /bin/l2 /bin/ls && ls -l /bin/sh"
    tools.sh(small, f"ln -s x /l1 && {moved} && mkfifo /f")
    assert abs(used.space.used - found.space.used) <= 64 << 10


@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)
@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_btrfs_has_a_hard_limit_only(node, vzctl, layout):
    vps = node.create(101, layout=layout, diskspace="20M:24M", diskinodes="1000:1100")
    ran = vzctl("start", 101)
    assert ran.code == 0 and "hard limit of space only" in ran.stderr
    written, said = write(vps, "/fill", 40 << 10)
    assert "quota exceeded" in said and 15 << 20 < written < 24 << 20
    assert vzctl("set", 101, "--diskspace", "100M:100M").code == 0
    assert write(vps, "/fill", 40 << 10)[0] == 40 << 20
    assert 40 << 20 < of(vps).stat().space.used < 60 << 20


def test_two_nodes_have_different_projects(node, make_node, disk):
    other = make_node()
    config.save(f"{other.paths.etc}/vz.conf", {"VE_PRIVATE": f"{disk}/other/$VEID"})
    other = type(other)(etc=other.paths.etc, run=other.paths.run)
    one, two = node.create(101), other.create(101)
    assert of(one).load("show").project != of(two).load("show").project


@pytest.mark.parametrize("how", ["STOP", "FAIL"])
@pytest.mark.parametrize("step", quotaid.STEPS)
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_cut_short_at_each_step(node, vzctl, step, how):
    """Killed or failed, whatever it was: the next command works and the use is right."""
    kill = {"env": {f"VZ_TEST_{how}_AT": step}}
    vzctl("create", 101, "--diskspace", "20M:24M", "--diskinodes", "1000:1100", **kill)
    if not os.path.exists(f"{node.paths.conf}/101.conf"):
        assert vzctl("create", 101, "--diskspace", "20M:24M").code == 0
    vps = node.vps(101)
    vzctl("start", 101, **kill)
    if not vps.status.running:
        assert vzctl("start", 101).code == 0
    vzctl("set", 101, "--diskspace", "10M:12M", **kill)
    assert vzctl("set", 101, "--diskspace", "10M:12M", "--save").code == 0
    assert df(vps)[0] == 10 << 10
    vzctl("stop", 101, "--fast", **kill)
    assert vzctl("stop", 101, "--fast").code == 0
    assert not vps.status.mounted
    assert vzctl("mount", 101).code == 0
    assert vzctl("umount", 101).code == 0
    os.sync()
    found = of(vps).load("show")
    assert (found.space.used, found.inodes.used) == vzdqcheck.count(vps.private)
    vzctl("destroy", 101, **kill)
    if os.path.exists(f"{node.paths.conf}/101.conf"):
        assert vzctl("destroy", 101).code == 0
    assert not os.path.exists(of(vps).file)
