"""The planning tools beside VPSs that run; their formulas are tests/unit/test_planning.py's."""

from __future__ import annotations

from pathlib import Path

from tools import sh


def test_running_vpss_are_counted(node, cli, vps):
    vps.set(cpuunits=3000)
    node.create(102)
    assert "n/a       0.00" in cli("vzcalc", "-v", 101).stdout
    vps.start()
    sh(vps, "sleep 100 >/dev/null 2>&1 & sleep 100 >/dev/null 2>&1 &")
    rows = {line[:10].strip(): line[10:].split() for line in
            cli("vzcalc", "-v", 101).stdout.splitlines()}
    assert float(rows["Low Mem"][0]) >= 0 and float(rows["Alloc. Mem"][0]) > 0
    assert cli("vzcalc", 102).stdout.splitlines()[1].split()[1] == "n/a"

    for flags in ("-v", "-vA"):
        lines = cli("vzmemcheck", flags).stdout.splitlines()
        numbers, total = lines[3].split(), lines[5].split()
        assert numbers[0] == "101" and numbers[1:] == total[1:] and len(numbers) == 9
        assert float(numbers[6]) > 0

    lines = cli("vzcpucheck", "-v").stdout.splitlines()
    assert lines[2:5] == ["0\t\t1000", "101\t\t3012", "Current CPU utilization: 4012"]

    lines = cli("vzoversell").stdout.splitlines()
    assert lines[2].split()[0] == "101" and "256M" in lines[2] and "512M" in lines[2]
    assert lines[4].split()[0] == "TOTAL"


def test_without_a_vz_conf(node, cli):
    path = Path(node.paths.etc, "vz.conf")
    text = path.read_text()
    path.unlink()
    for tool in ("vzmemcheck", "vzcpucheck", "vzoversell"):
        done = cli(tool)
        assert done.code == 10 and done.stderr.startswith("Unable to open ")
    path.write_text(text)
