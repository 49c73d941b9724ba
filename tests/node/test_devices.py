"""Devices of a VPS: what each has, what is granted at start and live, and the fence around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tools
from tools import needs, sh
from vzpy.errors import Exit

OPEN = 'exec 3<>/dev/{} && echo open'


def opens(vps, name: str) -> str:
    """"" when it opens for reading and writing, else what the shell says."""
    done = vps.exec(["sh", "-c", f"exec 3<>/dev/{name}"])
    return done.stderr.decode().strip().rpartition(": ")[2] if done.returncode else ""


def test_what_every_vps_has(vps):
    vps.start()
    for name in ("null", "zero", "full", "urandom", "ptmx"):
        assert opens(vps, name) == "", name
    assert sh(vps, "ls /dev/net 2>&1 || true").endswith("No such file or directory\n")


@needs("BPF programs", "tun")
def test_a_device_by_name(vps, vzctl):
    ran = vzctl("set", 101, "--devnodes", "net/tun:rw", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    ran = vzctl("start", 101)
    assert ran.code == 0 and "\nSetting devices\n" in ran.stdout and ran.stderr == "", ran
    assert opens(vps, "net/tun") == ""
    host = os.stat("/dev/net/tun")
    assert sh(vps, "stat -c '%t:%T %a %u:%g' /dev/net/tun") == (
        f"{os.major(host.st_rdev):x}:{os.minor(host.st_rdev):x} {host.st_mode & 0o777:o}"
        f" {host.st_uid}:{host.st_gid}\n"
    )
