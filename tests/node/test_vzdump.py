"""vzdump and vzrestore (migrate.md 5)."""

from __future__ import annotations

import pytest

from tools import sh
from vzpy.backup import Job


@pytest.fixture(params=["overlay", "simfs"])
def vps(request, node):
    return node.create(101, layout=request.param)


def test_round_trip(node, vps, tmp_path):
    vps.start()
    sh(vps, "echo one > /data; ln /data /other; mkfifo /fifo")
    vps.stop(fast=True)
    path = vps.dump(Job(dumpdir=str(tmp_path)))
    new = node.restore(path, 202)
    new.start()
    assert sh(new, "cat /data; stat -c %h /data; ls /etc/vzdump 2>/dev/null; true") == "one\n2\n"
    assert new.ids.base != vps.ids.base


@pytest.mark.parametrize("mode", ["plain", "stop", "suspend", "snapshot"])
def test_running(cli, node, vps, tmp_path, mode):
    vps.start()
    sh(vps, "echo one > /data")
    words = [] if mode == "plain" else [f"--{mode}"]
    ran = cli("vzdump", *words, "--dumpdir", tmp_path, "101")
    assert ran.code == 0, ran
    assert vps.status.running
    (archive,) = tmp_path.glob("*.tar")
    ran = cli("vzrestore", archive, 202)
    assert ran.code == 0, ran
    new = node.vps(202)
    new.start()
    assert sh(new, "cat /data") == "one\n"
