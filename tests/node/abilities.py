"""Abilities of the machine, found by trying: each probe returns why one is missing, "" when it is
there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import pytest
from stores import DEBIAN, INITS, debian_tarball, quota_tarball

from tools import CACHE
from vzpy import cgroups
from vzpy.kernel import caps


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _controller(name: str):
    def probe() -> str:
        with open(f"{cgroups.mountpoint()}/cgroup.controllers") as f:
            return "" if name in f.read().split() else "bound to cgroup v1, or not built"

    return probe


def _sys_resource() -> str:
    return "" if caps.bounding_of(os.getpid()) & caps.mask(["sys_resource"]) else "not permitted"


def _disks() -> str:
    return "" if os.environ.get("VZ_TEST_DISKS") else "no empty disks"


def _project_quota() -> str:
    from vzpy import quota

    fd = quota.open_tree(str(CACHE))
    try:
        return "" if quota.enforced(fd) else quota.why_not(str(CACHE))
    finally:
        os.close(fd)


def _zram() -> str:
    """Swap is the whole machine's: only of the virtual one, and only in memory."""
    if os.environ.get("VZ_TEST_VM") != "1":
        return "this machine's swap is not the tests' to change"
    return "" if os.path.exists("/sys/block/zram0") else "no zram"


def _program(name: str):
    return lambda: "" if shutil.which(name) else "not installed"


def _tmpfs() -> str:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True)
        if not done.returncode:
            subprocess.run(["umount", folder], check=True)
        return done.stderr.decode()


def _wireguard() -> str:
    command = ["unshare", "--net", "ip", "link", "add", "wg0", "type", "wireguard"]
    return subprocess.run(command, capture_output=True, text=True).stderr


def _template(name: str):
    why = f"no {name} in the cache, and it cannot be built"
    return lambda: "" if debian_tarball(name) else why


def _bpf() -> str:
    from vzpy import devices
    from vzpy.kernel import bpf

    try:
        code = devices.fence_program(devices.DEFAULT)
        os.close(bpf.prog_load(bpf.PROG_CGROUP_DEVICE, code, "probe", bpf.CGROUP_DEVICE))
    except OSError as err:
        return str(err)
    return ""


def _bpf_lsm() -> str:
    from vzpy import filecount
    from vzpy.model import IdRange

    path = f"{cgroups.mountpoint()}/vz-probe-{os.getpid()}"
    os.makedirs(f"{path}/1/ve")
    try:
        filecount.attach(f"{path}/1", IdRange(1 << 30), {})
    except OSError as err:
        return str(err)
    finally:
        os.removedirs(f"{path}/1/ve")
    return ""


def empty_disk() -> str:
    """A block device that nobody uses: the first that the virtual machine was given."""
    return os.environ.get("VZ_TEST_DISKS", "").partition(" ")[0]


def _tun() -> str:
    """A device that a node grants to who asks, loaded by need."""
    from vzpy.story import devices

    devices.load_module("tun")
    return "" if os.path.exists("/dev/net/tun") else "no /dev/net/tun, and no module for it"


def _vlan() -> str:
    line = "ip link add v0 type veth && ip link add link v0 name v0.5 type vlan id 5"
    done = subprocess.run(["unshare", "-n", "sh", "-c", line], capture_output=True, text=True)
    return done.stderr


ABILITIES = {
    "root": _root,
    "pids controller": _controller("pids"),
    "memory controller": _controller("memory"),
    "cpu controller": _controller("cpu"),
    "cpuset controller": _controller("cpuset"),
    "io controller": _controller("io"),
    "CAP_SYS_RESOURCE": _sys_resource,
    "zram swap": _zram,
    "BPF programs": _bpf,
    "BPF LSM": _bpf_lsm,
    "tun": _tun,
    "empty disk": lambda: "" if empty_disk() else "none given (VZ_TEST_DISKS)",
    "strace": _program("strace"),
    "lxcfs": _program("lxcfs"),
    "nftables": _program("nft"),
    "iptables": _program("iptables-legacy"),
    "wireguard": _wireguard,
    "mke2fs": _program("mke2fs"),
    "mkfs.xfs": _program("mkfs.xfs"),
    "mkfs.btrfs": _program("mkfs.btrfs"),
    "tmpfs": _tmpfs,
    "vlan": _vlan,
    "disks": _disks,
    "quota template": lambda: "" if quota_tarball() else "none in the cache, and none can be built",
    "project quota": _project_quota,
    "debian template": _template(DEBIAN),
    **{f"{name} template": _template(name) for name in INITS.values()},
}
_missing: dict[str, str] = {}


def require(*names: str) -> None:
    """Skip the test, by the name of the first ability that is not there."""
    for name in names:
        if name not in _missing:
            _missing[name] = ABILITIES[name]()
        if _missing[name]:
            pytest.skip(f"needs {name}: {_missing[name]}")
