"""What /proc/vz of an OpenVZ kernel shows, of real VPSs."""

from __future__ import annotations

import pytest

from vzpy import veproc


def test_veinfo_and_veip(lan, node, vps, cli):
    vps.set(ipadd=["10.9.0.1", "fd00:9::1"])
    node.create(102)
    vps.start()
    ran = cli("vz", "proc", "veinfo")
    assert ran.code == 0
    host, mine = ran.stdout.split("\n")[:-1]
    assert host.startswith("         0     0 ") and len(host) == 22
    count = int(mine[17:22])
    addresses = "        10.9.0.1 fd00:0009:0000:0000:0000:0000:0000:0001"
    assert mine == f"{101:10d} {2:5d} {count:5d}{addresses}" and count > 0
    lines = cli("vz", "proc", "veip").stdout.split("\n")
    assert lines == [
        "Version: 2.5",
        f"{'10.9.0.1':>39} {101:10d}",
        f"fd00:0009:0000:0000:0000:0000:0000:0001 {101:10d}",
        "",
    ]


def test_an_empty_node(node, cli):
    assert cli("vz", "proc", "veip").stdout == "Version: 2.5\n"
    assert cli("vz", "proc", "veth").stdout == "Version: 1.0\n"
    assert cli("vz", "proc", "vestat").code == 2


@pytest.mark.parametrize(
    "address, text", [("10.0.0.1", "10.0.0.1"), ("::ffff", "0000:" * 7 + "ffff")]
)
def test_expanded(address, text):
    assert veproc.expanded(address) == text
