"""What a node's cgroup weighs, on directories that stand for cgroups."""

from __future__ import annotations

import pytest

from vzpy import cgroupshare


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with two VPSs of 1000 and 3000 CPU units; attributes are kept in a dictionary."""
    for name, weight in ((".", 1), ("101", 100), ("102", 300)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.weight").write_text(f"{weight}\n")
    kept: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(cgroupshare, "applied", kept.get)
    monkeypatch.setattr(cgroupshare, "write_applied", kept.__setitem__)
    return tmp_path


def weight(node) -> int:
    cgroupshare.share(str(node))
    return int((node / "cpu.weight").read_text())


def test_the_host_is_one_competitor_beside_each(node):
    assert weight(node) == 400


@pytest.mark.parametrize("units,expected", [(1000, 400), (2000, 200), (500, 800), (8, 10000)])
def test_a_host_of_other_units(node, units, expected):
    cgroupshare.weigh_host(str(node), units)
    assert weight(node) == expected


def test_what_was_set_by_hand_stays(node):
    cgroupshare.weigh_host(str(node), 2000)
    cgroupshare.weigh_host(str(node), 4000)
    assert weight(node) == 200
    cgroupshare.weigh_host(str(node), 4000, anew=True)
    assert weight(node) == 100


def test_light_vpss_under_a_heavy_host_still_weigh_something(node):
    for name in ("101", "102"):
        (node / name / "cpu.weight").write_text("1\n")
    cgroupshare.weigh_host(str(node), 500000)
    assert weight(node) == 1
