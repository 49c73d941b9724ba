"""What the host hands in: a tar that is unpacked over the root disk before init starts."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .build import CHECKOUT, CHECKOUT_INSIDE, HERE
from .host import run


def write(
    file: Path,
    *,
    put: Sequence[tuple[Path, str]],
    settings: Mapping[str, str],
    env: Mapping[str, str],
    command: Sequence[str],
) -> None:
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    # GNU_FORMAT, because the other end is busybox.
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        _add_checkout(tar)
        for source, target in put:
            tar.add(source, target.lstrip("/"), filter=_owned_by_root)
        _add_text(tar, "vm/init", (HERE / "init.sh").read_text())
        _add_text(tar, "vm/settings", "\n".join(lines) + "\n")
        _add_text(tar, "vm/command", f"#!/bin/sh\nexec {shlex.join(command)}\n")


def _add_checkout(tar: tarfile.TarFile) -> None:
    """The working tree as it is now: what git knows, and what it would not ignore."""
    # In a container the checkout often belongs to somebody else than root.
    git = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT)]
    listed = run([*git, "ls-files", "-z", "-co", "--exclude-standard"])
    for name in sorted(set(listed.split("\0")) - {""}):
        member = f"{CHECKOUT_INSIDE}/{name}".lstrip("/")
        try:
            tar.add(CHECKOUT / name, member, filter=_owned_by_root)
        except FileNotFoundError:
            continue  # deleted in the working tree, or just now by somebody


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), 0o755
    tar.addfile(member, io.BytesIO(text.encode()))


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
