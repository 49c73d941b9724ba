"""vzctl destroy: aside at once, gone later, and nothing else with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tools import needs, wait_for
from vzpy import config, ids, names, template, vztmp
from vzpy.errors import VzError
from vzpy.kernel import mount as m
from vzpy.story import destroy


def staging(node) -> str:
    return vztmp.staging(node.config.raw("VE_PRIVATE"))


def emptied(node) -> None:
    wait_for(lambda: set(os.listdir(staging(node))) <= {vztmp.LOCK}, what="removal")


def is_held(node, base: int) -> bool:
    """By a VPS of this node: what one has given back another node may take."""
    held = ids.Registry().held()
    return any(e.ids.base == base and e.owner.etc == node.paths.etc for e in held)


def test_transcript(node, vps, vzctl):
    names.assign(node.paths, 101, "web")
    names.assign(node.paths, 101, "other")
    for kind in ("mount", "umount", "premount", "postumount", "start", "stop"):
        Path(f"{node.paths.conf}/101.{kind}").touch()
    Path(f"{node.paths.conf}/101.conf.destroyed").write_text("old")
    private = vps.private
    done = vzctl("destroy", 101)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == (
        f"Destroying container private area: {private}\nContainer private area was destroyed\n"
    )
    assert not os.path.lexists(private)
    assert not os.path.lexists(vps.root)
    assert os.listdir(node.paths.names) == []
    left = sorted(p.name for p in Path(node.paths.conf).glob("101*"))
    kinds = ("conf", "mount", "postumount", "premount", "start", "stop", "umount")
    assert left == [f"101.{kind}.destroyed" for kind in kinds]
    assert "LOCAL_UID" in Path(f"{node.paths.conf}/101.conf.destroyed").read_text()
    assert vzctl("status", 101).stdout == "CTID 101 deleted unmounted down\n"
    assert vzctl("start", 101).code == 14
    assert vzctl("destroy", 101).code == 14
    emptied(node)


def test_a_running_vps_is_refused_on_stdout(vps, vzctl):
    vps.start()
    done = vzctl("destroy", 101)
    assert (done.code, done.stderr) == (32, "")
    assert done.stdout == "Container is currently running. Stop it first.\n"
    assert vps.status.running
    vps.stop(fast=True)


def test_a_running_vps_whose_state_is_lost_is_refused(node, vps, vzctl):
    vps.start()
    state = Path(f"{node.paths.run}/101/start.json")
    text = state.read_bytes()
    state.unlink()
    try:
        assert vzctl("destroy", 101).code in (32, 41)
        assert os.path.exists(f"{vps.private}/upper")
    finally:
        state.parent.mkdir(exist_ok=True)
        state.write_bytes(text)
    vps.stop(fast=True)


def test_a_mounted_vps_is_refused_on_stdout(vps, vzctl):
    vps.mount()
    done = vzctl("destroy", 101)
    assert (done.code, done.stderr) == (41, "")
    assert done.stdout == "Container is currently mounted (umount first)\n"
    vps.umount()


def test_a_mount_inside_is_refused(vps, vzctl, tmp_path):
    (tmp_path / "precious").touch()
    inside = f"{vps.private}/upper/mnt"
    os.mkdir(inside)
    m.mount(str(tmp_path), inside, "none", m.MS_BIND)
    try:
        done = vzctl("destroy", 101)
        assert done.code == 52
        assert f"{inside} is a mount point" in done.stderr
        assert vps.status.exist
    finally:
        m.umount2(inside)
    assert (tmp_path / "precious").exists()


def test_a_mount_in_what_waits_for_removal_is_spared(node, vps, tmp_path):
    """Somebody mounts on a tree that was moved aside, before the remover comes."""
    (tmp_path / "precious").touch()
    inside = f"{vps.private}/upper/mnt"
    os.mkdir(inside)
    tree = template.named_tree(vps.private)
    entry = vztmp.move(vps.private, staging(node), lambda entry: None)
    template.release_tree(vps.private, tree)
    m.mount(str(tmp_path), f"{entry}/upper/mnt", "none", m.MS_BIND)
    try:
        failures = vztmp.remove_entries(staging(node))
        assert failures and (tmp_path / "precious").exists()
    finally:
        found = {p for p in _mounts() if p.startswith(staging(node))}
        for path in found:
            m.umount2(path)
    assert found
    assert vztmp.remove_entries(staging(node)) == []


def _mounts():
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file]


def test_a_private_area_that_is_gone_is_no_error(node, vps, vzctl):
    template.release_tree(vps.private)
    vztmp.remove(vps.private)
    assert vzctl("destroy", 101).code == 0


def test_a_linked_private_area_leaves_its_target(node, vps, vzctl):
    private, target = vps.private, f"{vps.private}-elsewhere"
    os.rename(private, target)
    os.symlink(target, private)
    base = vps.ids.base
    done = vzctl("destroy", 101)
    assert done.code == 0
    assert done.stderr == (
        f"Warning: container private area {private} is a symlink to {target}.\n"
        "Not removing link destination, you have to do it manually.\n"
    )
    assert os.path.isdir(f"{target}/upper")
    # Its files still carry the range: nobody else gets it.
    assert is_held(node, base)
    assert node.create(102).ids.base != base
    template.release_tree(private, template.named_tree(target))
    vztmp.remove(target)
    assert not is_held(node, base)


def test_the_range_is_free_only_when_all_is_removed(node, vps, vzctl):
    import fcntl

    base, area = vps.ids.base, staging(node)
    os.makedirs(area, 0o700, exist_ok=True)
    with open(f"{area}/{vztmp.LOCK}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert vzctl("destroy", 101).code == 0
        assert is_held(node, base)
        assert node.create(101).ids.base != base
    vztmp.remove_entries(area)
    assert not is_held(node, base)


def test_a_number_again_and_again(node):
    bases = set()
    for _ in range(10):
        vps = node.create(101)
        bases.add(vps.ids.base)
        vps.destroy()
    emptied(node)
    assert not any(is_held(node, base) for base in bases)


def test_simfs_and_dump(node, vzctl):
    vps = node.create(101, layout="simfs")
    dump = f"{node.config.raw('DUMPDIR')}/Dump.101"
    os.makedirs(f"{dump}/pages")
    assert vps.status.suspended
    assert vzctl("destroy", 101).code == 0
    assert not os.path.exists(dump)
    emptied(node)


def test_a_root_that_is_not_empty_is_a_warning(vps, vzctl):
    Path(f"{vps.root}/file").touch()
    done = vzctl("destroy", 101)
    assert done.code == 0
    assert done.stderr == f"Warning: failed to remove {vps.root}: Directory not empty\n"
    os.unlink(f"{vps.root}/file")
    os.rmdir(vps.root)


def test_without_a_staging_area_it_is_slow_and_done(node, vps, vzctl):
    area = staging(node)
    if os.path.isdir(area):
        vztmp.remove(area)
    os.symlink("/nonexistent", area)
    try:
        done = vzctl("destroy", 101)
    finally:
        os.unlink(area)
    assert done.code == 0, done
    assert f"Warning: cannot move {vps.private} to {area}" in done.stdout
    assert "doing slow/sync removal" in done.stdout
    assert not os.path.exists(vps.private)
    assert node.ids() == []


@needs("tmpfs")
def test_each_file_system_has_its_own_staging_area(node, vzctl):
    import subprocess

    small = Path(node.paths.etc).parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", small], check=True)
    try:
        vps = node.create(101, private=f"{small}/private/$VEID")
        assert vps.private == f"{small}/private/101"
        assert vzctl("destroy", 101).code == 0
        wait_for(lambda: os.listdir(small / "vztmp") == [vztmp.LOCK])
    finally:
        subprocess.run(["umount", small], check=True)
        small.rmdir()


@pytest.mark.parametrize("step", destroy.STEPS)
def test_a_kill_at_any_step_hinders_nothing(node, vps, vzctl, step):
    names.assign(node.paths, 101, "web")
    config.save(vps.conf_path, {"NAME": "web"})
    done = vzctl("destroy", 101, env={"VZ_TEST_STOP_AT": step})
    assert done.code == -signal.SIGKILL
    if step == destroy.STEPS[0]:
        assert vzctl("status", 101).stdout == "CTID 101 exist unmounted down\n"
    done = vzctl("destroy", 101)
    assert done.code == (14 if step == "sweep" else 0), done
    assert vzctl("create", 101, "--name", "web").code == 0
    assert vzctl("destroy", 101).code == 0
    emptied(node)


@pytest.mark.parametrize("step", destroy.STEPS)
def test_a_failure_at_any_step_is_told(node, vps, vzctl, step):
    done = vzctl("destroy", 101, env={"VZ_TEST_FAIL_AT": step})
    assert done.code == 52
    assert "Unable to destroy container 101" in done.stderr
    assert vzctl("destroy", 101).code == (14 if step == "sweep" else 0)
    # The last step only starts the remover: the next destroy does it.
    node.create(102).destroy()
    emptied(node)


def test_destroy_of_a_vps_in_use_by_another_command(node, vps, vzctl):
    with vps.locked(), pytest.raises(VzError) as info:
        node.vps(101).destroy()
    assert info.value.code == 9
    assert vps.status.exist
    assert is_held(node, vps.ids.base)
