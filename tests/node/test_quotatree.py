"""Trees into projects, on a file system that knows them."""

from __future__ import annotations

import os
import subprocess

import pytest

import tools
from vzpy import quotatree
from vzpy.kernel import quotactl
from vzpy.kernel.cursor import Cursor

pytestmark = tools.needs("disks", "project quota")
PROJECT, DEEP = 4711, 3000


@pytest.fixture
def tree(bed, tmp_path):
    """A directory of an ext4 with projects; nobody outside of the session sees its mount."""
    mount = tmp_path / "mount"
    disk = os.environ["VZ_TEST_DISKS"].split()[0]
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-qF", "-O", "project,quota", disk], check=True)
    subprocess.run(["mount", disk, mount], check=True)
    (mount / "area").mkdir()
    yield mount / "area"
    subprocess.run(["umount", "--lazy", mount], check=True)


def project_of(fd: int) -> tuple[int, bool]:
    flags, project = quotactl.fsgetxattr(fd)
    return project, bool(flags & quotactl.FS_XFLAG_PROJINHERIT)


def test_however_deep(tree):
    (tree / "file").write_text("x")
    (tree / "link").symlink_to("file")
    with Cursor(str(tree)) as here:
        for _ in range(DEEP):
            os.mkdir("d", dir_fd=here.fd)
            here.down("d")
        os.utime(tree, ns=(1, 1))
        os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=here.fd))
        quotatree.attach(str(tree), PROJECT)
        assert project_of(here.fd) == (PROJECT, True)
        last = os.open("last", os.O_RDONLY, dir_fd=here.fd)
        assert project_of(last)[0] == PROJECT
        assert os.stat(tree).st_mtime_ns == 1 and os.readlink(tree / "link") == "file"
        os.rename("last", "renamed", src_dir_fd=here.fd, dst_dir_fd=here.fd)
        quotatree.attach(str(tree), 0)
        assert project_of(here.fd) == (0, False) and project_of(last)[0] == 0
        os.close(last)
    top = os.open(tree, os.O_RDONLY)
    assert project_of(top) == (0, False)
    os.close(top)
