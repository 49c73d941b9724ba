"""The cgroups of a subtree, and who is in them. Apart from what they tell (cgroupread.py): a stop
does without that."""

from __future__ import annotations

import os

from vzpy.kernel.proc import slurp


def below(path: str) -> list[tuple[str, int]]:
    """The cgroups of the subtree, each after the one above it, with its inode number, which the
    kernel never gives twice."""
    found: list[tuple[str, int]] = []
    waiting = [(path, 0)]
    while waiting:
        where, inode = waiting.pop()
        try:
            # The link count tells of directories in it, without a look at some fifty files.
            status = os.stat(where)
            found.append((where, inode or status.st_ino))
            if status.st_nlink > 2:
                with os.scandir(where) as entries:
                    waiting += [(x.path, x.inode()) for x in entries if x.is_dir()]
        except OSError:
            pass  # removed meanwhile
    return found


def tasks(path: str, name: str = "cgroup.procs") -> list[int]:
    """Processes (or, with cgroup.threads, threads) of the subtree, as the host numbers them; of a
    threaded cgroup its root lists the processes."""
    found: list[int] = []
    for where, _ in below(path):
        try:
            found += map(int, slurp(f"{where}/{name}").split())
        except OSError:
            pass
    return found
