"""The bytes: ELF headers, ACLs, capabilities, sizes of compressed files, versions of systemd."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import elf, treecheck, unpack, untar


def elf_file(tmp_path, content: bytes) -> int:
    path = tmp_path / "program"
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


def test_this_interpreter():
    fd = os.open(sys.executable, os.O_RDONLY)
    header = elf.read(fd)
    os.close(fd)
    assert header and header.machine == os.uname().machine and not header.static
    assert elf.runs_here(header.machine)


@given(st.binary(max_size=200), st.binary(max_size=2))
def test_any_bytes_are_a_header_or_none(tmp_path_factory, rest, kind):
    fd = elf_file(tmp_path_factory.getbasetemp(), b"\x7fELF" + kind + rest)
    elf.read(fd)
    os.close(fd)


@pytest.mark.parametrize(
    "machine, kernel, runs",
    [("i386", "x86_64", True), ("aarch64", "x86_64", False), ("arm", "aarch64", True)],
)
def test_what_runs_where(machine, kernel, runs):
    assert elf.runs_here(machine, kernel) is runs


def unpacker(base):
    return untar.Unpacker(base, 65536, True)


def test_capability_v2_becomes_v3_of_the_range():
    v2 = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    member = tarfile.TarInfo("ping")
    assert unpacker(0).shift_xattr(member, "security.capability", v2) == v2
    shifted = unpacker(70000).shift_xattr(member, "security.capability", v2)
    assert shifted == struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 70000)


def test_acl_ids_are_shifted():
    acl = untar.acl_from_text("user::rwx,user:7:r-x,group::r--,mask::rwx,other::---")
    shifted = unpacker(1000).shift_xattr(tarfile.TarInfo("x"), "system.posix_acl_access", acl)
    entries = list(struct.iter_unpack("<HHI", shifted[4:]))
    none = 0xFFFFFFFF
    assert entries == [(1, 7, none), (2, 5, 1007), (4, 4, none), (16, 7, none), (32, 0, none)]


@pytest.mark.parametrize("text", ["user:lisa:rwx", "nonsense", "a:b:c", "user:7"])
def test_acls_that_cannot_be(text):
    assert untar.acl_from_text(text) == b""


def test_acl_of_star_with_a_number():
    acl = untar.acl_from_text("user:lisa:rwx:7")
    assert list(struct.iter_unpack("<HHI", acl[4:])) == [(2, 7, 7)]


@pytest.mark.parametrize("uid", [-1, 65536, 100000])
def test_ids_beyond_the_range(uid):
    with pytest.raises(untar.Refused) as error:
        unpacker(0).shift(tarfile.TarInfo("etc/home"), "user", uid)
    assert error.value.args[0] == "etc/home" and str(uid) in error.value.args[1]


def test_content_size(tmp_path):
    plain, packed = tmp_path / "a.tar", tmp_path / "a.tar.gz"
    plain.write_bytes(b"x" * 70000)
    packed.write_bytes(gzip.compress(os.urandom(70000)))
    for path in (plain, packed):
        fd = os.open(path, os.O_RDONLY)
        assert unpack.content_size(fd) == 70000
        os.close(fd)


def tree_with(tmp_path, *files: str) -> int:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("Package: udev\nVersion: 9\n\nPackage: systemd\n"
                                     "Version: 229-4ubuntu21\n")
    return os.open(tmp_path, os.O_RDONLY)


@pytest.mark.parametrize(
    "files, version",
    [
        ([], None),
        (["sbin/init"], None),
        (["lib/systemd/systemd"], 229),  # nothing tells: too old to have the library
        (["lib/systemd/systemd", "var/lib/dpkg/status"], 229),
        (["usr/lib/systemd/systemd", "usr/lib/systemd/libsystemd-shared-252.so"], 252),
        (["usr/lib/systemd/systemd", "usr/lib/systemd/libsystemd-shared-257.9-1.so"], 257),
        (["usr/lib/systemd/systemd", "usr/lib64/systemd/libsystemd-shared-239.so"], 239),
    ],
)
def test_systemd_version(tmp_path, files, version):
    fd = tree_with(tmp_path, *files)
    assert treecheck.systemd_version(fd) == version
    os.close(fd)


def test_old_systemd_is_refused(tmp_path):
    os.close(tree_with(tmp_path, "lib/systemd/systemd", "var/lib/dpkg/status"))
    with pytest.raises(treecheck.VzError, match="systemd 229") as error:
        treecheck.check(str(tmp_path), "old.tar")
    assert error.value.code == 47 and "sysvinit-core" in error.value.hint


def test_another_machine_is_refused(tmp_path):
    (tmp_path / "bin").mkdir()
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(44)
    (tmp_path / "bin/sh").write_bytes(head)
    if os.uname().machine == "aarch64":
        pytest.skip("needs another machine than aarch64")
    with pytest.raises(treecheck.VzError, match="made for aarch64") as error:
        treecheck.check(str(tmp_path), "arm.tar")
    assert error.value.code == 47


def test_a_link_to_a_program_of_the_host(tmp_path):
    """/bin/sh of the tree pointing at the host's shell says nothing of the tree."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/proc/self/exe")
    (tmp_path / "sbin").mkdir()
    os.mkfifo(tmp_path / "sbin/init")
    fd = os.open(tmp_path, os.O_RDONLY)
    assert treecheck.tree_machine(fd) is None
    os.close(fd)
