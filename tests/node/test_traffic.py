"""vznetstat: what VPSs have sent and received."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from wire import V4, ping

import tools
from vzpy import config


@pytest.fixture
def node(lan, make_node):
    made = make_node()
    config.save(f"{made.paths.etc}/vz.conf", {"SKIP_ARPDETECT": "yes"})
    return made


def test_counts_go_on_over_restarts_and_end_with_the_vps(lan, vps, cli):
    def packets() -> tuple[int, int]:
        row = cli("vznetstat", "-v", 101).stdout.split("\n")[1].split()
        assert row[:2] == ["101", "0"] and int(row[2]) >= 84 * int(row[3])
        return int(row[3]), int(row[5])

    vps.set(ipadd=[V4])
    vps.start()
    assert packets() == (0, 0)
    assert ping(lan.neighbour, V4, 3) == 3
    assert packets() == (3, 3)
    vps.restart(fast=True)
    assert packets() == (3, 3)
    tools.sh(vps, "ping -c 2 -W 2 192.0.2.2")
    vps.stop(fast=True)
    assert packets() == (5, 5)
    told = json.loads(cli("vznetstat", "--json").stdout)
    assert [(row["ctid"], row["out_packets"]) for row in told] == [(101, 5)]
    vps.destroy()
    assert cli("vznetstat").stdout.count("\n") == 1


def test_command_lines(node, cli):
    assert cli("vznetstat").stdout.split() == [
        "CTID", "Net.Class", "Input(bytes)", "Input(pkts)", "Output(bytes)", "Output(pkts)",
    ]  # fmt: skip
    assert cli("vznetstat", "-v", "x").code == 1
    assert cli("vznetstat", "-h").code == 0
    assert cli("vznetstat", "-q").code == 1


def test_vzlist_shows_what_a_vps_has(lan, vps, cli, vzctl):
    vps.set(ipadd=[V4])
    show = ("vzlist", "-H", "-a", "-o", "ip")
    assert cli(*show).stdout.strip() == V4
    vps.start()
    assert vzctl("set", 101, "--ipadd", "192.0.2.102").code == 0
    assert cli(*show).stdout.split() == [V4, "192.0.2.102"]
    assert vzctl("set", 101, "--ipdel", V4).code == 0
    assert cli(*show).stdout.strip() == "192.0.2.102"
    vps.stop(fast=True)
    assert cli(*show).stdout.strip() == V4


def test_its_namespace_has_its_number_as_a_name(lan, node, vps):
    """As `ip netns exec 101` opens it; the default node's names are in /run/netns."""
    name = f"{node.paths.run}/netns/101"
    vps.set(ipadd=[V4])
    vps.start()
    shown = lan.node.run("nsenter", f"--net={name}", "ip", "-br", "addr", "show", "venet0").stdout
    assert V4 in shown
    vps.restart(fast=True)
    assert Path(name).readlink() == Path(f"/proc/{vps.facts().pid}/ns/net")
    vps.stop(fast=True)
    assert not os.path.lexists(name)
    Path(name).parent.mkdir()
    Path(name).symlink_to("/somewhere/else")
    vps.start()
    assert os.readlink(name) == "/somewhere/else"
    Path(name).unlink()
    Path(name).parent.rmdir()
