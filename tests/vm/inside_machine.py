"""Runs inside the virtual machine: is this the machine that the node tests were promised?"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CONTROLLERS = {"cpuset", "cpu", "io", "memory", "pids"}


def sh(command: str) -> str:
    done = subprocess.run(
        command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def test_controllers_reach_a_cgroup() -> None:
    root = Path("/sys/fs/cgroup")
    assert set((root / "cgroup.subtree_control").read_text().split()) >= CONTROLLERS
    child = root / "smoke"
    child.mkdir()
    try:
        assert set((child / "cgroup.controllers").read_text().split()) >= CONTROLLERS
        (child / "memory.max").write_text("64M")
        (child / "pids.max").write_text("10")
    finally:
        child.rmdir()


def test_a_project_quota_stops_a_writer(tmp_path: Path) -> None:
    root = next(line for line in Path("/proc/mounts").read_text().splitlines() if " / " in line)
    assert "prjquota" in root
    sh(f"chattr -p 4711 +P {tmp_path} && setquota -P 4711 0 1024 0 0 /")
    # Whoever has CAP_SYS_RESOURCE is not stopped.
    writer = f"--bounding-set=-sys_resource head -c 2M /dev/zero >{tmp_path}/file"
    done = subprocess.run(f"setpriv {writer}", shell=True, stderr=subprocess.PIPE, text=True)
    assert "quota exceeded" in done.stderr
    assert (tmp_path / "file").stat().st_blocks <= 2048


def test_user_and_time_namespaces() -> None:
    assert sh("unshare --user --map-root-user --time --boottime 1000 --fork id -u") == "0\n"


def test_overlay_mounts(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("below")
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    sh(f"mount -t overlay overlay -o {options} {tmp_path}/merged")
    try:
        assert (tmp_path / "merged/file").read_text() == "below"
    finally:
        sh(f"umount {tmp_path}/merged")


def test_network_and_firewall() -> None:
    sh("ip netns add smoke")
    try:
        sh("ip link add smoke0 type veth peer name eth0 netns smoke && ip link set smoke0 up")
        sh("nft add table inet smoke && nft list table inet smoke && nft delete table inet smoke")
    finally:
        sh("ip netns del smoke")
    sh("ping -c 1 -W 5 127.0.0.1")


def test_kernel_abilities() -> None:
    assert "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",")
    assert os.path.exists("/sys/kernel/btf/vmlinux")
    assert os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")
    assert int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 24 & 1


def test_the_disk_that_was_asked_for(tmp_path: Path) -> None:
    disk = os.environ["VZ_TEST_DISKS"]
    sh(f"mkfs.xfs -q {disk} && mount -o prjquota {disk} {tmp_path}")
    try:
        assert "prjquota" in sh(f"grep {tmp_path} /proc/mounts")
    finally:
        sh(f"umount {tmp_path}")
    sh(f"mkfs.btrfs -q -f {disk} && mount {disk} {tmp_path}")
    sh(f"umount {tmp_path}")


def test_the_checkout_runs_from_anywhere(tmp_path: Path) -> None:
    assert shutil.which("vzctl") == f"{Path.cwd()}/bin/vzctl"
    sh(f"cd {tmp_path} && vzctl --version")
    sh(f"cd {tmp_path} && python3 -c 'import vzpy, yaml, click'")
