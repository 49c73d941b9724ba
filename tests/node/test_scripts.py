"""Action scripts around real mounts, starts and stops."""

from __future__ import annotations

from pathlib import Path

import pytest

import tools
from vzpy import scripts
from vzpy.kernel import mount as m


@pytest.fixture
def script(node, tmp_path):
    """Makes a script that appends a line to what was said; said() reads and forgets."""
    out = tmp_path / "said"

    def make(name: str, text: str = "", interpreter: str = "#!/bin/sh") -> Path:
        path = Path(f"{node.paths.conf}/{name}")
        path.write_text(f"{interpreter}\necho {name} >>{out}\n{text}\n")
        path.chmod(0o755)
        return path

    def said() -> list[str]:
        words = out.read_text().split("\n")[:-1] if out.exists() else []
        out.unlink(missing_ok=True)
        return words

    make.said = said
    return make


ALL = [f"{who}.{kind}" for kind in ("premount", "mount", "umount", "postumount")
       for who in ("vps", "101")]


def test_order_around_mount_and_umount(vps, script, vzctl):
    for name in ALL:
        script(name, '. "$VE_CONFFILE"; ! mountpoint -q "$VE_ROOT" || echo mounted')
    done = vzctl("mount", 101)
    assert done.stdout == "mounted\nmounted\nContainer is mounted\n"
    assert script.said() == ["vps.premount", "101.premount", "vps.mount", "101.mount"]
    done = vzctl("umount", 101)
    assert done.stdout == "mounted\nmounted\nContainer is unmounted\n"
    assert script.said() == ["101.umount", "vps.umount", "101.postumount", "vps.postumount"]


def test_order_around_start_and_stop(vps, script, vzctl):
    for name in ALL:
        script(name)
    assert vzctl("start", 101).code == 0
    assert script.said() == ["vps.premount", "101.premount", "vps.mount", "101.mount"]
    assert vzctl("stop", 101, "--fast").code == 0
    assert script.said() == ["101.umount", "vps.umount", "101.postumount", "vps.postumount"]


@pytest.mark.parametrize("kind", ["premount", "mount"])
@pytest.mark.parametrize("who", ["vps", "101"])
def test_a_failure_before_the_mount_is_complete(vps, script, vzctl, kind, who):
    for name in ALL:
        script(name, "exit 5" if name == f"{who}.{kind}" else "")
    for action in ("mount", "start"):
        done = vzctl(action, 101)
        assert done.code == 79, done
        assert f"Error executing {kind} script {vps.conf_path[:-8]}{who}.{kind}\n" in done.stderr
        assert vzctl("status", 101).stdout == "CTID 101 exist unmounted down\n"
        said = script.said()
        assert said[-1] == f"{who}.{kind}"
        assert not [name for name in said if "umount" in name]


@pytest.mark.parametrize("who", ["vps", "101"])
def test_a_failure_of_umount_leaves_it_mounted(vps, script, vzctl, who):
    vps.mount()
    failing = script(f"{who}.umount", "exit 5")
    done = vzctl("umount", 101)
    assert (done.code, done.stderr.splitlines()[0]) == (
        79,
        f"Error executing umount script {failing}",
    )
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted down\n"
    failing.unlink()
    assert vzctl("umount", 101).code == 0


@pytest.mark.parametrize("who", ["vps", "101"])
def test_a_failure_of_postumount_is_told_though_it_is_unmounted(vps, script, vzctl, who):
    vps.mount()
    failing = script(f"{who}.postumount", "exit 5")
    done = vzctl("umount", 101)
    assert (done.code, done.stderr.splitlines()[0]) == (
        79,
        f"Error executing postumount script {failing}",
    )
    assert vzctl("status", 101).stdout == "CTID 101 exist unmounted down\n"


def test_a_mount_script_may_mount_into_the_vps(node, vps, script, vzctl, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("from the host")
    (tmp_path / "data/file").chmod(0o644)
    script("101.mount", f'. "$VE_CONFFILE"; mount --bind {tmp_path}/data "$VE_ROOT/mnt"')
    script("101.umount", '. "$VE_CONFFILE"; umount "$VE_ROOT/mnt"')
    vps.start()
    assert vps.exec(["cat", "/mnt/file"]).stdout == b"from the host"
    vps.stop(fast=True)
    assert vzctl("status", 101).stdout == "CTID 101 exist unmounted down\n"


def test_a_script_may_call_vzctl_with_skiplock(node, vps, script, vzctl):
    from tools import ROOT

    env = f"VZ_ETC={node.paths.etc} VZ_RUN={node.paths.run}"
    script("101.mount", f"{env} {ROOT}/bin/vzctl --skiplock set 101 --onboot yes --save")
    assert vzctl("mount", 101).code == 0
    assert node.vps(101).config.value("ONBOOT") is True
    vps.umount()
    script("101.mount", f"{env} {ROOT}/bin/vzctl set 101 --onboot no --save")
    done = vzctl("mount", 101)
    assert "Container already locked" in done.stderr
    assert done.code == 79


def test_scripts_inside(node, vps, vzctl):
    conf = Path(node.paths.conf)
    (conf / "101.start").write_text("echo started >/tmp/started\ntouch /run-before-init\n")
    (conf / "101.stop").write_text("exit 3\n")
    assert vzctl("start", 101).code == 0
    assert vps.exec(["ls", "/run-before-init"]).returncode == 0
    assert vzctl("stop", 101).code == 79
    assert vzctl("status", 101).stdout == "CTID 101 exist mounted running\n"
    (conf / "101.stop").unlink()
    assert vzctl("stop", 101, "--fast").code == 0


def test_a_start_script_that_fails_stops_the_start(node, vps, vzctl):
    Path(f"{node.paths.conf}/101.start").write_text("exit 3\n")
    assert vzctl("start", 101).code == 79
    assert vzctl("status", 101).stdout == "CTID 101 exist unmounted down\n"


def test_prestart_helper(vps, vzctl, tmp_path):
    """vps-prestart of the machine runs once the root is mounted, before the VPS is made."""
    m.mount("none", "/usr/libexec", "tmpfs", 0)  # seen by this session alone
    try:
        helper = Path(scripts.HELPERS) / "vps-prestart"
        helper.parent.mkdir(parents=True)
        helper.write_text(f'#!/bin/sh\n. "$VE_CONFFILE"\nmountpoint -q "$VE_ROOT" && echo $VEID\n'
                          f"[ ! -e {tmp_path}/bad ]\n")
        helper.chmod(0o755)
        done = vzctl("start", 101)
        assert done.code == 0 and "Container is mounted\n101\n" in done.stdout
        vps.stop(fast=True)
        (tmp_path / "bad").touch()
        done = vzctl("start", 101)
        assert done.code == 79 and f"Error executing prestart script {helper}" in done.stderr
        assert str(vps.status) == "exist unmounted down"
    finally:
        m.umount2("/usr/libexec", m.MNT_DETACH)


def test_skip_remount_uses_the_root_as_it_is(vps, script, vzctl):
    script("101.mount", '. "$VE_CONFFILE"; mount -t tmpfs mine "$VE_ROOT/mnt"')
    vps.mount()
    assert vzctl("start", 101, "--skip-remount").code == 0
    assert tools.sh(vps, "grep -c ' /mnt tmpfs' /proc/mounts") == "1\n"
    assert script.said() == ["101.mount"]
    assert vzctl("restart", 101, "--fast", "--skip-umount", "--skip-remount").code == 0
    assert script.said() == []
    assert vzctl("restart", 101, "--fast").code == 0
    assert script.said() == ["101.mount"]


def test_a_failed_start_leaves_a_root_that_it_did_not_mount(vps, script, vzctl):
    Path(f"{vps.node.paths.conf}/101.start").write_text("exit 1\n")
    vps.mount()
    assert vzctl("start", 101, "--skip-remount").code == 79
    assert str(vps.status) == "exist mounted down"


def test_skip_ve_setup_leaves_the_files_alone(vps, vzctl):
    vps.set(hostname="fresh.example")
    assert vzctl("start", 101, "--skip_ve_setup").code == 0
    assert tools.sh(vps, "cat /etc/hostname 2>/dev/null; hostname") != "fresh.example\n" * 2
    assert vzctl("restart", 101, "--fast").code == 0
    assert tools.sh(vps, "cat /etc/hostname; hostname") == "fresh.example\n" * 2
