"""vzctl snapshot and its sisters (vzctl-cli 2.12, migrate.md 4)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import tools
from tools import sh
from vzpy import rootfs

GUID = "{11111111-2222-3333-4444-555555555555}"


@pytest.fixture(params=["overlay", "simfs"])
def vps(request, node):
    return node.create(101, layout=request.param)


def write(vps, text: str, path: str = "/data") -> None:
    """Into a stopped VPS, as its own root would."""
    vps.start()
    sh(vps, f"echo {text} > {path}")
    vps.stop(fast=True)


def read(vps, path: str = "/data") -> str:
    vps.start()
    try:
        return sh(vps, f"cat {path} 2>/dev/null || echo none").strip()
    finally:
        vps.stop(fast=True)


def test_back_and_forth(vps):
    """A tree of states: each comes back as it was, whatever was done on the others."""
    write(vps, "one")
    one = vps.snapshot(name="one")
    write(vps, "two")
    two = vps.snapshot(name="two")
    write(vps, "three")
    vps.snapshot_switch(one)
    assert read(vps) == "one"
    write(vps, "other")
    other = vps.snapshot()
    vps.snapshot_switch(two)
    assert read(vps) == "two"
    vps.snapshot_switch(other)
    assert read(vps) == "other"
    assert {s.guid: (s.parent, s.current) for s in vps.snapshots()} == {
        one: ("", False), two: (one, False), other: (one, True),
    }  # fmt: skip
    vps.snapshot_delete(one)
    vps.snapshot_switch(two)
    assert read(vps) == "two"
    vps.snapshot_delete(two)
    vps.snapshot_delete(other)
    assert read(vps) == "two" and not vps.snapshots()
    assert not leftovers(vps)


def leftovers(vps) -> list[str]:
    from vzpy.story import states

    return sorted(os.listdir(states.of(vps).folder))


def test_of_a_running_vps(vps):
    vps.start()
    sh(vps, "echo one > /data; mkdir /d; echo x > /d/x; ln /d/x /d/y; mkfifo /d/fifo")
    guid = vps.snapshot()
    assert vps.status.running
    sh(vps, "echo two > /data; rm -r /d; rm /etc/passwd")
    vps.snapshot_switch(guid)
    assert vps.status.running  # it was, then
    assert sh(vps, "cat /data; ls /d; stat -c %h /d/x; ls /etc/passwd") == (
        "one\nfifo\nx\ny\n2\n/etc/passwd\n"
    )


def test_mount(vps, tmp_path):
    write(vps, "one")
    guid = vps.snapshot()
    write(vps, "two")
    vps.start()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        vps.snapshot_mount(guid, str(tmp_path / folder))
    assert (tmp_path / "a/data").read_text() == "one\n"
    assert (tmp_path / "b/data").read_text() == "one\n"
    with pytest.raises(OSError, match="Read-only"):
        (tmp_path / "a/data").write_text("three")
    assert sh(vps, "cat /data") == "two\n"
    vps.snapshot_umount(guid)
    assert not os.listdir(tmp_path / "a") and not os.listdir(tmp_path / "b")
