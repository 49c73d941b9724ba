"""Owners of a whole private area moved: what must come along, what must be refused, what a kill
at any moment leaves."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys

import pytest
import traces

import tools
from vzpy import reshift
from vzpy.errors import VzError
from vzpy.kernel import mount as m
from vzpy.model import IdRange

pytestmark = tools.needs("root")

OLD, NEW = IdRange(0x70000000), IdRange(0x70010000)
HOST = IdRange(0)
NET_RAW = 1 << 13


def capability(root: int | None = None) -> bytes:
    """security.capability: cap_net_raw+ep, of revision 2, or 3 for the given root."""
    head = struct.pack("<5I", (3 if root is not None else 2) << 24 | 1, NET_RAW, 0, 0, 0)
    return head if root is None else head + struct.pack("<I", root)


def acl(**named: int) -> bytes:
    """user::rw- and one more user and group, mask, other."""
    rows = [(1, 6, -1), (2, 4, named["user"]), (4, 4, -1), (8, 4, named["group"]), (16, 4, -1),
            (32, 4, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)


@pytest.fixture
def area(tmp_path):
    """A private area with one of everything, owned by OLD."""
    top = tmp_path / "private" / "7"
    (top / "bin").mkdir(parents=True)
    (top / "var").mkdir()
    for name in ("plain", "su", "wall", "ping", "acl", "linked"):
        (top / "bin" / name).write_bytes(b"x")
    os.link(top / "bin" / "linked", top / "var" / "linked")
    os.symlink("/etc/passwd", top / "var" / "absolute")
    os.symlink("../bin", top / "var" / "directory")
    os.mkfifo(top / "var" / "fifo")
    os.mknod(top / "var" / "whiteout", stat.S_IFCHR)
    os.mknod(top / "var" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    give(top, OLD)
    os.chown(top / "var" / "whiteout", 0, 0)  # as overlayfs makes them
    os.chown(top / "bin" / "wall", OLD.base, OLD.base + 5)
    os.chown(top / "var", OLD.base + 65535, OLD.base + 100)
    os.chmod(top / "bin" / "su", 0o4755)
    os.chmod(top / "bin" / "wall", 0o2755)
    os.chmod(top / "var", 0o3777)
    os.setxattr(top / "bin" / "ping", "security.capability", capability(OLD.base))
    attribute = acl(user=OLD.base + 33, group=OLD.base + 34)
    os.setxattr(top / "bin" / "acl", "system.posix_acl_access", attribute)
    os.setxattr(top / "var", "system.posix_acl_default", attribute)
    os.setxattr(top / "var", "trusted.overlay.opaque", b"y")
    return top


def give(top, ids: IdRange) -> None:
    for directory, subdirs, files in os.walk(top):
        for name in ("", *subdirs, *files):
            os.lchown(os.path.join(directory, name), ids.base, ids.base)


def picture(top) -> dict[str, tuple[object, ...]]:
    """All that may change, by path."""
    found = {}
    for directory, subdirs, files in os.walk(top):
        for name in ("", *subdirs, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            names = [] if stat.S_ISLNK(status.st_mode) else sorted(os.listxattr(path))
            values = {n: os.getxattr(path, n) for n in names}
            key = os.path.relpath(path, top)
            found[key] = status.st_uid, status.st_gid, oct(status.st_mode), values
    return found


def expected(area) -> None:
    def owner(path: str) -> tuple[int, int, str]:
        status = os.lstat(area / path)
        return status.st_uid - NEW.base, status.st_gid - NEW.base, oct(stat.S_IMODE(status.st_mode))

    assert owner("") == (0, 0, "0o755")
    assert owner("bin/su") == (0, 0, "0o4755")
    assert owner("bin/wall") == (0, 5, "0o2755")
    assert owner("var") == (65535, 100, "0o3777")
    assert owner("var/absolute")[:2] == owner("var/fifo")[:2] == owner("var/null")[:2] == (0, 0)
    assert os.lstat(area / "var/whiteout").st_rdev == 0
    assert os.getxattr(area / "bin/ping", "security.capability") == capability(NEW.base)
    moved = acl(user=NEW.base + 33, group=NEW.base + 34)
    assert os.getxattr(area / "bin/acl", "system.posix_acl_access") == moved
    assert os.getxattr(area / "var", "system.posix_acl_default") == moved
    assert os.getxattr(area / "var", "trusted.overlay.opaque") == b"y"
    left = {n for *_, values in picture(area).values() for n in values if "vzpy" in n}
    assert left == set()


def test_everything_comes_along(area):
    passwd = os.stat("/etc/passwd")
    reshift.shift(str(area), OLD, NEW)
    expected(area)
    assert (passwd.st_uid, passwd.st_gid) == (0, 0) and os.stat("/etc/passwd") == passwd


def test_there_and_back_is_the_same(area):
    before = picture(area)
    reshift.shift(str(area), OLD, NEW)
    assert picture(area) != before
    reshift.shift(str(area), NEW, OLD)
    assert picture(area) == before


def test_restored_by_tar(area):
    """Owners from 0, and the capabilities that tar writes as host root."""
    give(area, HOST)
    os.chmod(area / "bin/su", 0o4755)
    os.setxattr(area / "bin/ping", "security.capability", capability())
    for name in ("bin/acl", "var"):
        kind = "access" if name == "bin/acl" else "default"
        os.setxattr(area / name, f"system.posix_acl_{kind}", acl(user=33, group=34))
    reshift.shift(str(area), HOST, NEW)
    assert os.stat(area / "bin/su").st_mode & 0o7777 == 0o4755
    assert os.getxattr(area / "bin/ping", "security.capability") == capability(NEW.base)
    assert os.getxattr(area / "bin/acl", "system.posix_acl_access") == acl(
        user=NEW.base + 33, group=NEW.base + 34
    )


CUT = """
import os, sys
from vzpy import reshift
from vzpy.model import IdRange
calls = [int(sys.argv[2])]
def counted(real):
    def call(*args, **kw):
        calls[0] -= 1
        if calls[0] < 0:
            os.kill(os.getpid(), 9)
        return real(*args, **kw)
    return call
for name in ("chown", "fchmod", "setxattr", "removexattr"):
    setattr(os, name, counted(getattr(os, name)))
reshift.shift(sys.argv[1], IdRange(0x70000000), IdRange(0x70010000))
"""


def test_cut_at_every_change(area, tmp_path):
    """A kill before any of its changes, then once more: all as without the kill."""
    reference = tmp_path / "reference"
    subprocess.run(["cp", "-a", area, reference], check=True)
    # cp -a writes capabilities as they are read
    os.setxattr(reference / "bin/ping", "security.capability", capability(OLD.base))
    copy = tmp_path / "copy"
    for cut in range(1000):
        subprocess.run(["cp", "-a", reference, copy], check=True)
        done = subprocess.run([sys.executable, "-c", CUT, copy, str(cut)], cwd=tools.ROOT)
        if done.returncode == 0:
            break
        assert done.returncode == -9
        assert os.stat(copy).st_uid == OLD.base, "the top comes last"
        reshift.shift(str(copy), OLD, NEW)
        expected(copy)
        shutil.rmtree(copy)
    assert cut > 20


def fails(area, code: int, old: IdRange = OLD, new: IdRange = NEW) -> str:
    """Refused before anything is changed; the path that the error names."""
    before = picture(area)
    with pytest.raises(OSError) as caught:
        reshift.shift(str(area), old, new)
    assert caught.value.errno == code
    assert picture(area) == before
    return str(caught.value.filename)


@pytest.mark.parametrize("owner", [(1000, 0x70000000), (0x70000000, 0x70020000), (0, 0)])
def test_owner_outside_of_the_range(area, owner):
    os.chown(area / "bin/plain", *owner)
    assert fails(area, errno.EOVERFLOW) == str(area / "bin/plain")


def test_acl_outside_of_the_range(area):
    os.setxattr(area / "var", "system.posix_acl_access", acl(user=1000, group=OLD.base))
    assert fails(area, errno.EOVERFLOW) == str(area / "var")


def test_capability_for_another_root(area):
    os.setxattr(area / "bin/ping", "security.capability", capability(0x70050000))
    assert fails(area, errno.EOVERFLOW) == str(area / "bin/ping")


def test_hard_link_to_another_area(area, tmp_path):
    """A private area copied by `cp -al` shares its files with the first one."""
    os.link(area / "bin/plain", tmp_path / "other")
    assert fails(area, errno.EMLINK) == str(area / "bin/plain")


def test_ranges_that_overlap(area):
    assert fails(area, errno.EINVAL, new=IdRange(OLD.base + 1)) == str(area)


def test_a_mount_inside(area):
    traces.private_mounts()
    m.mount(str(area / "bin"), str(area / "var"), "none", m.MS_BIND)
    try:
        assert fails(area, errno.EBUSY) == str(area / "var")
    finally:
        m.umount2(str(area / "var"))


def test_deep_and_strange_names(tmp_path):
    """Deeper than descriptors and PATH_MAX allow, with names that are no text."""
    top = os.fsencode(tmp_path / "deep")
    os.mkdir(top)
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir(b"a\xff\n", dir_fd=here)
        os.chown(b"a\xff\n", OLD.base, OLD.base, dir_fd=here)
        there = os.open(b"a\xff\n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(os.open(b"last", os.O_CREAT, dir_fd=here))
    os.chown(b"last", OLD.base, OLD.base, dir_fd=here)
    os.chown(top, OLD.base, OLD.base)
    told: list[tuple[int, int]] = []
    reshift.shift(os.fsdecode(top), OLD, NEW, lambda *counts: told.append(counts))
    assert os.stat(b"last", dir_fd=here).st_uid == NEW.base
    assert told[-1] == (3002, 3002)
    os.close(here)
    subprocess.run(["rm", "-rf", top], check=True)


# At a start


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_copied_configuration(node, vzctl, layout):
    """N.conf and private area copied to a new number: told, an own range, both run."""
    first = node.create(101, layout=layout)
    first.start()
    first.exec(["sh", "-c", "echo 1 > /root/mine; chown 5:6 /root/mine; chmod 4711 /root/mine"])
    first.stop()
    second = node.vps(102)
    subprocess.run(["cp", "-a", first.private, second.private], check=True)
    shutil.copy(first.conf_path, second.conf_path)
    first.start()
    done = vzctl("start", 102)
    assert done.code == 0, done
    second.reload()
    base = second.ids.base
    assert base != first.ids.base
    text = f"Changing owners in {second.private} to the range from {base}"
    assert text in done.stdout.splitlines()
    assert second.config.own("LOCAL_GID") == str(base)
    told = second.exec(["stat", "-c", "%u:%g %a", "/root/mine", "/"])
    assert told.stdout == b"5:6 4711\n0:0 755\n"
    assert first.exec(["stat", "-c", "%u:%g", "/root/mine"]).stdout == b"5:6\n"
    second.stop(fast=True)
    assert "Changing owners" not in vzctl("start", 102).stdout


def test_restored_area(node, vzctl):
    """An area whose owners tar has put back to the host's root."""
    vps = node.create(101, layout="simfs")
    give(vps.private, HOST)
    done = vzctl("start", 101)
    assert done.code == 0 and "Changing owners in " in done.stdout, done
    assert vps.exec(["stat", "-c", "%u", "/", "/bin"]).stdout == b"0\n0\n"


def test_guest_that_gives_its_root_away(node, vzctl):
    """The owner of "/" is the guest's choice: as long as it is in the range all is well."""
    vps = node.create(101)
    vps.start()
    vps.exec(["chown", "1000:1000", "/"])
    vps.stop()
    done = vzctl("start", 101)
    assert done.code == 0 and "Changing" not in done.stdout, done


def test_what_cannot_be_moved_does_not_start(node, vzctl):
    vps = node.create(101, layout="simfs")
    give(vps.private, HOST)
    os.chown(f"{vps.private}/etc", 70000, 0)
    done = vzctl("start", 101)
    assert done.code == 47
    text = f"owned by 0:0, but configuration file says we should run with {vps.ids.base}:"
    assert text in done.stderr
    assert f"{vps.private}/etc: id 70000" in done.stderr
    assert done.stdout.startswith("Starting container...\nChanging owners in "), done
    with pytest.raises(VzError) as caught:
        vps.start()
    assert caught.value.code == 47
    assert str(vps.status) == "exist unmounted down"


def test_mount_moves_too(node, vzctl):
    vps = node.create(101, layout="simfs")
    give(vps.private, HOST)
    done = vzctl("mount", 101)
    assert done.code == 0 and done.stdout.endswith("\nContainer is mounted\n"), done
    assert os.stat(f"{vps.root}/etc").st_uid == 0
    assert os.stat(f"{vps.private}/etc").st_uid == vps.ids.base


def test_progress_on_a_terminal(node):
    """A bar on standard error, only where that is a terminal."""
    vps = node.create(101, layout="simfs")
    give(vps.private, HOST)
    for n in range(30000):
        os.close(os.open(f"{vps.private}/tmp/{n}", os.O_CREAT))
    master, terminal = os.openpty()
    words = [sys.executable, tools.ROOT / "bin/vzctl", "mount", "101"]
    env = {**os.environ, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run, "TERM": "xterm"}
    env["PYTHONPATH"] = str(tools.ROOT)
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=terminal) as tool:
        os.close(terminal)
        shown = b"".join(iter(lambda: read_terminal(master), b""))
        stdout = tool.communicate()[0]
    os.close(master)
    assert tool.returncode == 0 and stdout.endswith(b"\nContainer is mounted\n")
    assert b"Changing owners" in shown and b"100%" not in stdout


def read_terminal(master: int) -> bytes:
    """What has been written to the slave; empty when nobody has it open any more."""
    try:
        return os.read(master, 65536)
    except OSError:
        return b""
