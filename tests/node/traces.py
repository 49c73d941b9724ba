"""What VPSs and nodes leave behind, looked for and removed."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from pathlib import Path

from vzpy import cgroups, ids
from vzpy.kernel import proc, process


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
            *(("loop device", n) for n in loops(folder)),
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


def loops(folder: str) -> list[str]:
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
