"""What an unpacked tree has to be: made for this machine, with an init that knows cgroup v2.

The tree is a stranger's: every file of it is opened by openat2(2) with RESOLVE_IN_ROOT."""

from __future__ import annotations

import os

from vzpy import elf
from vzpy.errors import Exit, VzError
from vzpy.kernel.mount import openat2

OLDEST_SYSTEMD = 230  # the first that boots on cgroup v2 alone (gotcha G17)
PROGRAMS = ("sbin/init", "bin/sh", "usr/bin/env", "bin/busybox")
SYSTEMD = ("lib/systemd/systemd", "usr/lib/systemd/systemd")
LIBRARIES = ("lib/systemd", "usr/lib/systemd", "usr/lib64/systemd")
STATUS = "var/lib/dpkg/status"


def check(root: str, called: str) -> None:
    """Raises VzError 47 when a VPS cannot run from the tree below `root`.

    called  what to name in the error: the tarball
    A tree without init is fine here: start says so, and there may come one."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        machine = tree_machine(fd)
        if machine and not elf.runs_here(machine):
            raise VzError(
                f"{called} is made for {machine}, this machine is {os.uname().machine}",
                Exit.FS_BAD_TMPL,
            )
        version = systemd_version(fd)
        if version and version < OLDEST_SYSTEMD:
            raise VzError(
                f"{called} has systemd {version}, which cannot run on cgroup v2"
                f" (needs {OLDEST_SYSTEMD} or newer)",
                Exit.FS_BAD_TMPL,
                hint="Use a newer release of the distribution, or put another init into"
                " the template, e.g. sysvinit-core; else it needs a virtual machine.",
            )
    finally:
        os.close(fd)


def _open(root: int, path: str) -> int | None:
    try:
        return openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None


def tree_machine(root: int) -> str | None:
    """The machine its programs are made for; None when it has no ELF program where we look."""
    for path in PROGRAMS:
        if (fd := _open(root, path)) is None:
            continue
        try:
            if header := elf.read(fd):
                return header.machine
        except OSError:
            pass
        finally:
            os.close(fd)
    return None


def systemd_version(root: int) -> int | None:
    """By libsystemd-shared-NNN.so (since 231), else by dpkg's word; None: there is no systemd."""
    if not any(_is_there(root, path) for path in SYSTEMD):
        return None
    for path in LIBRARIES:
        if (fd := _open(root, path)) is None:
            continue
        try:
            names = os.listdir(fd)
        except OSError:
            names = []
        finally:
            os.close(fd)
        for name in names:
            number = _leading_number(name.removeprefix("libsystemd-shared-"))
            if name.startswith("libsystemd-shared-") and number:
                return number
    return _dpkg_version(root) or OLDEST_SYSTEMD - 1


def _is_there(root: int, path: str) -> bool:
    fd = _open(root, path)
    if fd is not None:
        os.close(fd)
    return fd is not None


def _dpkg_version(root: int) -> int | None:
    fd = _open(root, STATUS)
    if fd is None:
        return None
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        package = ""
        for line in file:
            if line.startswith("Package: "):
                package = line[9:].strip()
            elif package == "systemd" and line.startswith("Version: "):
                return _leading_number(line[9:].strip())
    return None


def _leading_number(text: str) -> int | None:
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits else None
