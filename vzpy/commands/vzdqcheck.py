"""vzdqcheck: the blocks and inodes of a tree, counted by walking it."""

from __future__ import annotations

import os

from vzpy import quotatext
from vzpy.commands import vzdq

OPTIONS = vzdq.COMMON


def main(argv: list[str]) -> int:
    return vzdq.run("vzdqcheck", argv, "PATH", OPTIONS, _check)


def _check(path: str, given: dict[str, str]) -> None:
    used, inodes = count(path)
    print(f"quota usage for {path}")
    print(f"{'blocks':>11}{'inodes':>11}\n{quotatext.blocks(used):11}{inodes:11}")


def count(path: str) -> tuple[int, int]:
    """Bytes on disk and inodes of a tree; other file systems in it are left out. Raises OSError."""
    top = os.lstat(path)
    seen = {top.st_ino}
    used, todo = top.st_blocks * 512, [path]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                if about.st_dev != top.st_dev or about.st_ino in seen:
                    continue
                seen.add(about.st_ino)
                used += about.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
    return used, len(seen)
