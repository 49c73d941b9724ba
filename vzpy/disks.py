"""The whole disks under a folder: what io.max knows bandwidth by (cgroups(7), sysfs(5)).

    file system -> partition -> disk
                -> dm, md    -> the devices it is made of
                -> loop      -> the file system that its image lies on"""

from __future__ import annotations

import os

from vzpy.kernel.proc import mount_at, slurp

_DEPTH = 16  # image on LVM on RAID on partitions is five


def under(path: str, sys: str = "/sys") -> list[str]:
    """`MAJOR:MINOR` of the disks that a folder's file system lies on, ascending; none for one
    without a block device, as tmpfs or NFS."""
    return sorted(_below_folder(path, sys, _DEPTH))


def weighs(disk: str, cgroup2: str, sys: str = "/sys") -> bool:
    """A weight has an effect on this disk: its scheduler is bfq, or iocost is switched on for it
    (cgroup-v2.rst, io.weight)."""
    if "[bfq]" in _text(f"{sys}/dev/block/{disk}/queue/scheduler"):
        return True
    lines = _text(f"{cgroup2}/io.cost.qos").split("\n")
    return any(line.startswith(f"{disk} ") and "enable=1" in line for line in lines)


def _below_folder(path: str, sys: str, depth: int) -> set[str]:
    try:
        device = os.stat(path).st_dev
    except OSError:
        return set()
    if os.major(device):
        return _below_device(_name(device), sys, depth)
    return _below_anonymous(path, sys, depth - 1) if depth else set()


def _name(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _below_anonymous(path: str, sys: str, depth: int) -> set[str]:
    """A file system with a device number of its own making: btrfs names its device as the source of
    the mount, overlay the folder it writes to."""
    _, source, options = mount_at(path)
    for option in options.split(","):
        key, _, value = option.partition("=")
        if key == "upperdir":
            return _below_folder(value, sys, depth)
    try:
        device = os.stat(source).st_rdev if source.startswith("/dev/") else 0
    except OSError:
        device = 0
    return _below_device(_name(device), sys, depth) if device else set()


def _below_device(name: str, sys: str, depth: int) -> set[str]:
    """The disks below a block device, itself when it is one."""
    if not depth:
        return set()
    where = f"{sys}/dev/block/{name}"
    if not os.path.isdir(where):
        return set()
    if backing := _text(f"{where}/loop/backing_file"):
        return _below_folder(os.path.dirname(backing), sys, depth - 1)
    parts = _listing(f"{where}/slaves")
    if parts:
        return set().union(
            *(_below_device(_text(f"{where}/slaves/{x}/dev"), sys, depth - 1) for x in parts)
        )
    if os.path.exists(f"{where}/partition"):
        return {_text(f"{os.path.dirname(os.path.realpath(where))}/dev")}
    return {name}


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        return os.fsdecode(slurp(path)).rstrip("\n")
    except OSError:
        return ""
