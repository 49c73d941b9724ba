"""Layout image: its life, whose its files are, its size; no loop device is left, whatever happens
(the leak check of conftest.py)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import traces
from belongings import furnish, picture

import tools
from vzpy import config, image
from vzpy.errors import VzError
from vzpy.kernel import loop
from vzpy.story import imagesize

FS = [pytest.param("ext4", marks=tools.needs("mke2fs")),
      pytest.param("xfs", marks=tools.needs("mkfs.xfs"))]


@pytest.fixture
def vps(node):
    return node.create(101, layout="image", diskspace="64M")


def loops(vps) -> list[str]:
    return traces.loops(os.path.realpath(vps.private))


def of(fs: str) -> dict[str, str]:
    return {"layout": f"image:{fs}", "diskspace": "320M" if fs == "xfs" else "64M"}


def test_life(vzctl, node, parent):
    assert vzctl("create", 101, "--layout", "image", "--diskspace", "64M").code == 0
    vps = node.vps(101)
    private = Path(vps.private)
    assert [p.name for p in private.iterdir()] == ["root.img"]
    about = (private / "root.img").stat()
    assert about.st_size == 64 << 20 > about.st_blocks * 512 * 2
    assert (about.st_uid, about.st_mode & 0o777) == (0, 0o600)
    assert private.stat().st_mode & 0o777 == 0o700
    assert loops(vps) == []
    assert vzctl("start", 101).code == 0
    assert len(loops(vps)) == 1
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted running\n"
    assert node.vps(101).facts().layout == "image"
    assert vzctl("exec2", 101, "mount | grep ' on / '").stdout.split()[4] == "ext4"
    assert vzctl("stop", 101).code == 0
    tools.wait_for(lambda: not loops(vps))
    assert vzctl("mount", 101).code == 0
    assert os.path.isdir(f"{vps.root}/etc")
    assert vzctl("destroy", 101).code == 41
    assert vzctl("umount", 101).code == 0
    assert vzctl("destroy", 101).code == 0


def test_configuration(vzctl, node):
    conf = f"{node.paths.etc}/vz.conf"
    config.save(conf, {"VE_LAYOUT": "ploop"})
    assert vzctl("create", 101, "--diskspace", "32M").code == 0
    vps = node.vps(101)
    assert vps.config.own("VE_LAYOUT") == "image"
    config.save(vps.conf_path, {"VE_LAYOUT": "ploop"})
    assert node.vps(101).layout == "image"
    config.save(vps.conf_path, {"VE_LAYOUT": None})
    assert node.vps(101).layout == "image"
    assert vzctl("create", 102, "--layout", "image:floppy").code == 21
    assert vzctl("create", 102, "--layout", "simfs:plain").code == 21
    sample = Path(f"{node.paths.conf}/ve-vswap-256m.conf-sample")
    lines = [x for x in sample.read_text().splitlines() if not x.startswith("DISKSPACE")]
    sample.write_text("\n".join(lines) + "\n")
    done = vzctl("create", 102)
    assert done.code == 63
    assert done.stderr.startswith("Error: diskspace not set (required for ploop)\n")


@pytest.mark.parametrize("fs", FS)
def test_whose_files(node, fs):
    """Inside, and for the host at VE_ROOT, ids are the VPS's; processes have the host's."""
    vps = node.create(101, hostname="before.example", **of(fs))
    vps.start()
    tools.sh(vps, "touch /made; chown 7:8 /made; ls /etc")
    Path(vps.root, "given").write_text("by the host\n")
    assert tools.sh(vps, "stat -c %u:%g /given /made /").split() == ["0:0", "7:8", "0:0"]
    about = os.stat(f"{vps.root}/made")
    assert (about.st_uid, about.st_gid) == (7, 8)
    assert os.stat(f"/proc/{vps.facts().pid}/root/made").st_uid == vps.ids.base + 7
    assert tools.sh(vps, "cat /etc/hostname") == "before.example\n"
    vps.set(hostname="after.example")
    assert tools.sh(vps, "cat /etc/hostname; stat -c %u /etc/hostname") == "after.example\n0\n"
    assert vps.exec(["mknod", "/sda", "b", "8", "0"]).returncode != 0


def test_capability_and_acl(node, vps):
    furnish(vps)
    before = picture(vps)
    vps.start()
    assert tools.sh(vps, "stat -c %a:%u /home/one/su /home/one/plain").split() == [
        "4755:0", "644:65535"]
    attributes = os.listxattr(f"/proc/{vps.facts().pid}/root/home/one/ping")
    assert "security.capability" in attributes
    vps.stop(fast=True)
    after = picture(vps)
    assert {k: v for k, v in after.items() if "/home/one" in k} == {
        k: v for k, v in before.items() if "/home/one" in k}


def test_tools_that_enter_a_stopped_one(vzctl, node, vps, tmp_path):
    script = tmp_path / "script"
    script.write_text("echo inside; id -u\n")
    assert vzctl("runscript", 101, script).stdout == "inside\n0\n"
    assert vzctl("set", 101, "--userpasswd", "joe:secret", "--save").code == 0
    tools.wait_for(lambda: not loops(vps))


@pytest.mark.parametrize("running", [False, True])
def test_cp(cli, vps, tmp_path, running):
    if running:
        vps.start()
    (tmp_path / "file").write_text("text")
    os.chown(tmp_path / "file", 3, 4)
    assert cli("vz", "cp", tmp_path / "file", "101:/root/file").code == 0
    assert cli("vz", "cp", "101:/root/file", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_text() == "text"
    assert (tmp_path / "back").stat().st_uid == 3


def test_without_its_image(vzctl, vps):
    os.rename(f"{vps.private}/root.img", f"{vps.private}/away")
    done = vzctl("start", 101)
    assert (done.code, "root.img: No such file" in done.stderr) == (150, True)
    Path(vps.private, "root.img").write_bytes(bytes(1 << 20))
    done = vzctl("mount", 101)
    assert (done.code, "neither ext4 nor xfs" in done.stderr) == (152, True)
    os.rename(f"{vps.private}/away", f"{vps.private}/root.img")
    assert vzctl("start", 101).code == 0


def test_mount_options(vzctl, vps):
    assert vzctl("set", 101, "--mount_opts", "noatime,commit=7", "--save").code == 0
    vps.reload()
    vps.start()
    assert "commit=7" in tools.sh(vps, "grep ' / ' /proc/mounts")
    vps.stop(fast=True)
    assert vzctl("set", 101, "--mount_opts", "nonsense", "--save").code == 0
    done = vzctl("start", 101)
    assert (done.code, "nonsense" in done.stderr) == (152, True)


def test_never_twice(vps):
    """Two devices on one file would destroy it."""
    path = image.path_of(vps.private)
    with pytest.raises(OSError, match="in use"):
        fd = image.mount(path)
        try:
            loop.lock(path)
        finally:
            os.close(fd)
    tools.wait_for(lambda: not loops(vps))
    os.close(loop.lock(path))


def test_a_mount_that_lives_on_elsewhere(vps):
    """A service of the host with mounts of its own may keep the old one: it is the same device."""
    vps.mount()
    holder = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout
        holder.stdout.readline()
        vps.umount()
        before = loops(vps)
        assert len(before) == 1
        vps.start()
        assert loops(vps) == before
        tools.sh(vps, "echo new > /new")
        vps.stop(fast=True)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    tools.wait_for(lambda: not loops(vps))
    assert picture(vps)["./new"]


@tools.slow
@pytest.mark.parametrize("step", ["mount-root", "mount-image", "mount-script"])
def test_mount_that_is_killed(vzctl, vps, step):
    Path(vps.node.paths.conf, "101.mount").write_text("#!/bin/sh\n")
    os.chmod(f"{vps.node.paths.conf}/101.mount", 0o755)
    assert vzctl("mount", 101, env={"VZ_TEST_STOP_AT": step}).code == -9
    if not vps.status.mounted:
        tools.wait_for(lambda: not loops(vps))
    assert vzctl("start", 101).code == 0


def test_create_that_has_no_room(vzctl, node):
    done = vzctl("create", 101, "--layout", "image", "--diskspace", "1M")
    assert done.code in (46, 151), done
    assert vzctl("status", 101).stdout == "CTID 101 deleted unmounted down\n"


# size


def df(vps) -> int:
    """Bytes, as df inside tells."""
    line = tools.sh(vps, "df -k / | tail -n 1")
    return int(line.split()[1]) << 10


def test_size_of_a_stopped_one(vzctl, vps):
    furnish(vps)
    before = picture(vps)
    done = vzctl("set", 101, "--diskspace", "200M", "--save")
    assert done.code == 0, done
    assert os.path.getsize(f"{vps.private}/root.img") == 200 << 20
    assert picture(vps) == before
    vps.start()
    assert df(vps) > 170 << 20
    vps.stop(fast=True)
    before = picture(vps)
    done = vzctl("set", 101, "--diskspace", "40M", "--offline-resize", "--save")
    assert done.code == 0, done
    assert os.path.getsize(f"{vps.private}/root.img") == 40 << 20
    assert picture(vps) == before
    done = vzctl("set", 101, "--diskspace", "1M", "--offline-resize", "--save")
    assert (done.code, "its files need" in done.stderr) == (154, True)
    assert picture(vps) == before
    vps.reload()
    assert vps.config.value("DISKSPACE") == (40 << 10, 40 << 10)
    done = vzctl("set", 101, "--diskinodes", "1000:1000", "--save")
    assert "Warning: --diskinodes is ignored for ploop-based container\n" in done.stdout


@pytest.mark.parametrize(
    "fs", [pytest.param("ext4", marks=tools.needs("CAP_SYS_RESOURCE")), FS[1]]
)
def test_size_of_a_running_one(vzctl, node, fs):
    vps = node.create(101, **of(fs))
    vps.start()
    before = df(vps)
    done = vzctl("set", 101, "--diskspace", "600M", "--save")
    assert done.code == 0, done
    assert df(vps) > before + (200 << 20)
    done = vzctl("set", 101, "--diskspace", "320M", "--save")
    assert done.code == 154
    assert "an image that is mounted cannot become smaller" in done.stderr
    vps.reload()
    assert vps.config.value("DISKSPACE")[1] == 600 << 10
    assert vzctl("set", 101, "--diskspace", "700M").code == 20
    done = vzctl("set", 101, "--diskspace", "50M", "--offline-resize", "--save")
    assert done.code == 21


@tools.slow
@pytest.mark.parametrize("step", imagesize.STEPS)
def test_shrinking_that_is_killed(vzctl, vps, step):
    before = picture(vps)
    env = {"VZ_TEST_STOP_AT": step}
    words = ("set", 101, "--diskspace", "30M", "--save")
    assert vzctl(*words, env=env).code == -9
    tools.wait_for(lambda: not loops(vps))
    assert picture(vps) == before
    assert vzctl(*words).code == 0
    assert [p.name for p in Path(vps.private).iterdir()] == ["root.img"]
    assert picture(vps) == before


@pytest.mark.parametrize("mode", ["expanded", "plain"])
def test_compact(vzctl, node, mode):
    vps = node.create(101, layout=f"image:{mode}", diskspace="64M")
    path = Path(vps.private, "root.img")
    assert (path.stat().st_blocks * 512 >= 64 << 20) == (mode == "plain")
    vps.start()
    tools.sh(vps, "dd if=/dev/zero of=/big bs=1M count=24 2>/dev/null; sync; rm /big; sync")
    full = path.stat().st_blocks
    done = vzctl("compact", 101)
    assert done.code == 0, done
    assert path.stat().st_blocks * 512 < full * 512 - (20 << 20)
    vps.stop(fast=True)
    assert vzctl("compact", 101).code == 0


def test_compact_of_others(vzctl, node):
    node.create(102)
    done = vzctl("compact", 102)
    assert (done.code, done.stdout) == (0, "Compact only makes sense for ploop containers\n")
    with pytest.raises(VzError, match="only makes sense"):
        node.vps(102).compact()


@pytest.mark.parametrize("fs", FS)
@tools.needs("project quota")
def test_users_and_groups(node, fs):
    """The kernel counts and limits them; one switched on later too."""
    vps = node.create(101, **of(fs))
    vps.start()
    tools.sh(vps, "head -c 1000000 /dev/zero > /f; chown 7:8 /f")
    vps.stop(fast=True)
    vps.set(quotaugidlimit=100)
    vps.start()
    line = tools.sh(vps, "grep ' / ' /proc/mounts")
    assert "grpquota" in line or "gquota" in line
    done = subprocess.run(["repquota", "-unv", vps.root], capture_output=True, text=True)
    rows = [x.split() for x in done.stdout.splitlines() if x.startswith("#7 ")]
    assert rows and 900 < int(rows[0][2]) < 1100, done


@tools.needs("mke2fs")
def test_users_and_groups_where_they_cannot_be_counted(vzctl, vps):
    """It is told, and the VPS runs."""
    assert vzctl("set", 101, "--quotaugidlimit", "100", "--save").code == 0
    done = vzctl("start", 101)
    assert done.code == 0, done
    counted = "grpquota" in tools.sh(vps, "grep ' / ' /proc/mounts")
    assert counted or "quotaugidlimit" in done.stderr
    vps.stop(fast=True)
    vps.mount()
    vps.umount()


def test_an_image_that_has_met_an_error(vzctl, vps):
    path = image.path_of(vps.private)

    def damage() -> None:
        tools.wait_for(lambda: not loops(vps))
        subprocess.run(["debugfs", "-w", "-R", "ssv state 2", path], check=True,
                       capture_output=True)
        assert image.has_errors(path)

    damage()
    done = vzctl("start", 101, "--skip-fsck")
    assert (done.code, "Checking" in done.stdout) == (0, False)
    vps.stop(fast=True)
    damage()
    done = vzctl("start", 101)
    assert (done.code, f"Checking the file system of {path}\n" in done.stdout) == (0, True)
    vps.stop(fast=True)
    tools.wait_for(lambda: not loops(vps))
    assert not image.has_errors(path)


def test_what_vzlist_shows(cli, vps):
    def shown() -> list[int]:
        words = "-a -H -o diskspace,diskspace.s,diskinodes 101".split()
        return [int(word) for word in cli("vzlist", *words).stdout.split()]

    stopped = shown()
    assert 1000 < stopped[0] < 9000 < 64 << 10 == stopped[1] and stopped[2] > 20
    vps.start()
    tools.sh(vps, "head -c 5000000 /dev/zero > /f; sync")
    running = shown()
    assert 4000 < running[0] - stopped[0] < 7000 and running[2] > stopped[2]
    about = os.statvfs(vps.root)
    assert running[0] == (about.f_blocks - about.f_bfree) * 4
    vps.stop(fast=True)
    tools.wait_for(lambda: not loops(vps))
    assert abs(shown()[0] - running[0]) < 100
