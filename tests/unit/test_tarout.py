"""The archives of vzdump, read back by tarfile; names of archives, and what stays out."""

from __future__ import annotations

import os
import struct
import tarfile
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vzpy import backup
from vzpy.errors import ConfigError, ValueInvalid
from vzpy.model import IdRange
from vzpy.tarout import Archive


def archived(top, path, **options) -> tarfile.TarFile:
    own = IdRange(os.getuid() & ~0xFFFF)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    archive = Archive(fd, own, **options)
    archive.text("./etc/vzdump/vps.conf", b"X=1\n")
    archive.tree(str(top))
    archive.close()
    os.close(fd)
    assert os.stat(path).st_size % tarfile.RECORDSIZE == 0
    return tarfile.open(path, encoding="utf-8", errors="surrogateescape")


names = st.binary(min_size=1, max_size=120).filter(
    lambda b: b not in (b".", b"..") and b"/" not in b and b"\0" not in b
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50,
          deadline=None)  # fmt: skip
@given(st.dictionaries(names, st.binary(max_size=2000), max_size=6))
def test_any_names(tmp_path, files):
    top = tmp_path / str(time.monotonic_ns())
    top.mkdir()
    for name, data in files.items():
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(data)
    with archived(top, tmp_path / "a.tar") as tar:
        found = {os.fsencode(m.name): tar.extractfile(m).read() for m in tar if m.isreg()}
    found.pop(b"./etc/vzdump/vps.conf")
    assert found == {b"./" + name: data for name, data in files.items()}


@pytest.mark.parametrize("parts", [[(0, 3)], [(1 << 20, 5)], [(0, 1), (5 << 20, 1), (9 << 20, 9)]])
@pytest.mark.parametrize("end", [0, 11 << 20])
def test_holes(tmp_path, parts, end):
    top = tmp_path / "top"
    top.mkdir()
    with open(top / "f", "wb") as file:
        for offset, size in parts:
            file.seek(offset)
            file.write(b"x" * size)
        if end:
            file.truncate(end)
    wanted = (top / "f").read_bytes()
    with archived(top, tmp_path / "a.tar") as tar:
        assert tar.extractfile("./f").read() == wanted
    assert os.stat(tmp_path / "a.tar").st_size <= 2 * tarfile.RECORDSIZE


def test_what_is_in_use(tmp_path):
    """No fifo is waited for, no link followed, a socket is left out, times are exact."""
    top = tmp_path / "top"
    top.mkdir()
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("/etc/shadow")
    (top / "folder").symlink_to("/etc")
    (top / "f").write_text("x")
    os.link(top / "f", top / "g")
    os.utime(top / "f", ns=(1, 1_700_000_000_123_456_789))
    with archived(top, tmp_path / "a.tar") as tar:
        kinds = {m.name: m.type for m in tar}
        assert tar.getmember("./f").pax_headers["mtime"] == "1700000000.123456789"
    assert kinds == {
        "./etc/vzdump/vps.conf": tarfile.REGTYPE, ".": tarfile.DIRTYPE, "./fifo": tarfile.FIFOTYPE,
        "./link": tarfile.SYMTYPE, "./folder": tarfile.SYMTYPE, "./g": tarfile.REGTYPE,
        "./f": tarfile.LNKTYPE,
    } or kinds["./f"] == tarfile.REGTYPE  # fmt: skip


def test_shrinks_while_it_is_read(tmp_path, monkeypatch):
    """The archive stays whole, and it is told."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "a").write_bytes(b"x" * 5000)
    (top / "b").write_text("after")
    told: list[str] = []
    read = os.pread

    def shorter(fd, size, offset):
        if size == 5000:
            os.truncate(top / "a", 10)
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", shorter)
    with archived(top, tmp_path / "a.tar", warn=told.append) as tar:
        assert len(tar.extractfile("./a").read()) == 5000
        assert tar.extractfile("./b").read() == b"after"
    assert told == ["/a became 4990 bytes shorter while it was read"]


def test_names_and_rotation():
    path = backup.path_of("/d", 101, 0, ".tgz")
    assert path.startswith("/d/vzdump-openvz-101-19") and path.endswith(".tgz")
    assert backup.log_of(path) == path[:-4] + ".log"
    assert backup.log_of("/d/x.tar.zst") == "/d/x.log"
    files = [f"vzdump-openvz-{ctid}-2020_01_0{day}-00_00_00.tar"
             for ctid in (1, 11) for day in (3, 1, 2)]
    more = ["vzdump-openvz-1-2019_01_01-00_00_00.log", "other.tar"]
    assert backup.surplus(files + more, 1, 2) == ["vzdump-openvz-1-2020_01_01-00_00_00.tar"]
    assert backup.surplus(files + more, 1, 0) == []


def test_excluded():
    excluded = backup.Excluded(["/tmp/.+", "/a"])
    assert excluded("/tmp/x/y") and excluded("/a")
    assert not excluded("/tmp") and not excluded("/a/b") and not excluded("/var/tmp/x")
    with pytest.raises(ValueInvalid):
        backup.Excluded(["("])


def test_config(tmp_path):
    path = tmp_path / "vzdump.conf"
    assert backup.load_config(str(path)) == {}
    path.write_text("# c\ndumpdir: /x  # more\n\nmaxfiles:3\n")
    assert backup.load_config(str(path)) == {"dumpdir": "/x", "maxfiles": "3"}
    path.write_text("dumpdir: /x\nwings: 2\n")
    with pytest.raises(ConfigError, match=r"conf:2: not a setting"):
        backup.load_config(str(path))


def test_acls_through_a_mount_that_shows_them_as_on_the_disk(tmp_path):
    """Linux 6.1: owners are those of the mount, ids in ACLs are not."""
    own, disk = IdRange(0), IdRange(1 << 30)
    archive = Archive(-1, own, on_disk=disk)
    rows = [(1, 6, 2**32 - 1), (2, 4, disk.base + 5), (2, 4, 7), (8, 4, 70000), (32, 4, 2**32 - 1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    assert archive._acl(value) == "user::rw-,user:5:r--,user:7:r--,group:65534:r--,other::r--"
