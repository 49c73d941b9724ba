"""The machine around the VPSs: programs, network, kernel limits for many VPSs, security modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from vzpy import busybox
from vzpy.doctor.probe import Failed, probe, read
from vzpy.errors import VzError
from vzpy.kernel import process as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.doctor.probe import Probe
    from vzpy.model import NodePaths

SYSCTL_FILE = "/etc/sysctl.d/99-vz.conf"
_POOL = (0x70000000, 0x7FFDFFFF)


def identity(paths: NodePaths) -> Iterator[Probe]:
    yield "root", True, _root
    yield "node set up", True, lambda: _set_up(paths)


def probes(count: int) -> Iterator[Probe]:
    yield "nftables", False, probe(_nftables, "apt install nftables; load the module nf_tables")
    yield "busybox, static", False, _busybox
    yield "mmdebstrap", False, lambda: _program("mmdebstrap", "templates of Debian are not built")
    yield "lxcfs", False, _lxcfs
    yield "ids of the pool are free", False, _subids
    yield f"kernel limits for {count} VPSs", False, lambda: _limits(count)
    yield "host firewall forwards", False, _forward


def _root() -> str:
    if os.geteuid():
        raise Failed("this is not root", "Run it as root")
    return f"kernel {os.uname().release}"


def _set_up(paths: NodePaths) -> str:
    if not os.path.exists(f"{paths.etc}/vz.conf"):
        raise Failed(f"{paths.etc}/vz.conf is missing", "Run: vz setup")
    return paths.etc


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except FileNotFoundError:
        raise Failed(f"the program {command[0]} is not installed") from None
    if done.returncode:
        raise Failed(" ".join(done.stderr.split()) or f"{command[0]} failed")
    return done.stdout


def _nftables() -> None:
    p.unshare(p.CLONE_NEWNET)
    _run("nft", "add table inet vz; add chain inet vz f { type filter hook forward priority 0; }")


def _busybox() -> str:
    """What the embedded template is made of."""
    try:
        return busybox.find(os.uname().machine)
    except VzError as err:
        raise Failed(f"{err.message}, the default template cannot be built", err.hint) from None


def _program(name: str, without: str) -> str:
    path = shutil.which(name)
    if not path:
        raise Failed(f"it is not installed, {without}", f"apt install {name}")
    return path


def _lxcfs() -> str:
    if " - fuse.lxcfs " not in read("/proc/self/mountinfo"):
        raise Failed("it does not run; /proc/meminfo inside is the host's", "apt install lxcfs")
    return ""


def _subids() -> str:
    for path in ("/etc/subuid", "/etc/subgid"):
        if not os.path.exists(path):
            continue
        for line in read(path).splitlines():
            owner, *numbers = line.split(":")
            if len(numbers) != 2 or not all(n.isdigit() for n in numbers):
                continue
            first, count = map(int, numbers)
            if first <= _POOL[1] and first + count > _POOL[0]:
                raise Failed(f"{path} gives ids from {first} to {owner}",
                             f"Give {owner} ids outside {_POOL[0]}..{_POOL[1]}")
    return ""


def wanted_sysctls(count: int) -> dict[str, int]:
    """Least values of kernel limits that `count` VPSs share, by sysctl name.

    Each VPS is another user to the kernel, so what is counted per user only has to do for one."""
    return {
        "fs.aio-max-nr": 65536 + 2048 * count,
        "fs.inotify.max_queued_events": 65536,
        "fs.inotify.max_user_instances": 1024,
        "fs.inotify.max_user_watches": 262144,
        "kernel.keys.maxbytes": 2000000,
        "kernel.keys.maxkeys": 2000,
        "kernel.pid_max": min(4194304, 32768 + 1024 * count),
        "kernel.pty.max": 4096 + 16 * count,
        "net.ipv4.ip_forward": 1,
        "net.ipv4.neigh.default.gc_thresh2": 512 + 8 * count,
        "net.ipv4.neigh.default.gc_thresh3": 1024 + 16 * count,
        "net.ipv6.neigh.default.gc_thresh2": 512 + 8 * count,
        "net.ipv6.neigh.default.gc_thresh3": 1024 + 16 * count,
        "vm.max_map_count": 262144,
    }


def low_sysctls(count: int) -> dict[str, int]:
    """Those of wanted_sysctls that this kernel has set lower."""
    low = {}
    for name, least in wanted_sysctls(count).items():
        try:
            now = int(read("/proc/sys/" + name.replace(".", "/")).split()[0])
        except (OSError, ValueError):
            continue
        if now < least:
            low[name] = least
    return low


def fix_sysctls(count: int, path: str = SYSCTL_FILE) -> dict[str, int]:
    """Write what is too low to a sysctl.d file and set it; returns it. Nothing is lowered."""
    low = low_sysctls(count)
    if low:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"# vz doctor --fix, for {count} VPSs\n")
            file.writelines(f"{name} = {value}\n" for name, value in low.items())
        for name, value in low.items():
            _set(name, value)
    return low


def _set(name: str, value: int) -> None:
    with open("/proc/sys/" + name.replace(".", "/"), "w") as knob:
        knob.write(str(value))


def _limits(count: int) -> str:
    low = low_sysctls(count)
    if low:
        wanted = ", ".join(f"{name} = {value}" for name, value in low.items())
        raise Failed(f"wanted are {wanted}", f"vz doctor --fix sets them, in {SYSCTL_FILE}")
    return ""


def _forward() -> str:
    """Packets of VPSs are routed: a host that drops what it forwards cuts them off."""
    todo = "Accept the addresses of the VPSs in that chain, or set its policy to accept"
    listed = json.loads(_run("nft", "--json", "list", "chains") or "{}").get("nftables", [])
    for chain in (entry["chain"] for entry in listed if "chain" in entry):
        if chain.get("hook") == "forward" and chain.get("policy") == "drop":
            name = f"{chain['family']} {chain['table']} {chain['name']}"
            raise Failed(f"the nftables chain {name} drops what it does not know", todo)
    if os.path.exists("/proc/net/ip_tables_names") and shutil.which("iptables-legacy"):
        rules = _run("iptables-legacy", "-S", "FORWARD")
        if rules.startswith(("-P FORWARD DROP", "-P FORWARD REJECT")):
            raise Failed("iptables (legacy) has the policy DROP in its chain FORWARD", todo)
    return ""


