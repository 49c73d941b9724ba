"""Who uses a tree: the kernel of OpenVZ refused to switch a quota while somebody did, and scripts
rely on it."""

from __future__ import annotations

import os

from vzpy.kernel.proc import is_mounted, mounts_below

REASONS = (
    "Possible reasons:\n"
    "\t- Container's root is already mounted\n"
    "\t- there are opened files inside Container's private area\n"
    "\t- your current working directory is inside Container's"
)


def is_busy(path: str, root: str = "") -> bool:
    """root  where the tree of a VPS is mounted, "" for a tree that is none"""
    if root and is_mounted(root):
        return True
    path = os.path.realpath(path)
    return bool(mounts_below(path)) or any(
        used == path or used.startswith(f"{path}/") for used in _used()
    )


def _used() -> set[str]:
    """Directories and files that processes stand in or have open. Links are read, not followed."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
        try:
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            pass
        for link in links:
            try:
                found.add(os.readlink(link))
            except OSError:
                pass  # it has ended
    return found
