"""Helpers of the node suite: abilities found by trying, and what a node leaves behind."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from vzpy import cgroups, ids
from vzpy.kernel import caps, proc, process

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("VZ_TEST_CACHE", "/var/cache/vzpy-tests"))
# Tools are run with this and nothing of the environment of the tests.
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

# How often what has to come out the same again and again is done: `make test-long` asks for 1000.
ROUNDS = int(os.environ.get("VZ_TEST_ROUNDS", "200"))

needs = pytest.mark.needs
slow = pytest.mark.slow


class Ran:
    """What a tool came to: exit code (or minus the signal) and what it wrote."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout.decode(errors="surrogateescape")
        self.stderr = stderr.decode(errors="surrogateescape")

    @property
    def errors(self) -> str:
        """What it wrote, but for the line on what this machine does not apply."""
        lines = self.stderr.splitlines(keepends=True)
        return "".join(x for x in lines if not x.startswith("Warning: not applied on this node"))

    def __repr__(self) -> str:
        return f"exit code {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"


def start_tool(node, words, *, env=None, before=(), **kw) -> subprocess.Popen[bytes]:
    """A tool of the checkout, with the environment of the contract and no other.

    before  words in front of it: a program that runs it"""
    command = [*before, ROOT / "bin" / words[0], *map(str, words[1:])]
    given = {**ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run, **(env or {})}
    kw = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | kw
    return subprocess.Popen(command, env=given, **kw)


def run_tool(node, words, *, stdin=b"", timeout=120, **kw) -> Ran:
    """The same, run to its end; stdin is bytes, or what Popen takes."""
    given = stdin if isinstance(stdin, bytes) else None
    kw |= {} if given is not None else {"stdin": stdin}
    with start_tool(node, words, **kw) as tool:
        try:
            stdout, stderr = tool.communicate(given, timeout)
        except BaseException:
            tool.kill()
            raise
    return Ran(tool.returncode, stdout or b"", stderr or b"")


# A busy machine takes its time, and the virtual one is emulated: times in seconds are those of an
# idle one, and only a failure waits longer.
PATIENCE = 20 if os.environ.get("VZ_TEST_VM") == "1" else 4


def wait_for(condition, seconds: float = 10, what: str = ""):
    """Poll until the condition is true; its value. Fails with `what` after the time."""
    end = time.monotonic() + seconds * PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds * PATIENCE} s: {what or condition}"
        time.sleep(0.01)
    return value


def in_threads(work, items, seconds: float = 600) -> list:
    """work(item) for all items at once, each in a thread; their results. What one raises, and a
    hang, fail the test."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items, timeout=seconds))


# Abilities: each probe returns why it is missing, "" when it is there


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


DEBIAN = "debian-12-x86_64"
# One of each other init that Debian packs.
INITS = {
    kind: f"debian-12-{kind}-x86_64"
    for kind in ("sysvinit", "openrc-sysvinit", "openrc", "runit", "s6")
}


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


def debian_tarball(name: str = DEBIAN) -> Path | None:
    """The tarball of a Debian template, kept over sessions and checkouts; built when the machine
    can and what it is made from has changed, by one process at a time."""
    from vzpy import data, template
    from vzpy.errors import VzError
    from vzpy.events import silent
    from vzpy.lockfile import Flock

    store = CACHE / "templates"
    store.mkdir(parents=True, exist_ok=True)
    key = store / f"{name}.key"
    with Flock(str(store / f".{name}.lock")):
        found = next(iter(sorted(store.glob(f"{name}.tar*"))), None)
        wanted = _key_of(data.path("recipes", f"{name}.yaml"))
        current = found and key.exists() and key.read_text() == wanted
        if current or not shutil.which("mmdebstrap"):
            return found
        work = CACHE / f"build-{name}"
        try:
            made = template.build_cache(str(work), name, silent)
            for old in store.glob(f"{name}.tar*"):
                old.unlink()
            found = Path(shutil.move(made, store))
            key.write_text(wanted)
        except (VzError, OSError):
            pass
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return found


def _key_of(recipe: str) -> str:
    """Changes with all that the content of a template depends on, but for Debian itself."""
    parts = [recipe, *(ROOT / "vzpy" / f"{name}.py" for name in ("mmdebstrap", "aptsources"))]
    return hashlib.sha256(b"".join(Path(part).read_bytes() for part in parts)).hexdigest()


# What is left behind


class Traces:
    """Everything of the kind that a VPS is made of, as it is now: (kind, what) pairs.

    folder   where the nodes of this session live
    cgroups  names of their cgroups, whether the node still exists"""

    def __init__(self, folder: str, names: dict[str, bool]) -> None:
        self.found = {
            *(("mount", line) for line in _lines("/proc/self/mountinfo")),
            *(("process", p) for p in _our_processes(names)),
            *(("cgroup", n) for n in names if os.path.exists(f"{cgroups.mountpoint()}/{n}")),
            *(("network namespace", n) for n in _listing("/run/netns")),
            *(("link", n) for _, n in socket.if_nameindex() if n.startswith(("venet", "veth"))),
            *(("loop device", n) for n in _loops(folder)),
            *(("descriptor", n) for n in _descriptors()),
            *(("default node", n) for n in ("/etc/vz", "/run/vz", "/vz") if os.path.exists(n)),
            *(("id range", str(e.ids.base)) for e in _ranges(folder)),
            *(("to be removed", n) for n in _staged(folder)),
        }

    def since(self, before: Traces) -> list[str]:
        return sorted(f"{kind}: {what}" for kind, what in self.found - before.found)


def _lines(path: str) -> list[str]:
    with open(path, errors="surrogateescape") as f:
        return f.read().splitlines()


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _our_processes(names: dict[str, bool]) -> list[str]:
    """Processes in the mount namespace of the tests, which nobody but we has: tools, daemons;
    without the daemons of nodes that still exist."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) == os.getpid() or os.readlink(f"/proc/{pid}/ns/mnt") != _namespace():
                continue
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().replace(b"\0", b" ").decode(errors="replace")
            proc.starttime(int(pid))  # no zombie
            with open(f"/proc/{pid}/cgroup") as f:
                if names.get(f.read().rpartition("0::/")[2].partition("/")[0]):
                    continue
            found.append(f"{pid} {words}")
        except OSError:
            pass
    return found


def namespaces(node) -> set[str]:
    """Of the tests, and of all that runs for a node."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup") as f:
                ours = f"/{node.paths.cgroup}/" in f.read()
            if ours or os.readlink(f"/proc/{pid}/ns/mnt") == _namespace():
                for name in os.listdir(f"/proc/{pid}/ns"):
                    found.add(os.readlink(f"/proc/{pid}/ns/{name}"))
        except OSError:
            pass
    return found


def _namespace() -> str:
    return os.readlink("/proc/self/ns/mnt")


def _staged(folder: str) -> list[str]:
    return [n for n in _listing(f"{folder}/vztmp") if n != "rm.lck"]


def to_be_removed(node) -> list[str]:
    """Private areas of destroyed VPSs that the remover has not come to yet."""
    return _staged(os.path.dirname(os.path.dirname(node.paths.etc)))


def _loops(folder: str) -> list[str]:
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if path.read_text().startswith(folder):
                found.append(f"{path.parts[3]} {path.read_text().strip()}")
        except OSError:
            pass
    return found


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            pass  # the one that lists them
    return found


def _ranges(folder: str) -> list[ids.Entry]:
    mine = (e for e in ids.Registry().entries() if e.owner.etc.startswith(folder))
    return [e for e in mine if e.held(False)]


def leftovers(node) -> list[str]:
    """What is still in the folders of a node that has no VPS any more."""
    lock = node.config.raw("LOCKDIR")
    folders = [node.paths.run, lock, *(os.path.dirname(node.config.raw(k)) for k in _DATA)]
    found = [f"{folder}/{name}" for folder in folders for name in _listing(folder)]
    found += [str(p) for p in Path(node.paths.conf).glob("*.creating*")]
    found += [f"{node.paths.names}/{name}" for name in _listing(node.paths.names)]
    store = f"{node.config.raw('TEMPLATE')}/tree/.refs"
    private = os.path.dirname(node.config.raw("VE_PRIVATE"))
    found += [str(p) for p in Path(store).rglob("*") if p.is_symlink() and
              os.readlink(p).startswith(private)]
    return [name for name in found if not name.endswith(_STAYS)]


_DATA = ("VE_PRIVATE", "VE_ROOT")
# Of the daemon: kept between starts.
_STAYS = ("vzeventd.log",)


@contextmanager
def no_daemon(node):
    """The node daemon of a node cannot be started: something lies at the place of its socket."""
    os.makedirs(f"{node.paths.socket}/x")
    try:
        yield
    finally:
        shutil.rmtree(node.paths.socket)
        Path(node.paths.run, "vzeventd.lock").unlink(missing_ok=True)


def clear_cgroup(name: str) -> None:
    """Kill and remove a cgroup of a node; whatever a failed test left in it."""
    path = f"{cgroups.mountpoint()}/{name}"
    if os.path.exists(path):
        cgroups.remove(path)


def private_mounts() -> None:
    """A mount namespace of our own, cut off from the machine's, with shared mounts as systemd
    leaves them: code that forgets to make its copy private is found out."""
    from vzpy.kernel import mount as m

    process.unshare(process.CLONE_NEWNS)
    m.mount("none", "/", "none", m.MS_REC | m.MS_PRIVATE)
    m.mount("none", "/", "none", m.MS_REC | m.MS_SHARED)


@contextmanager
def zram_swap(mib: int):
    """Swap in compressed memory, for as long as the context lasts."""
    Path("/sys/block/zram0/reset").write_text("1")
    Path("/sys/block/zram0/disksize").write_text(f"{mib}M")
    for command in (["mkswap", "/dev/zram0"], ["swapon", "-p", "100", "/dev/zram0"]):
        subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["swapoff", "/dev/zram0"], check=True)
        Path("/sys/block/zram0/reset").write_text("1")


def remove_tree(path: str) -> None:
    """Unmount what is below and remove; whoever still has something open there loses it."""
    from vzpy.kernel import mount as m

    for target in reversed(proc.mounts_below(path)):
        if target != path:
            try:
                m.umount2(target, m.MNT_DETACH)
            except OSError:
                pass  # a daemon was quicker
    for _ in range(20):
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            return
        except OSError as err:
            if err.errno != errno.ENOTEMPTY:
                raise
            time.sleep(0.05)


# Inside a VPS


def sh(vps, line: str, **kw) -> str:
    """What a shell line prints inside; it has to succeed."""
    done = vps.exec(["sh", "-c", line], **kw)
    assert done.returncode == 0, f"{line}: {done}"
    return done.stdout.decode(errors="surrogateescape")


def plant(vps, path: str, content: str | bytes = "", mode: int = 0o644, link: str = "") -> Path:
    """Put a file (or a symbolic link) into a stopped VPS, before its init can know; its owner is
    the VPS's root."""
    at = Path(vps.private, "upper", path.lstrip("/"))
    at.parent.mkdir(parents=True, exist_ok=True)
    if link:
        at.symlink_to(link)
    else:
        at.write_bytes(content.encode() if isinstance(content, str) else content)
        at.chmod(mode)
    for made in (at, *at.parents):
        if made == Path(vps.private, "upper"):
            return at
        os.lchown(made, vps.ids.base, vps.ids.base)
    raise AssertionError(path)


# An init that does nothing at all: what it was given shows unchanged in /proc/1.
IDLE = "#!/bin/sh\nexec sleep 1000000\n"


QUOTA = "debian-12-quota-x86_64"
_UNREAD = ("doc", "locale", "man", "zoneinfo", "bash-completion")


def quota_tarball() -> Path | None:
    """The smallest Debian that has the quota tools, kept over sessions: no recipe of ours."""
    made = CACHE / "templates" / f"{QUOTA}.tar.zst"
    if not made.exists() and shutil.which("mmdebstrap"):
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_name(f"new-{os.getpid()}.tar.zst")
        argv = ["mmdebstrap", "--variant=essential", "--include=quota", "bookworm", new]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNREAD]
        argv += ["--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*"]
        subprocess.run(argv, capture_output=True)
        if new.exists():
            new.rename(made)
    return made if made.exists() else None


def debian_store(name: str = DEBIAN) -> str:
    """A template folder with a Debian template, its tree kept over sessions."""
    store = CACHE / "debian"
    (store / "cache").mkdir(parents=True, exist_ok=True)
    tarball = quota_tarball() if name == QUOTA else debian_tarball(name)
    assert tarball
    link = store / "cache" / tarball.name
    if not link.is_symlink():
        link.symlink_to(tarball)
    return str(store)


# Files of the host


def remove(path) -> None:
    """A file, a link or a tree."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def fill(file, leave: int = 0) -> None:
    """Write until the disk has room for `leave` more bytes."""
    about = os.statvfs(file.fileno())
    room = about.f_bavail * about.f_bsize - leave
    if room > 0:
        os.posix_fallocate(file.fileno(), 0, room)
