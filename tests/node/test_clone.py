"""vz clone: the same files under ids of their own, and nothing that may be there only once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import abilities
import pytest
import traces
from belongings import furnish, picture

import tools
from vzpy import config
from vzpy.errors import VzError
from vzpy.kernel import loop
from vzpy.kernel import mount as m
from vzpy.kernel.libc import libc
from vzpy.node import Node

# What the copy has its own of.
OWN = ("./etc/machine-id", "./etc/ssh", "./etc/hostname", "./etc/hosts")


def files(vps) -> dict[str, tuple[object, ...]]:
    return {path: what for path, what in picture(vps).items() if not path.startswith(OWN)}


@pytest.fixture(params=["overlay", "simfs", "image"])
def source(request, node):
    vps = node.create(
        101, layout=request.param, diskspace="64M", hostname="web", name="web",
        ipadd=["192.0.2.7"], numproc=77,
    )  # fmt: skip
    furnish(vps)
    return vps


def test_files_and_configuration(cli, node, source):
    before = files(source)
    done = cli("vz", "clone", "web", 102, "--hostname", "other.example", "--name", "other")
    assert done.code == 0, done
    assert done.stdout.endswith("Container private area was created\n")
    copy = node.vps("other")
    own = copy.config.own
    assert copy.ctid == 102 and own("VEID") == "102"
    assert not any(own(key) for key in ("IP_ADDRESS", "NETIF"))
    assert (own("HOSTNAME"), own("NUMPROC"), own("VE_LAYOUT")) == (
        "other.example", "77", source.layout)
    assert copy.private != source.private
    assert not {*range(copy.ids.base, copy.ids.base + copy.ids.count)} & {source.ids.base}
    ours = files(copy)
    changed = {path for path in before if ours.get(path) != before[path]}
    assert changed <= {".", "./etc"} and ours.keys() == before.keys()
    source.start()
    copy.start()
    assert tools.sh(copy, "cat /etc/hostname; id -u") == "other.example\n0\n"
    tools.sh(copy, "echo x > /home/one/plain")
    assert tools.sh(source, "cat /home/one/plain; cat /etc/hostname") == "plainweb\n"


def test_identity(node, source):
    source.start()
    tools.sh(source, "mkdir -p /etc/ssh /bin; for k in rsa ed25519; do"
             " echo secret > /etc/ssh/ssh_host_${k}_key; done; echo config > /etc/ssh/sshd_config;"
             " echo 0123456789abcdef0123456789abcdef > /etc/machine-id;"
             " printf '#!/bin/sh\\necho made > /etc/ssh/ssh_host_made_key\\n' > /bin/ssh-keygen;"
             " chmod 755 /bin/ssh-keygen")
    source.stop(fast=True)
    copy = node.clone(101, 102)
    found = picture(copy)
    assert found["./etc/machine-id"][5][0] == 0
    keys = {path for path in found if path.startswith("./etc/ssh/")}
    assert keys == {"./etc/ssh/ssh_host_made_key", "./etc/ssh/sshd_config"}
    assert len([p for p in picture(source) if "ssh_host" in p]) == 2


def test_refusals(cli, node, source):
    source.start()
    done = cli("vz", "clone", 101, 102)
    assert (done.code, done.stderr) == (32, "Container is running (stop it first)\n")
    source.stop(fast=True, umount=False)
    assert cli("vz", "clone", 101, 102).code == 41
    source.umount()
    assert cli("vz", "clone", 101, 101).code == 9
    Path(node.vps(102).private).mkdir()
    Path(node.vps(102).private, "file").write_text("")
    done = cli("vz", "clone", 101, 102)
    assert (done.code, "already exists" in done.stderr) == (44, True)
    assert not node.vps(102).config.exists
    traces.remove_tree(node.vps(102).private)
    with pytest.raises(VzError, match="does not exist"):
        node.clone(777, 102)


@tools.slow
@pytest.mark.parametrize("step", ["build", "private", "tree", "config"])
def test_killed(cli, node, source, step):
    before = picture(source)
    assert cli("vz", "clone", 101, 102, env={"VZ_TEST_STOP_AT": step}).code == -9
    assert not node.vps(102).config.exists
    assert cli("vz", "clone", 101, 102).code == 0
    assert picture(source) == before


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(request, make_node, tmp_path):
    """A node whose private areas and templates lie on a file system that can share blocks."""
    abilities.require(f"mkfs.{request.param}")
    path, place = str(tmp_path / "disk.img"), str(tmp_path / "disk")
    os.mkdir(place)
    with open(path, "wb") as empty:
        empty.truncate(400 << 20)
    sectors = ["-s", "size=4096"] if request.param == "xfs" else []
    subprocess.run([f"mkfs.{request.param}", "-q", *sectors, path], check=True)
    file = loop.lock(path)
    device = loop.attach(file)
    os.close(file)
    disk = m.fsmount(request.param, source=loop.path_of(device))
    os.close(device)
    m.move_mount(disk, place)
    os.close(disk)
    node = make_node(f"{place}/template")
    os.makedirs(f"{place}/template/cache")
    config.save(f"{node.paths.etc}/vz.conf", {"VE_PRIVATE": f"{place}/private/$VEID"})
    yield node, place
    for vps in node:
        vps.destroy()
    tools.wait_for(lambda: not [x for x in os.listdir(f"{place}/vztmp") if x != "rm.lck"])
    m.umount2(place, 0)


def used(place: str) -> int:
    fd = os.open(place, os.O_RDONLY)
    assert libc.syncfs(fd) == 0
    os.close(fd)
    about = os.statvfs(place)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def test_shared_blocks(sharing):
    """A simfs root, its copy, and the copy of an image cost next to nothing."""
    node, place = sharing
    node = Node(etc=node.paths.etc, run=node.paths.run)
    vps = node.create(101, layout="simfs", diskspace="64M")
    furnish(vps)
    vps.start()
    tools.sh(vps, "head -c 8000000 /dev/urandom > /big")
    vps.stop(fast=True)
    before = used(place)
    node.create(102, layout="simfs")
    copy = node.clone(101, 103)
    assert used(place) - before < 3 << 20
    assert files(copy) == files(vps)
    vps.convert("image")
    before = used(place)
    node.clone(101, 104)
    assert used(place) - before < 1 << 20
    assert files(node.vps(104)) == files(vps) == files(copy)


def test_with_snapshots(vzctl, node, source):
    """The copy is of the present state, in one piece; a layout with snapshots is not changed."""
    assert vzctl("snapshot", 101).code == 0
    source.start()
    tools.sh(source, "echo later > /later; rm /home/one/su")
    source.stop(fast=True)
    copy = node.clone(101, 102)
    assert files(copy) == files(source)
    other = "image" if source.layout == "simfs" else "simfs"
    done = vzctl("convert", 101, "--layout", other)
    assert (done.code, "has snapshots" in done.stderr) == (155, True)
    guid = source.snapshots()[0].guid
    assert vzctl("snapshot-delete", 101, "--id", guid).code == 0
    assert source.convert(other)
    assert files(copy) == files(source)
