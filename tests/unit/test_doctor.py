"""vz doctor: findings as lines, the verdict, and that it never raises."""

from __future__ import annotations

import json
import os

import pytest

from vzpy import doctor
from vzpy.cli import main
from vzpy.doctor import Finding, host
from vzpy.doctor.probe import Failed, in_child
from vzpy.model import NodePaths


def test_lines():
    assert Finding("pidfd", True, True).line().split() == ["pidfd", "works"]
    line = Finding("overlay", False, True, "no module", "Load it").line()
    assert line.endswith("NOT AVAILABLE: no module. Load it")


def test_verdict_looks_at_what_is_needed():
    assert doctor.can_start([Finding("a", True, True), Finding("b", False, False)])
    assert not doctor.can_start([Finding("a", False, True)])


def test_child_tells_text_error_and_death():
    assert in_child(lambda: "seen") == "seen"
    with pytest.raises(Failed, match="/nowhere: No such file"):
        in_child(lambda: open("/nowhere"))
    with pytest.raises(Failed, match="killed"):
        in_child(lambda: os.kill(os.getpid(), 9))
    with pytest.raises(Failed, match="ZeroDivisionError"):
        in_child(lambda: 1 / 0)


def test_a_node_that_is_not_set_up(tmp_path, monkeypatch):
    monkeypatch.setenv("VZDIR", str(tmp_path / "not" / "there"))
    findings = {f.name: f for f in doctor.examine(NodePaths.of(str(tmp_path), str(tmp_path)))}
    assert not findings["node set up"].works
    assert findings["node set up"].todo == "Run: vz setup"
    assert any(name.endswith(f"on {tmp_path}") for name in findings)
    assert len(findings) > 30
    assert all(f.why for f in findings.values() if not f.works)
    assert os.listdir(tmp_path) == []


def test_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VZ_ETC", str(tmp_path))
    assert main("vz", ["doctor", "--json"]) == 1  # not set up
    listed = json.loads(capsys.readouterr().out)
    assert {"name", "works", "needed", "why", "todo"} == set(listed[0])


def test_limits_grow_with_the_number_of_vpss():
    few, many = host.wanted_sysctls(1), host.wanted_sysctls(1000)
    assert all(many[name] >= few[name] for name in few)
    assert many["kernel.pid_max"] <= 4194304


def test_fix_writes_a_sysctl_file(tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(host, "low_sysctls", lambda count: {"vm.max_map_count": 262144})
    monkeypatch.setattr(host, "_set", lambda name, value: written.update({name: value}))
    path = tmp_path / "sysctl.d" / "99-vz.conf"
    host.fix_sysctls(10, str(path))
    assert "vm.max_map_count = 262144\n" in path.read_text()
    assert written == {"vm.max_map_count": 262144}
