"""vzdump and vzrestore (migrate.md 5)."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from belongings import furnish, picture

import tools
from tools import sh
from vzpy.backup import Job
from vzpy.errors import Exit, VzError

LONGEST = 3900  # what is nested deeper than a path can be is told, and left out


@pytest.fixture(params=["overlay", "simfs", "image"])
def vps(request, node):
    return node.create(101, layout=request.param, diskspace="64M", diskinodes=20000)


def kept(vps) -> dict[str, tuple[object, ...]]:
    """What an archive can hold: no sockets."""
    return {path: about for path, about in picture(vps).items()
            if about[0] != stat.S_IFSOCK and len(os.fsencode(path)) < LONGEST}  # fmt: skip


def warnings(events: list[object]) -> list[str]:
    return [str(event) for event in events if type(event).__name__.endswith("Warned")]


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.zst"])
def test_round_trip(node, vps, tmp_path, suffix):
    """One of everything, in each layout, under other ids; and it boots."""
    furnish(vps)
    before = kept(vps)
    events: list[object] = []
    path = vps.dump(Job(dumpdir=str(tmp_path), suffix=suffix), report=events.append)
    assert [w for w in warnings(events) if "nested too deep" not in w] == []
    assert len(warnings(events)) == 1
    new = node.restore(path, 202)
    assert new.layout == vps.layout and new.ids.base != vps.ids.base
    after = kept(new)
    assert {p: (before.get(p), after.get(p)) for p in before.keys() | after.keys()
            if before.get(p) != after.get(p)} == {}  # fmt: skip
    new.start()
    assert sh(new, "cat /home/one/plain") == "plain"


@pytest.mark.parametrize("mode", ["plain", "stop", "suspend", "snapshot"])
def test_running(cli, node, vps, tmp_path, mode):
    vps.start()
    sh(vps, "echo one > /data")
    words = [] if mode == "plain" else [f"--{mode}"]
    ran = cli("vzdump", *words, "--dumpdir", tmp_path, "101")
    assert ran.code == 0, ran
    assert vps.status.running
    (archive,) = tmp_path.glob("*.tar")
    name = r"vzdump-openvz-101-\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d\.tar"
    assert re.fullmatch(name, archive.name)
    assert f"INFO: backup mode: {mode}" in archive.with_suffix(".log").read_text()
    ran = cli("vzrestore", archive, 202)
    assert ran.code == 0, ran
    new = node.vps(202)
    new.start()
    assert sh(new, "cat /data") == "one\n"
    assert {"Snapshots.xml", "layers"} & set(os.listdir(vps.private)) <= {"layers"}
