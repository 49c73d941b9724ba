"""Disk quota of VPSs on real file systems: needs project quota, which only the virtual machine has
on its root disk, and gets on the others by formatting them."""

from __future__ import annotations

import pytest

import tools
from vzpy.quotaid import Quota

pytestmark = tools.needs("project quota")


def of(vps) -> Quota:
    return Quota(vps.ctid, vps.node.paths.quota_file(vps.ctid))


def df(vps, *options) -> list[int]:
    """size, used, available of / inside, in KiB or (-i) inodes"""
    line = tools.sh(vps, f"df -P {' '.join(options)} / | tail -n 1")
    return [int(word) for word in line.split()[1:4]]


def write(vps, path: str, kib: int) -> tuple[int, str]:
    """Write so much inside, as far as it goes: the bytes that are there after, and dd's words."""
    done = vps.exec(["sh", "-c", f"dd if=/dev/zero of={path} bs=1k count={kib} conv=fsync 2>&1"])
    return int(tools.sh(vps, f"stat -c %s {path}")), done.stdout.decode()


@pytest.fixture
def small(node):
    vps = node.create(101, diskspace="20M:24M", diskinodes="500:600", quotatime=100)
    vps.start()
    return vps


def test_what_a_vps_sees_and_may_use(small, vzctl):
    size, used, free = df(small)
    assert size == 20 << 10
    assert size == used + free
    assert df(small, "-i")[0] == 500
    found = of(small).stat()
    assert (found.space.soft, found.space.hard) == (20 << 10, 24 << 10)
    assert used == found.space.used >> 10

    written, said = write(small, "/fill", 40 << 10)
    assert "quota exceeded" in said
    found = of(small).stat()
    assert found.space.used == 24 << 20  # to the byte: whole blocks of 4 KiB
    assert found.space.expires

    ran = vzctl("set", 101, "--diskspace", "30M:40M")
    assert ran.code == 0, ran
    assert df(small)[0] == 30 << 10
    more, said = write(small, "/fill", 28 << 10)
    assert more == 28 << 20, said
    assert not of(small).stat().space.expires
