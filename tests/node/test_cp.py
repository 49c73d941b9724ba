"""vz cp: owners, kinds of files, and a hostile guest."""

from __future__ import annotations

import os
import socket
import stat

import pytest

from vzpy.errors import Exit, NoSuchVPS, UsageError, VzError
from vzpy.story import cp


def copy(node, source, target):
    """The warnings of a copy."""
    told = []
    cp.copy(node, str(source), str(target), lambda event: told.append(str(event)))
    return told


def inside(vps, *argv):
    done = vps.exec(argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.fixture
def tree(tmp_path):
    """A folder with one of each kind."""
    top = tmp_path / "tree"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"text\n" * 1000)
    os.chown(top / "a/b/file", 1000, 2000)
    (top / "a/b/file").chmod(0o4750)
    with open(top / "sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    os.symlink("/etc/shadow", top / "link")
    os.mkfifo(top / "pipe", 0o640)
    (top / "a").chmod(0o1777)
    return top


@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_there_and_back_in_every_state(node, tmp_path, tree, layout):
    vps = node.create(102, layout=layout)
    for state in ("stopped", "mounted", "running"):
        if state == "mounted":
            vps.mount()
        elif state == "running":
            vps.start()
        assert copy(node, tree, f"102:/root/{state}") == []
        back = tmp_path / f"back-{state}"
        assert copy(node, f"102:/root/{state}", back) == []
        info = os.stat(back / "a/b/file")
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1000, 2000, 0o750)
        assert info.st_mtime_ns == os.stat(tree / "a/b/file").st_mtime_ns
        assert (back / "a/b/file").read_bytes() == (tree / "a/b/file").read_bytes()
        assert os.readlink(back / "link") == "/etc/shadow"
        assert stat.S_ISFIFO(os.stat(back / "pipe").st_mode)
        assert os.stat(back / "a").st_mode & 0o7777 == 0o1777
        sparse = os.stat(back / "sparse")
        assert sparse.st_size == (50 << 20) + 3 and sparse.st_blocks < 100
        assert vps.status.mounted == (state != "stopped")
    found = inside(vps, "stat", "-c", "%u %g %a", "/root/mounted/a/b/file", "/root/mounted")
    assert found == "1000 2000 4750\n0 0 755\n"


def test_places(node, vps, tmp_path):
    (tmp_path / "one").write_text("1")
    vps.start()
    copy(node, tmp_path / "one", "101:/root")  # into a folder
    copy(node, tmp_path / "one", "101:/root/two")  # under another name
    copy(node, tmp_path / "one", "101:three")  # relative: of its root
    copy(node, "101:/root/../root/two", "101:/etc/four")  # within
    assert inside(vps, "cat", "/root/one", "/root/two", "/three", "/etc/four") == "1111"
    os.mkdir(tmp_path / "out")
    copy(node, "101:/root/.", tmp_path / "out")  # the content
    assert sorted(os.listdir(tmp_path / "out")) == ["one", "two"]


def test_what_the_vps_has_mounted_is_where_the_copy_goes(node, vps, tmp_path):
    (tmp_path / "file").write_text("seen")
    vps.start()
    inside(vps, "mount", "-t", "tmpfs", "none", "/tmp")
    copy(node, tmp_path / "file", "101:/tmp/")
    assert inside(vps, "cat", "/tmp/file") == "seen"
    told = copy(node, "101:/", tmp_path / "all")
    assert "Warning: /tmp is another file system, left out" in told
    assert (tmp_path / "all/bin/busybox").exists()
    assert not (tmp_path / "all/proc").exists()


def test_links_of_the_guest_lead_nowhere_outside(node, vps, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("host")
    vps.start()
    for link in (f"ln -s {secret} /out", f"ln -s ../../../../../../..{secret} /root/out",
                 f"ln -s {secret}/file /root/file", "ln -s /proc/self/root /root/magic"):
        inside(vps, "sh", "-c", link)
    (tmp_path / "new").write_text("new")
    for target in ("/out/new", "/root/out/new", "/out"):
        try:
            copy(node, tmp_path / "new", f"101:{target}")
        except VzError as err:
            assert err.errno
    copy(node, tmp_path / "new", "101:/root/file")  # replaces the link
    for source in ("/out/file", "/root/out/file", "/root/magic/etc/passwd"):
        with pytest.raises(VzError):
            copy(node, f"101:{source}", tmp_path / "stolen")
    assert os.listdir(secret) == ["file"] and (secret / "file").read_text() == "host"
    assert not (tmp_path / "stolen").exists()
    copy(node, "101:/root", tmp_path / "taken")
    assert os.readlink(tmp_path / "taken/out").endswith(str(secret))


def test_a_folder_that_the_guest_exchanged_for_a_link(node, vps, tmp_path):
    """What exists in the target under the name of a folder is not followed."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("x")
    outside = tmp_path / "outside"
    outside.mkdir()
    vps.start()
    inside(vps, "sh", "-c", f"mkdir /root/tree; ln -s {outside} /root/tree/sub")
    with pytest.raises(VzError) as err:
        copy(node, tmp_path / "tree", "101:/root")
    assert err.value.code == Exit.SYSTEM
    assert os.listdir(outside) == []


def test_devices_sockets_and_too_deep(node, vps, tmp_path):
    vps.start()
    assert copy(node, "101:/dev/null", tmp_path / "null") == [
        "Warning: /dev/null is a device or a socket, left out"
    ]
    server = socket.socket(socket.AF_UNIX)
    (tmp_path / "s").mkdir()
    server.bind(str(tmp_path / "s/socket"))
    assert len(copy(node, tmp_path / "s", "101:/root")) == 1
    inside(vps, "sh", "-c", "cd /root; for i in $(seq 300); do mkdir d; cd d; done")
    with pytest.raises(VzError, match="more than 200 folders"):
        copy(node, "101:/root/d", tmp_path / "deep")
    server.close()


def test_nothing_half_done_stays(node, vps, tmp_path):
    """A copy that fails leaves what was there, and no file of its own."""
    (tmp_path / "file").write_text("new")
    vps.start()
    inside(vps, "sh", "-c", "mkdir /root/file; touch /root/file/keep")
    copy(node, tmp_path / "file", "101:/root/file")
    with pytest.raises(VzError):
        (tmp_path / "keep").mkdir()
        copy(node, tmp_path / "keep", "101:/root/file/keep/")
    assert sorted(inside(vps, "ls", "-A", "/root/file").split()) == ["file", "keep"]


def test_bad_input(node, vps, tmp_path):
    with pytest.raises(UsageError):
        copy(node, tmp_path, tmp_path)
    with pytest.raises(NoSuchVPS):
        copy(node, "777:/etc", tmp_path)
    with pytest.raises(VzError) as err:
        copy(node, "101:/no/such", tmp_path)
    assert (err.value.code, err.value.errno) == (Exit.SYSTEM, 2)
    assert "/no/such" in err.value.message
    assert not vps.status.mounted


def test_tool(vps, cli, tmp_path):
    (tmp_path / "x").write_text("x")
    assert cli("vz", "cp", tmp_path / "x", "101:/root/x").code == 0
    done = cli("vz", "cp", "101:/nothing", tmp_path)
    assert done.code == 3 and "/nothing: No such file or directory" in done.stderr
    assert cli("vz", "cp", "a").code == 2
