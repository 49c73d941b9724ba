"""Unpacking what anybody made, and harm that must not be done, on a real kernel."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tarballs import Archive, tool

from vzpy import template, unpack
from vzpy.errors import VzError
from vzpy.model import IdRange

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("no_mount_is_left"),
]

OWN = IdRange(0x70000000)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def dest(tmp_path):
    (tmp_path / "dest").mkdir()
    return tmp_path / "dest"


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "a.tar")


# what tar does


@pytest.fixture
def system(tmp_path):
    """A small system with all that tar can carry."""
    top = tmp_path / "system"
    for folder in ("bin", "etc", "tmp", "home/peter", "dev"):
        (top / folder).mkdir(parents=True)
    (top / "tmp").chmod(0o1777)
    (top / "bin/su").write_bytes(b"#!")
    (top / "bin/su").chmod(0o4755)
    (top / "etc/größe").write_text("x")
    os.link(top / "etc/größe", top / "etc/hard")
    (top / "etc/link").symlink_to("/etc/hard")
    os.chown(top / "home/peter", 1000, 1001)
    (top / "home/peter/.profile").write_text("")
    os.chown(top / "home/peter/.profile", 1000, 1001)
    (top / "home/peter").chmod(0o500)
    with open(top / "sparse", "wb") as file:
        for at in (1 << 20, 5 << 20):
            file.seek(at)
            file.write(b"data")
        file.truncate(9 << 20)
    (top / "bin/ping").write_bytes(b"ping")
    os.setxattr(top / "bin/ping", "security.capability", CAPABILITY)
    os.setxattr(top / "bin/ping", "user.mark", b"\xff\x00=\n")
    os.mknod(top / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "dev/sda", stat.S_IFBLK | 0o660, os.makedev(8, 0))
    os.mkfifo(top / "dev/initctl")
    os.utime(top / "etc", (1e9, 1e9))
    return top


@pytest.mark.parametrize("kind", ["--posix", "--format=gnu"])
@pytest.mark.parametrize("program", ["", "gzip", "bzip2", "xz", "zstd"])
def test_all_that_tar_carries(system, dest, tmp_path, program, kind):
    """Packed by GNU tar in every form; the name says nothing, the bytes do."""
    tarball = str(tmp_path / "x.tar")
    command = ["tar", kind, "-cSf", tarball, "--numeric-owner", "-C", str(system), "."]
    if kind == "--posix":
        command += ["--xattrs", "--xattrs-include=*"]
    if program:
        command.append(f"--use-compress-program={tool(program)}")
    subprocess.run(command, check=True)
    unpack.unpack(tarball, str(dest))
    su = os.lstat(dest / "bin/su")
    assert stat.S_IMODE(su.st_mode) == 0o4755 and (su.st_uid, su.st_gid) == (0, 0)
    assert stat.S_IMODE(os.lstat(dest / "tmp").st_mode) == 0o1777
    assert (dest / "etc/größe").read_text() == "x"
    assert os.lstat(dest / "etc/hard").st_nlink == 2
    assert os.readlink(dest / "etc/link") == "/etc/hard"
    home = os.lstat(dest / "home/peter")
    assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (1000, 1001, 0o500)
    sparse = os.lstat(dest / "sparse")
    assert sparse.st_size == 9 << 20 and sparse.st_blocks * 512 < 1 << 20
    assert (dest / "sparse").read_bytes() == (system / "sparse").read_bytes()
    assert os.lstat(dest / "dev/sda").st_rdev == os.makedev(8, 0)
    assert stat.S_ISFIFO(os.lstat(dest / "dev/initctl").st_mode)
    assert os.lstat(dest / "etc").st_mtime == 1e9
    if kind == "--posix":
        assert os.getxattr(dest / "bin/ping", "security.capability") == CAPABILITY
        assert os.getxattr(dest / "bin/ping", "user.mark") == b"\xff\x00=\n"


def test_into_a_range_of_ids(system, dest, tmp_path):
    tarball = str(tmp_path / "x.tar")
    subprocess.run(
        ["tar", "--posix", "--xattrs", "--xattrs-include=*", "-cf", tarball,
         "-C", str(system), "."],
        check=True,
    )  # fmt: skip
    unpack.unpack(tarball, str(dest), OWN)
    home = os.lstat(dest / "home/peter/.profile")
    assert (home.st_uid, home.st_gid) == (OWN.base + 1000, OWN.base + 1001)
    assert os.lstat(dest).st_uid == os.lstat(dest / "etc/link").st_uid == OWN.base
    assert stat.S_IMODE(os.lstat(dest / "bin/su").st_mode) == 0o4755
    capability = os.getxattr(dest / "bin/ping", "security.capability")
    assert struct.unpack("<6I", capability)[0] >> 24 == 3
    assert struct.unpack("<6I", capability)[5] == OWN.base
    assert os.lstat(dest / "dev/null").st_rdev == os.makedev(1, 3)
    assert not os.path.lexists(dest / "dev/sda"), "a disk of the host is no node for a VPS"


def test_names_without_parents_and_twice(archive, dest):
    archive.add("a/b/c", data=b"1").add("./a/b/c", data=b"22").add("/abs", data=b"3")
    archive.link("a/l", "c").add("a/l", data=b"4")
    unpack.unpack(archive.close(), str(dest))
    assert (dest / "a/b/c").read_bytes() == b"22"
    assert (dest / "abs").read_bytes() == b"3"
    assert (dest / "a/l").read_bytes() == b"4" and not (dest / "a/l").is_symlink()


def test_the_read_only_folder_is_filled_first(archive, dest):
    archive.add("ro", tarfile.DIRTYPE, mode=0o555).add("ro/file", data=b"1")
    unpack.unpack(archive.close(), str(dest))
    assert stat.S_IMODE(os.lstat(dest / "ro").st_mode) == 0o555
    assert os.lstat(dest / "ro").st_mtime == 1e9


def test_progress(dest, tmp_path):
    archive = Archive(tmp_path / "big.tar")
    for number in range(40):
        archive.add(f"f{number}", data=os.urandom(1 << 20))
    seen = []
    unpack.unpack(archive.close(), str(dest), None, lambda *both: seen.append(both))
    size = os.path.getsize(archive.path)
    assert seen and all(0 <= done <= total == size for done, total in seen)
    assert seen == sorted(seen)


# hostile archives


@pytest.fixture
def outside(tmp_path):
    """What of the host the archives are after; nothing in it may change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "passwd").write_text("host")
    before = os.lstat(folder)
    yield folder
    assert sorted(os.listdir(folder)) == ["passwd"]
    assert (folder / "passwd").read_text() == "host"
    after = os.lstat(folder)
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode, before.st_uid, before.st_mtime_ns,
    )  # fmt: skip
    assert os.lstat(folder / "passwd").st_nlink == 1


def hostile(archive, outside):
    """The ways out that are known, by name."""
    up = "../" * 20 + str(outside).lstrip("/")
    return {
        "dotdot": lambda a: a.add(f"{up}/passwd", data=b"evil"),
        "dotdot inside": lambda a: a.add("x", tarfile.DIRTYPE).add(f"x/{up}/new", data=b"evil"),
        "absolute": lambda a: a.add(f"{outside}/passwd", data=b"evil"),
        "link then file": lambda a: a.link("l", str(outside)).add("l/passwd", data=b"evil"),
        "relative link": lambda a: a.link("l", up).add("l/passwd", data=b"evil"),
        "link to file": lambda a: a.link("l", f"{outside}/passwd").add("l", data=b"evil"),
        "folder becomes link": lambda a: a.add("d", tarfile.DIRTYPE)
        .link("d", str(outside))
        .add("d/passwd", data=b"evil"),
        "link becomes folder": lambda a: a.link("d", str(outside)).add(
            "d", tarfile.DIRTYPE, mode=0o777, uid=1
        ),
        "folder attributes by a later link": lambda a: a.add("d", tarfile.DIRTYPE, mode=0o777)
        .link("d", str(outside)),
        "hard link out": lambda a: a.link("h", f"{outside}/passwd", tarfile.LNKTYPE),
        "hard link through link": lambda a: a.link("l", str(outside)).link(
            "h", "l/passwd", tarfile.LNKTYPE
        ),
        "hard link to link": lambda a: a.link("l", f"{outside}/passwd")
        .link("h", "l", tarfile.LNKTYPE)
        .add("h", data=b"evil", mode=0o4777),
        "chain": lambda a: a.link("a", "..").link("b", f"a/a/a/a/a/a/a{outside}").add(
            "b/passwd", data=b"evil"
        ),
        "proc": lambda a: a.link("l", "/proc/1/root" + str(outside)).add("l/new", data=b"evil"),
        "fd": lambda a: a.link("l", "/proc/self/cwd").add("l/new", data=b"evil"),
    }


@pytest.mark.parametrize("way", list(hostile(None, Path("/x"))))
@pytest.mark.parametrize("ids", [None, OWN], ids=["base 0", "shifted"])
def test_no_way_out(archive, dest, outside, way, ids):
    """It may unpack to something silly inside, or be refused: outside nothing changes."""
    hostile(archive, outside)[way](archive)
    try:
        unpack.unpack(archive.close(), str(dest), ids)
    except VzError as error:
        assert error.code == 47


def test_a_device_of_the_archive_cannot_be_written_through(archive, dest, tmp_path):
    """A node of a disk, then a file of the same name: the node is replaced, not opened."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"\0" * 4096)
    loop = subprocess.run(["losetup", "-f", "--show", disk], capture_output=True, text=True)
    if loop.returncode:
        pytest.skip("needs loop devices")
    try:
        number = os.stat(loop.stdout.strip()).st_rdev
        node = {"devmajor": os.major(number), "devminor": os.minor(number)}
        archive.add("disk", tarfile.BLKTYPE, **node).link("l", "disk")
        archive.add("disk", data=b"evil").add("l", data=b"evil").add("m", tarfile.BLKTYPE, **node)
        unpack.unpack(archive.close(), str(dest))
    finally:
        subprocess.run(["losetup", "-d", loop.stdout.strip()], check=True)
    assert (dest / "disk").read_bytes() == (dest / "l").read_bytes() == b"evil"
    assert disk.read_bytes() == b"\0" * 4096


def test_a_fifo_does_not_hang(archive, dest):
    archive.add("f", tarfile.FIFOTYPE).link("l", "f").add("f", data=b"1").add("l", data=b"2")
    unpack.unpack(archive.close(), str(dest))
    assert (dest / "f").read_bytes() == b"1"


def test_overlayfs_marks_are_not_taken(archive, dest):
    archive.add("d", tarfile.DIRTYPE, pax_headers={
        "SCHILY.xattr.trusted.overlay.redirect": "/", "SCHILY.xattr.trusted.overlay.opaque": "y",
    })  # fmt: skip
    unpack.unpack(archive.close(), str(dest))
    assert not [x for x in os.listxattr(dest / "d") if x.startswith("trusted.")]


def test_a_full_folder_is_not_replaced(archive, dest):
    archive.add("etc/passwd", data=b"1").link("etc", "/tmp")
    with pytest.raises(VzError, match="/etc: Directory not empty") as error:
        unpack.unpack(archive.close(), str(dest))
    assert error.value.code == 47


@pytest.mark.parametrize("uid", [65536, 100000, 2**31])
@pytest.mark.parametrize("ids", [None, OWN], ids=["base 0", "shifted"])
def test_an_owner_beyond_the_range(archive, dest, uid, ids):
    archive.add("etc/good").add("srv/ad user", uid=uid)
    with pytest.raises(VzError, match=f"/srv/ad user: belongs to user {uid}") as error:
        unpack.unpack(archive.close(), str(dest), ids)
    assert error.value.code == 47


def test_poison_runs_nothing(archive, dest, tmp_path):
    """Everything that an interpreter or libc could be led to load from a root is there."""
    mark = tmp_path / "poisoned"
    code = f"open({str(mark)!r}, 'w')\nimport os\nos.mknod('/POISONED')\n".encode()
    libdir = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for prefix in ("usr/lib", "usr/local/lib", sys.prefix.lstrip("/") + "/lib", "lib"):
        for module in ("encodings/__init__", "encodings/idna", "codecs", "site", "tarfile", "re",
                       "stringprep", "traceback", "linecache"):
            archive.add(f"{prefix}/{libdir}/{module}.py", data=code)
    for library in ("libnss_files.so.2", "libc.so.6", "libgcc_s.so.1"):
        archive.add(f"lib/x86_64-linux-gnu/{library}", data=b"\x7fELF" + bytes(99))
    archive.add("etc/nsswitch.conf", data=b"passwd: evil\n")
    archive.add("etc/ld.so.preload", data=b"/lib/x86_64-linux-gnu/libc.so.6\n")
    archive.add("etc/über", data=b"1", pax_headers={"hdrcharset": "evil", "SCHILY.xattr.x": "y"})
    archive.add("last", uid=99999)  # a failure too: its text is made in there
    with pytest.raises(VzError, match="/last: belongs to user 99999"):
        unpack.unpack(archive.close(), str(dest))
    assert not mark.exists() and not (dest / "POISONED").exists()


# broken tarballs, and no room


@pytest.mark.parametrize(
    "content", [b"", bytes(99), b"PK\3\4" + bytes(600), b"x" * 5000, b"\x1f\x8b" * 9]
)
def test_not_a_tarball(dest, tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(VzError, match=f"Cannot unpack {path}: ") as error:
        unpack.unpack(str(path), str(dest))
    assert error.value.code == 47


@pytest.mark.parametrize("program", ["", "gzip", "bzip2", "xz", "zstd"])
def test_cut_short(archive, dest, tmp_path, program):
    archive.add("big", data=os.urandom(3 << 20)).close()
    whole = archive.path.read_bytes()
    if program:
        whole = subprocess.run([tool(program), "-c"], input=whole, capture_output=True).stdout
    short = tmp_path / "short.tar"
    short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VzError, match="short.tar: ") as error:
        unpack.unpack(str(short), str(dest))
    assert error.value.code == 47


def test_a_bad_sum_at_the_very_end(archive, dest, tmp_path):
    archive.add("a", data=b"1").close()
    data = bytearray(
        subprocess.run(["gzip", "-c"], input=archive.path.read_bytes(), capture_output=True).stdout
    )
    data[-8] ^= 1
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(bytes(data))
    with pytest.raises(VzError, match="crc error"):
        unpack.unpack(str(bad), str(dest))


def test_gigabytes_of_header(dest, tmp_path):
    """A header that says it is 8 GiB long, made of zeros that compress to nothing."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    path = tmp_path / "bomb.tar.gz"
    with open(path, "wb") as out:
        gzip = subprocess.Popen(["gzip", "-1", "-c"], stdin=subprocess.PIPE, stdout=out)
        gzip.stdin.write(info.tobuf(tarfile.GNU_FORMAT))
        try:
            for _ in range(700):
                gzip.stdin.write(bytes(1 << 20))
        finally:
            gzip.stdin.close()
            gzip.wait()
    os.truncate(path, os.path.getsize(path) - 4)
    with open(path, "ab") as file:
        file.write(struct.pack("<I", 10 << 20))  # and the size is a lie
    with pytest.raises(VzError, match="bomb.tar.gz: ") as error:
        unpack.unpack(str(path), str(dest))
    assert error.value.code == 47


def test_no_room_is_told_before(archive, small):
    tarball = archive.add("big", data=bytes(9 << 20)).close()
    (small / "dest").mkdir()
    with pytest.raises(VzError) as error:
        unpack.unpack(tarball, str(small / "dest"))
    needed = os.path.getsize(tarball) // 1024
    assert error.value.code == 46
    assert str(error.value) == (
        f"Insufficient disk space in {small}/dest; available: 8192, needed: {needed}"
    )
    assert os.listdir(small / "dest") == []


def test_a_disk_that_fills_leaves_nothing(small, tmp_path):
    """xz is guessed at 4.7 times its size; zeros are a thousand times."""
    archive = Archive(tmp_path / "a.tar").add("big", data=bytes(30 << 20))
    (small / "cache").mkdir()
    packed = subprocess.run([tool("xz"), "-c", archive.close()], capture_output=True).stdout
    (small / "cache/full.tar.xz").write_bytes(packed)
    with pytest.raises(VzError, match="Insufficient disk space in ") as error:
        template.ensure_tree(str(small), "full")
    assert error.value.code == 46
    assert [n for n in os.listdir(small / "tree") if "@" in n] == []
    assert shutil.disk_usage(small).used < 1 << 20
