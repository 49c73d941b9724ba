"""The life of a VPS, by vzctl as a user types it and by the library."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import traces

import tools
from vzpy import ids, rootfs, state
from vzpy.errors import Exit, VzError
from vzpy.kernel import proc


def test_by_vzctl(node, vzctl):
    def out(*words, code=0):
        ran = vzctl(*words)
        assert ran.code == code, ran
        return ran.stdout

    private = f"{node.paths.etc}/../vz/private/101"
    assert out("create", 101) == (
        "Creating container private area (busybox-x86_64)\n"
        "Performing postcreate actions\n"
        f"CT configuration saved to {node.paths.conf}/101.conf\n"
        "Container private area was created\n"
    )
    assert out("status", 101) == "CTID 101 exist unmounted down\n"
    assert out("start", 101) == (
        "Starting container...\n"
        "Container is mounted\n"
        "Setting CPU units: 1000\n"
        "Container start in progress...\n"
    )
    assert out("status", 101) == "CTID 101 exist mounted running\n"
    assert re.search(r"^ +1 root +init", out("exec", 101, "ps", "axf"), re.M)
    assert out("stop", 101) == (
        "Stopping container ...\nContainer was stopped\nContainer is unmounted\n"
    )
    assert out("status", 101) == "CTID 101 exist unmounted down\n"
    assert out("destroy", 101) == (
        f"Destroying container private area: {os.path.normpath(private)}\n"
        "Container private area was destroyed\n"
    )
    assert out("status", 101) == "CTID 101 deleted unmounted down\n"
    assert vzctl("start", 101).code == Exit.NOVECONFIG


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_by_the_library(node, layout):
    vps = node.create(101, hostname="one.example", layout=layout)
    assert str(vps.status) == "exist unmounted down"
    assert [v.ctid for v in node] == [101]
    vps.start()
    assert str(vps.status) == "exist mounted running"
    assert tools.sh(vps, "hostname; echo there >/root/file") == "one.example\n"
    # Host scripts write below VE_ROOT.
    assert Path(vps.root, "root/file").read_text() == "there\n"
    Path(vps.root, "etc/by-host").write_text("host\n")
    assert tools.sh(vps, "cat /etc/by-host; stat -c %u:%g /etc/by-host /root/file") in (
        "host\n0:0\n0:0\n",
        "host\n65534:65534\n0:0\n",  # overlay shows the host the ids on disk
    )
    vps.stop(fast=True)
    assert str(vps.status) == "exist unmounted down"
    vps.start()
    assert tools.sh(vps, "cat /root/file") == "there\n"
    vps.stop(fast=True)
    vps.destroy()
    assert str(vps.status) == "deleted unmounted down"
    assert list(node) == []


def test_private_area_belongs_to_the_range(vps):
    base = vps.ids.base
    assert base >= 0x70000000
    vps.start()
    tools.sh(vps, "touch /root/f; chown 1000:1000 /root/f")
    about = os.lstat(f"{vps.private}/upper/root/f")
    assert (about.st_uid, about.st_gid) == (base + 1000, base + 1000)


def test_two_have_ranges_of_their_own(node):
    one, two = node.create(101), node.create(102)
    assert not one.ids.holds(two.ids.base)
    one.start()
    two.start()
    assert proc.starttime(one.running().pid)
    assert one.running().pid != two.running().pid
    assert tools.sh(one, "cat /proc/sys/kernel/random/boot_id; ls /proc | grep -c '^[0-9]'")


def test_restart_by_vzctl(vps, vzctl):
    vps.start()
    before = vps.running().pid
    ran = vzctl("restart", 101, "--fast")
    assert ran.code == 0, ran
    assert ran.stdout.startswith("Restarting container\nKilling container ...\n")
    assert vps.running().pid != before


def test_before_its_init_is_executed_it_does_not_run(vps, vzctl, cli, node):
    """While N.start runs there are a first task, namespaces and a root, but no init."""
    script = Path(node.paths.conf, "101.start")
    script.write_text("echo here; while [ ! -e /go ]; do sleep 0.05; done\n")
    with tools.start_tool(node, ("vzctl", "start", 101)) as starting:
        try:
            tools.wait_for(lambda: (f := state.read_facts(node.paths, 101)) and f.pid, 20)
            assert vzctl("status", 101).stdout == "CTID 101 exist mounted down\n"
            assert cli("vzlist", "-a", "-H", "-o", "status", 101).stdout == "mounted\n"
            assert vzctl("exec3", 101, "true").code == 31
            assert vzctl("set", 101, "--hostname", "x").code == 9  # locked
        finally:
            Path(vps.root, "go").touch()
    assert starting.returncode == 0
    assert vzctl("exec", 101, "true").code == 0
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted running\n"


def test_start_twice_stop_twice(vps, vzctl):
    assert vzctl("stop", 101).code == 0
    assert vzctl("stop", 101).stderr.endswith("Unable to stop: container is not running\n")
    assert vzctl("start", 101).code == 0
    ran = vzctl("start", 101)
    assert (ran.code, ran.stdout) == (Exit.VE_RUNNING, "")
    assert ran.stderr == "Container is already running\n"


def test_destroy_refuses_the_living_and_the_mounted(vps, vzctl):
    vzctl("start", 101)
    ran = vzctl("destroy", 101)
    assert (ran.code, ran.stdout) == (32, "Container is currently running. Stop it first.\n")
    assert vzctl("stop", 101, "--fast", "--skip-umount").code == 0
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted down\n"
    ran = vzctl("destroy", 101)
    assert (ran.code, ran.stdout) == (41, "Container is currently mounted (umount first)\n")
    assert vzctl("umount", 101).stdout == "Container is unmounted\n"
    assert vzctl("umount", 101).code == Exit.FS_NOT_MOUNTED


def test_mount_and_umount(vps, vzctl):
    assert vzctl("mount", 101).stdout == "Container is mounted\n"
    again = vzctl("mount", 101)
    assert (again.code, again.stderr) == (0, "Container is already mounted\n")
    assert os.path.exists(f"{vps.root}/sbin/init")
    # A mounted one is mounted afresh by start (vzctl-cli 2.2, row 9).
    assert "Container is unmounted\nContainer is mounted\n" in vzctl("start", 101).stdout
    assert vzctl("umount", 101).code == Exit.VE_RUNNING


def test_umount_beside_others_that_write(vps, monkeypatch):
    """A process of its own does it then; who stands in the root is told of all the same."""
    monkeypatch.setattr(rootfs, "_MUCH", 0)
    vps.mount()
    fd = os.open(f"{vps.root}/etc", os.O_RDONLY)
    with pytest.raises(VzError) as caught:
        vps.umount()
    assert caught.value.code == Exit.FS_CANTUMOUNT and vps.status.mounted
    os.close(fd)
    vps.umount()
    assert not vps.status.mounted and not rootfs._left
    vps.start()
    vps.stop(fast=True)
    assert str(vps.status) == "exist unmounted down"


@pytest.mark.parametrize("how", ["poweroff -f", "halt"])
def test_a_halt_from_inside(parent, vps, how):
    """The daemon cleans up, or without one whoever looks next."""
    vps.start()
    pid = vps.running().pid
    vps.exec(["sh", "-c", how])
    tools.wait_for(lambda: not vps.facts(), 15, "halt")
    patience = 0 if parent == "caller" else 5
    tools.wait_for(lambda: str(vps.status) == "exist unmounted down", patience)
    assert not os.path.exists(f"/proc/{pid}/root/etc")
    vps.start()
    assert tools.sh(vps, "echo up") == "up\n"


def test_a_crash_of_init_is_seen(parent, vps, vzctl):
    """A zombie does not count as running, whoever should wait for it."""
    assert vzctl("start", 101).code == 0
    os.kill(vps.running().pid, 9)
    tools.wait_for(lambda: "unmounted down" in vzctl("status", 101).stdout, 5)
    assert vzctl("start", 101).code == 0
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted running\n"


def test_suspend_in_place(vps, vzctl):
    vps.start()
    tools.sh(vps, "while :; do :; done >/dev/null 2>&1 </dev/null & echo $! >/run/loop")
    assert vzctl("chkpnt", 101, "--suspend").code == 0
    assert vps.status.running

    def ticks():
        path = Path(vps.running().cgroup, "cgroup.events").read_text()
        return "frozen 1" in path

    tools.wait_for(ticks, 2)
    # A frozen one can still be stopped.
    assert vzctl("stop", 101).code == 0
    vps.start()
    assert vzctl("chkpnt", 101, "--suspend").code == 0
    assert vzctl("chkpnt", 101, "--resume").code == 0
    assert tools.sh(vps, "echo alive") == "alive\n"


def test_config_copied_to_a_new_number_gets_its_own_range(node, vps):
    """DESIGN 3: never two VPSs on one range."""
    text = Path(vps.conf_path).read_text()
    Path(node.paths.conf, "102.conf").write_text(text)
    copy = node.vps(102)
    shutil.copytree(vps.private, copy.private, symlinks=True)
    vps.start()
    copy.start()
    assert not vps.ids.holds(copy.ids.base)
    assert tools.sh(copy, "id -u; stat -c %u /") == "0\n0\n"


def test_a_range_in_use_is_nobody_else_s_though_its_owner_is_out_of_sight(vps):
    """As from another mount namespace, where neither its configuration nor its files are seen."""
    vps.start()
    etc, private, mine = vps.node.paths.etc, vps.private, vps.ids
    stranger = ids.Owner("/nowhere", 1, "/nowhere/1")
    registry = ids.Registry()
    for path in (etc, private):
        os.rename(path, f"{path}.away")
    try:
        assert not registry.allocate(stranger).holds(mine.base)
        registry.free(stranger)
        with pytest.raises(ids.RangeTaken):
            registry.claim(stranger, mine)
    finally:
        for path in (etc, private):
            os.rename(f"{path}.away", path)
    assert vps.exec(["true"]).returncode == 0


def test_counts_after_rounds(node):
    life_rounds(node, 20)


@tools.slow
def test_counts_after_many_rounds(node):
    life_rounds(node, tools.ROUNDS)


def life_rounds(node, rounds: int) -> None:
    """create, start, exec, stop, destroy; counts of everything are equal before and after (the
    rest is the leak check's)."""

    def counts() -> dict[str, int]:
        folder = os.path.dirname(node.paths.etc)
        return {
            "mounts": len(proc.mount_points()),
            "cgroups": sum(1 for _ in Path(_cgroup(node)).rglob("*/")),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "files": sum(1 for _ in Path(folder).rglob("*")),
            "namespaces": len(traces.namespaces(node)),
            "lines of the registry": len(traces._ranges(folder)),
        }

    def round_() -> None:
        vps = node.create(101)
        vps.start()
        assert tools.sh(vps, "echo $((6*7))") == "42\n"
        vps.stop(fast=True)
        vps.destroy()

    def settled() -> dict[str, int]:
        tools.wait_for(lambda: not traces.to_be_removed(node), 30, "removal of private areas")
        return counts()

    round_()
    before = settled()
    for _ in range(rounds):
        round_()
    assert settled() == before


def _cgroup(node) -> str:
    from vzpy import cgroups

    return f"{cgroups.mountpoint()}/{node.paths.cgroup}"
