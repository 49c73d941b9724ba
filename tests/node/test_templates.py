"""OS templates on a real kernel: unpacking what anybody made, and harm that must not be done."""

from __future__ import annotations

import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import abilities
import pytest
import stores

import tools
from vzpy import busybox, events, recipe, template, unpack
from vzpy.errors import VzError
from vzpy.model import IdRange

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).parents[2]
OWN = IdRange(0x70000000)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path


@pytest.fixture
def dest(tmp_path):
    (tmp_path / "dest").mkdir()
    return tmp_path / "dest"


@pytest.fixture(autouse=True)
def no_mount_is_left(tmp_path):
    yield
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


class Archive:
    """A tarball made member by member, as no honest tar would."""

    def __init__(self, path: Path, **kw) -> None:
        self.path = path
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT, **kw)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o644, **fields) -> Archive:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, len(data), 1e9
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def link(self, name, target, kind=tarfile.SYMTYPE) -> Archive:
        return self.add(name, kind, linkname=target)

    def close(self) -> str:
        self.tar.close()
        return str(self.path)


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "a.tar")


def tool(name: str) -> str:
    if not (path := shutil.which(name)):
        pytest.skip(f"needs {name}")
    return path


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


def test_a_tree_deeper_than_a_path_is_long(store):
    """Two thousand levels, made through links; then the archive is refused, and all goes away."""
    archive = Archive(store / "cache/a.tar")
    steps = ["/".join("d" * depth) for depth in range(1, 501)]
    start = ""
    for hop in range(4):
        for step in steps:
            archive.add(start + step, tarfile.DIRTYPE, mode=0o755)
        archive.link(f"s{hop}", start + steps[-1])
        start = f"s{hop}/"
    archive.add("last", uid=70000).close()
    with pytest.raises(VzError, match="/last: belongs to user 70000"):
        template.ensure_tree(str(store), "a")
    assert [name for name in os.listdir(store / "tree") if "@" in name] == []


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


@pytest.fixture
def small(tmp_path):
    """A file system of 8 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", point])
    if done.returncode:
        pytest.skip("needs to mount a tmpfs")
    yield point
    subprocess.run(["umount", point], check=True)


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


# the store


def cached(store, name="a", data=b"1"):
    return Archive(store / f"cache/{name}.tar").add("etc/file", data=data).close()


def test_a_tree_is_made_once(store):
    cached(store)
    tree = template.ensure_tree(str(store), "a")
    assert tree.startswith(f"{store}/tree/a@") and os.path.exists(tree + "/etc/file")
    assert stat.S_IMODE(os.lstat(store / "tree").st_mode) == 0o700
    before = os.lstat(tree)
    assert template.ensure_tree(str(store), "a") == tree
    assert os.lstat(tree).st_ino == before.st_ino
    cached(store, data=b"2")
    newer = template.ensure_tree(str(store), "a")
    assert newer != tree and os.path.isdir(tree)
    assert Path(newer, "etc/file").read_bytes() == b"2"
    assert template.gc(str(store)) == [tree]


def test_a_tree_that_was_deleted_is_made_again(store, tmp_path):
    cached(store)
    tree = template.ensure_tree(str(store), "a")
    private = tmp_path / "private/101"
    private.mkdir(parents=True)
    template.record_tree(str(private), tree)
    os.rename(store / "cache/a.tar", store / "cache/a.tar-old")
    cached(store, data=b"another")
    shutil.rmtree(store / "tree")
    assert template.tree_of(str(private)) == tree
    assert Path(tree, "etc/file").read_bytes() == b"1"
    shutil.rmtree(store / "tree")
    os.unlink(store / "cache/a.tar-old")
    with pytest.raises(VzError, match="is gone"):
        template.tree_of(str(private))


def test_a_bad_template_leaves_no_tree(store):
    Archive(store / "cache/a.tar").add("x", uid=70000).close()
    with pytest.raises(VzError):
        template.ensure_tree(str(store), "a")
    assert [n for n in os.listdir(store / "tree") if "@" in n] == []


ENSURE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "from vzpy import template\n"
    "print(template.ensure_tree(sys.argv[1], sys.argv[2]))\n"
)


def test_many_at_once_make_one(store):
    archive = Archive(store / "cache/a.tar")
    for number in range(300):
        archive.add(f"f{number}", data=os.urandom(20000))
    archive.close()
    command = [sys.executable, "-c", ENSURE, str(store), "a"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1 and not any(run.returncode for run in runs)
    assert len([n for n in os.listdir(store / "tree") if "@" in n]) == 1


def unpackers(store) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"untar.py" in line and os.fsencode(store) in line:
            found.append(int(pid))
    return found


def test_killed_while_unpacking(store):
    """kill -9 of the tool: its child dies too, the next one cleans up and makes the tree."""
    archive = Archive(store / "cache/a.tar")
    for number in range(3000):
        archive.add(f"d{number % 50}/f{number}", data=bytes(9000))
    archive.close()
    run = subprocess.Popen([sys.executable, "-c", ENSURE, str(store), "a"])
    end = time.monotonic() + 20 * tools.PATIENCE
    while not list(store.glob("tree/.a@*.tmp/d*/f*")):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while unpackers(store):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert 0 < len(list(store.glob("tree/.a@*.tmp/d*/f*"))) < 3000, "the child went on"
    assert not list(store.glob("tree/a@*"))
    tree = template.ensure_tree(str(store), "a")
    assert len(list(Path(tree).glob("d*/f*"))) == 3000
    assert not list(store.glob("tree/.a@*.tmp"))


# recipes


def test_the_embedded_template(store):
    if not shutil.which("busybox"):
        pytest.skip("needs busybox-static")
    told = []
    start = time.monotonic()
    tree = Path(template.ensure_tree(str(store), "busybox-x86_64", told.append))
    assert time.monotonic() - start < 3 * tools.PATIENCE
    assert [type(event) for event in told] == [events.BuildingTemplate]
    assert str(told[0]) == "Creating cache for busybox-x86_64 OS template"
    for name in ("sbin/init", "sbin/halt", "bin/sh", "bin/ps", "usr/sbin/httpd", "sbin/syslogd"):
        assert os.readlink(tree / name) == "/bin/busybox"
    assert (tree / "etc/machine-id").read_bytes() == b""
    done = subprocess.run(["chroot", tree, "/bin/sh", "-c", "echo $PPID; ps axf --help"],
                          capture_output=True, text=True)
    assert "BusyBox" in done.stderr
    again = Path(template.build_cache(str(store), "busybox-x86_64", again=True))
    assert again.read_bytes() == Path(f"{again}-old").read_bytes(), "not reproducible"


@pytest.mark.parametrize("found, text", [
    ([], "busybox is not installed"),
    (["/bin/sh"], "/bin/sh is not statically linked"),
])
def test_no_static_busybox(store, monkeypatch, found, text):
    monkeypatch.setattr(busybox, "PATHS", tuple(found))
    with pytest.raises(VzError, match=text) as error:
        template.ensure_tree(str(store), "busybox-x86_64")
    assert error.value.code == 47 and error.value.hint == "apt-get install busybox-static"
    assert template.cached_names(str(store)) == []


def test_a_build_that_was_killed_is_cleaned_up(store):
    tool("busybox")
    (store / "cache/.busybox-x86_64.build/old/etc").mkdir(parents=True)
    template.ensure_cache(str(store), "busybox-x86_64")
    assert sorted(os.listdir(store / "cache")) == [".busybox-x86_64.lock", "busybox-x86_64.tar"]


def test_a_mount_in_the_way_is_not_removed(store, small):
    scratch = store / "cache/.busybox-x86_64.build"
    (scratch / "etc").mkdir(parents=True)
    (small / "precious").write_text("")
    subprocess.run(["mount", "--bind", small, scratch / "etc"], check=True)
    try:
        with pytest.raises(VzError, match="Device or resource busy"):
            template.ensure_cache(str(store), "busybox-x86_64")
        assert (small / "precious").exists()
    finally:
        subprocess.run(["umount", scratch / "etc"], check=True)


def test_mmdebstraps_words_are_told(store):
    (store / "recipes").mkdir()
    (store / "recipes/bad-x86_64.yaml").write_text(
        "summary: x\nbuilder: mmdebstrap\narch: x86_64\nsuite: bookworm\nvariant: nonesuch\n"
    )
    with pytest.raises(VzError, match="template: |mmdebstrap could not build") as error:
        template.ensure_cache(str(store), "bad-x86_64")
    hint = "E: " if shutil.which("mmdebstrap") else "apt-get install mmdebstrap"
    assert error.value.code == 47 and error.value.hint.startswith(hint)
    assert sorted(os.listdir(store / "cache")) == [".bad-x86_64.lock"]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", [n for n in recipe.names("/nonexistent") if "debian" in n])
def test_debian(name):
    """Built once, and again when its recipe changed: half a minute each."""
    abilities.require(f"{name} template" if name != stores.DEBIAN else "debian template")
    folder = stores.debian_store(name)
    tree = Path(template.ensure_tree(folder, name))
    assert (tree / "etc/debian_version").read_text().startswith("12")
    assert (tree / "sbin/init").exists() or (tree / "sbin/init").is_symlink()
    assert (tree / "etc/hostname").read_bytes() == b""
    assert not (tree / "etc/machine-id").exists() or not (tree / "etc/machine-id").read_bytes()
    assert not (tree / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert (tree / "etc/apt/sources.list.d/0000debian.sources").exists()
    template.gc(folder)


def test_vzpkg(store, tmp_path):
    tool("busybox")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vz.conf").write_text(f"TEMPLATE={store}\nVE_PRIVATE={tmp_path}/p/$VEID\n")
    entry = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vzpy.cli import main; "

    def vzpkg(*words):
        return subprocess.run(
            [sys.executable, "-c", entry + "sys.exit(main('vzpkg', sys.argv[1:]))", *words],
            capture_output=True, text=True,
            env={**os.environ, "VZ_ETC": str(tmp_path / "etc"), "VZ_RUN": str(tmp_path / "run")},
        )  # fmt: skip

    assert f"{'busybox-x86_64':<34} \n" in vzpkg("list", "-q").stdout
    assert vzpkg("list", "-c").stdout == ""
    made = vzpkg("create", "cache", "busybox")
    assert made.returncode == 0 and made.stderr == ""
    assert made.stdout.startswith("Creating cache for busybox-x86_64 OS template\nCache file ")
    assert vzpkg("list", "--cached", "-S").stdout == (
        f"{'busybox-x86_64':<34} :busybox with its own init, syslogd, crond and an idle httpd\n"
    )
    assert vzpkg("create", "cache", "busybox-x86_64").returncode == 29
    assert vzpkg("update", "cache", "busybox", "-q").stdout == ""
    assert (store / "cache/busybox-x86_64.tar-old").exists()
    assert vzpkg("remove", "cache", "busybox").returncode == 0
    assert vzpkg("remove", "cache", "busybox").returncode == 23
    assert vzpkg("create", "cache", "nonesuch").returncode == 24
    assert vzpkg("info", "busybox").returncode == 28
    assert vzpkg("help").returncode == 0
    assert vzpkg().returncode == vzpkg("--bogus").returncode == 35


LIST, GC = ("vz", "template", "list"), ("vz", "template", "gc")


def test_the_store_is_listed_and_collected(make_node, tmp_path):
    """A tree stays while a VPS stands on it, or its cache would make it again."""
    store = tmp_path / "template"
    (store / "cache").mkdir(parents=True)
    node = make_node(str(store))
    node.create(101)
    tree = os.readlink(f"{node.vps(101).private}/tree")
    line = tools.run_tool(node, LIST).stdout.split()
    assert line == [os.path.basename(tree), "1", "current"]
    tarball = next((store / "cache").glob("busybox*"))
    with tarball.open("ab") as file:
        file.write(bytes(512))  # another file, which unpacks to the same
    node.create(102)
    listed = [x.split()[1:] for x in tools.run_tool(node, LIST).stdout.splitlines()]
    assert sorted(listed) == [["1", "current"], ["1", "kept"]]
    assert tools.run_tool(node, GC).stdout == ""
    node.vps(101).destroy()
    assert tools.run_tool(node, GC).stdout == f"{tree}\n"
    assert not os.path.exists(tree)
    tarball.unlink()
    assert tools.run_tool(node, GC).stdout == ""
    node.vps(102).start()
    node.vps(102).stop(fast=True)
    node.vps(102).destroy()
    assert len(tools.run_tool(node, GC).stdout.splitlines()) == 1
    assert tools.run_tool(node, LIST).stdout == ""
