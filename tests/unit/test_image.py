"""Layout image without a kernel: options, sizes, what lies in a file."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import image
from vzpy.image import Disk
from vzpy.kernel import mount as m
from vzpy.model import layout_name


def test_names_of_layouts():
    names = [layout_name(x) for x in ("overlay", "simfs", "image", "ploop", "image:xfs,plain",
                                      "ploop:expanded")]
    assert names == ["overlay", "simfs", *["image"] * 4]


@pytest.mark.parametrize("kib, modes, disk", [
    (1024, (), Disk(1 << 20)),
    (1023, ("expanded", "ext4"), Disk(255 * 4096)),
    (1024, ("raw",), Disk(1 << 20, "ext4", True)),
    (1024, ("xfs", "plain"), Disk(1 << 20, "xfs", True)),
])  # fmt: skip
def test_disk(kib, modes, disk):
    assert Disk.of(kib, modes) == disk


@pytest.mark.parametrize("text, attributes, options", [
    ("", 0, {}),
    ("defaults,,rw", 0, {}),
    ("noatime,nosuid", m.MOUNT_ATTR_NOATIME | m.MOUNT_ATTR_NOSUID, {}),
    ("ro,noload", 0, {"ro": None, "noload": None}),
    ("noexec,commit=7,data=a=b", m.MOUNT_ATTR_NOEXEC, {"commit": "7", "data": "a=b"}),
])  # fmt: skip
def test_options(text, attributes, options):
    assert image.parsed(text) == (attributes, options)


@given(st.text())
def test_any_options(text):
    attributes, options = image.parsed(text)
    assert attributes >= 0 and "" not in options or "=" in text


def test_what_lies_in_a_file(tmp_path):
    path = tmp_path / "root.img"
    super_block = bytearray(1024)
    struct.pack_into("<7I", super_block, 0, 100, 1000, 0, 400, 70, 0, 2)
    struct.pack_into("<H", super_block, 56, 0xEF53)
    struct.pack_into("<H", super_block, 58, 1)
    struct.pack_into("<I", super_block, 584, 50)
    path.write_bytes(bytes(1024) + super_block)
    assert image.fs_of(str(path)) == "ext4"
    assert not image.has_errors(str(path))
    assert image.usage(str(path), str(tmp_path / "root")) == (550 * 4096, 30)
    struct.pack_into("<H", super_block, 58, 3)
    path.write_bytes(bytes(1024) + super_block)
    assert image.has_errors(str(path))
    path.write_bytes(b"XFSB" + bytes(2044))
    assert image.fs_of(str(path)) == "xfs"
    for junk in (b"", b"XFS", bytes(1500), bytes(4096)):
        path.write_bytes(junk)
        with pytest.raises(OSError, match="neither ext4 nor xfs"):
            image.fs_of(str(path))
