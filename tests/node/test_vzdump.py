"""vzdump and vzrestore (migrate.md 5)."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import stores
from belongings import furnish, picture

import tools
from tools import sh
from vzpy.backup import Job
from vzpy.errors import Exit, VzError
from vzpy.story import create

LONGEST = 3900  # what is nested deeper than a path can be is told, and left out


def make(node, layout: str):
    return node.create(101, layout=layout, diskspace="64M", diskinodes=20000)


def kept(vps) -> dict[str, tuple[object, ...]]:
    """What an archive can hold: no sockets."""
    return {path: about for path, about in picture(vps).items()
            if about[0] != stat.S_IFSOCK and len(os.fsencode(path)) < LONGEST}  # fmt: skip


def warnings(events: list[object]) -> list[str]:
    return [str(event) for event in events if type(event).__name__.endswith("Warned")]


@pytest.mark.parametrize(
    "layout,suffix",
    [("overlay", ".tar"), ("simfs", ".tgz"), ("image", ".tar.zst"), ("overlay", "")],
)
def test_round_trip(node, tmp_path, layout, suffix):
    """One of everything, in each layout, under other ids; and it boots."""
    vps = make(node, layout)
    furnish(vps)
    before = kept(vps)
    events: list[object] = []
    path = vps.dump(Job(dumpdir=str(tmp_path), suffix=suffix), report=events.append)
    assert [w for w in warnings(events) if "nested too deep" not in w] == []
    assert len(warnings(events)) == 1
    new = node.restore(path, 202)
    assert new.layout == vps.layout and new.ids.base != vps.ids.base
    after = kept(new)
    assert {p: (before.get(p), after.get(p)) for p in before.keys() | after.keys()
            if before.get(p) != after.get(p)} == {}  # fmt: skip
    new.start()
    assert sh(new, "cat /home/one/plain") == "plain"


@pytest.mark.parametrize(
    "layout,mode",
    [*(("overlay", mode) for mode in ("plain", "stop", "suspend", "snapshot")),
     ("simfs", "suspend"), ("simfs", "plain"), ("image", "suspend")],
)  # fmt: skip
def test_running(cli, node, tmp_path, layout, mode):
    vps = make(node, layout)
    vps.start()
    sh(vps, "echo one > /data")
    words = [] if mode == "plain" else [f"--{mode}"]
    ran = cli("vzdump", *words, "--dumpdir", tmp_path, "101")
    assert ran.code == 0, ran
    assert vps.status.running
    (archive,) = tmp_path.glob("*.tar")
    name = r"vzdump-openvz-101-\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d\.tar"
    assert re.fullmatch(name, archive.name)
    assert f"INFO: backup mode: {mode}" in archive.with_suffix(".log").read_text()
    ran = cli("vzrestore", archive, 202)
    assert ran.code == 0, ran
    new = node.vps(202)
    new.start()
    assert sh(new, "cat /data") == "one\n"
    assert {"Snapshots.xml", "layers"} & set(os.listdir(vps.private)) <= {"layers"}


def test_two_at_once_suspended(cli, node, tmp_path):
    """As panels do: --suspend of two VPSs, hooks, the oldest goes."""
    for ctid in (101, 102):
        one = node.create(ctid)
        one.start()
        sh(one, f"echo {ctid} > /data")
        for year in (2001, 2002):
            old = tmp_path / f"dump/vzdump-openvz-{ctid}-{year}_01_01-00_00_00.tar"
            old.parent.mkdir(exist_ok=True)
            old.touch()
            old.with_suffix(".log").touch()
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$@" "$VMTYPE" "$DUMPDIR" >> {tmp_path}/phases\n')
    hook.chmod(0o755)
    ran = cli("vzdump", "--suspend", "--maxfiles", 2, "--script", hook, "--dumpdir",
              tmp_path / "dump", "--zstd", 101, 102)  # fmt: skip
    assert ran.code == 0, ran
    for ctid in (101, 102):
        assert node.vps(ctid).status.running
        assert sh(node.vps(ctid), "cat /data") == f"{ctid}\n"
        names = sorted(p.name for p in (tmp_path / "dump").glob(f"*-{ctid}-*"))
        assert len(names) == 4 and not any("2001" in name for name in names)
        (archive,) = (tmp_path / "dump").glob(f"*-{ctid}-*.tar.zst")
        assert cli("vzrestore", archive, ctid + 100).code == 0
        new = node.vps(ctid + 100)
        new.start()
        assert sh(new, "cat /data") == f"{ctid}\n"
    end = f"openvz {tmp_path}/dump"
    assert (tmp_path / "phases").read_text().splitlines() == [
        f"job-start {end}",
        *(f"{phase} suspend {ctid} {end}"
          for ctid in (101, 102) for phase in ("backup-start", "backup-end")),
        f"job-end {end}",
    ]  # fmt: skip


def test_phases_of_a_stop(cli, node, tmp_path):
    one = node.create(101)
    one.start()
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/phases\n[ $1 != pre-stop ] || exit 0$FAIL\n")
    hook.chmod(0o755)
    words = ("vzdump", "--stop", "--script", hook, "--dumpdir", tmp_path, 101)
    assert cli(*words).code == 0
    phases = ["job-start", "backup-start", "pre-stop", "pre-restart", "backup-end", "job-end"]
    assert (tmp_path / "phases").read_text().split() == phases
    hook.write_text(hook.read_text().replace("0$FAIL", "7"))
    ran = cli(*words)
    assert ran.code == 255 and "exit status 7" in ran.stderr, ran
    assert (tmp_path / "phases").read_text().split()[6:] == [
        "job-start", "backup-start", "pre-stop", "backup-abort", "job-end",
    ]  # fmt: skip
    assert one.status.running
    assert len(list(tmp_path.glob("*.tar"))) == 1 and not list(tmp_path.glob("*.dat"))


def test_selection_and_excludes(cli, node, tmp_path):
    for ctid in (101, 102, 103):
        node.create(ctid, layout="simfs")
    tools.remove(Path(node.vps(102).private))  # its dump fails, the others' do not
    private = Path(node.vps(101).private)
    for path in ("tmp/a", "var/log/b", "home/c", "home/d/e"):
        (private / path).parent.mkdir(parents=True, exist_ok=True)
        (private / path).write_text("x")
    ran = cli("vzdump", "--exclude", 103, "--stdexcludes", "--exclude-path", "/home/.*d",
              "--dumpdir", tmp_path)  # fmt: skip
    assert ran.code == 255 and "Backup of VM 102 failed" in ran.stderr, ran
    assert not list(tmp_path.glob("*-103-*")) and not list(tmp_path.glob("*-102-*"))
    (archive,) = tmp_path.glob("*-101-*.tar")
    names = set(tarfile.open(archive).getnames())
    assert "./home/c" in names and "./tmp" in names
    assert not names & {"./tmp/a", "./var/log/b", "./home/d", "./home/d/e"}
    for words in ((), ("--all", 101), ("--mode", 101), ("--stop", "--suspend", 101),
                  ("--exclude-path", "(", 101), ("--maxfiles", "x", 101), (104,)):  # fmt: skip
        ran = cli("vzdump", "--dumpdir", tmp_path, *words)
        assert ran.code == 255 and "Traceback" not in ran.stderr, (words, ran)


def test_locked(cli, node, tmp_path, monkeypatch):
    """A lock that somebody holds is waited for."""
    from threading import Timer

    one = node.create(101)
    lock = one.locked()
    lock.__enter__()
    release = Timer(1.5, lambda: lock.__exit__(None, None, None))
    release.start()
    assert cli("vzdump", "--dumpdir", tmp_path, 101).code == 0
    release.join()


def test_interoperates(node, tmp_path):
    """GNU tar reads what we write: holes, capabilities, ACLs, names."""
    one = node.create(101)
    furnish(one)
    path = one.dump(Job(dumpdir=str(tmp_path)))
    out = tmp_path / "out"
    out.mkdir()
    ran = subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner",
                          "-xpf", path, "-C", out], capture_output=True, text=True)  # fmt: skip
    # What the bytes of a capability need, GNU tar takes without being told.
    told = ran.stderr.replace("tar: Ignoring unknown extended header keyword 'hdrcharset'\n", "")
    assert ran.returncode == 0 and not told, ran
    home = out / "home/one"
    assert (home / "sparse").stat().st_blocks * 512 < (home / "sparse").stat().st_size
    assert len(os.getxattr(home / "ping", "security.capability")) == 20  # revision 2
    assert (home / "plain").stat().st_uid == 65535 and (home / "su").stat().st_mode & 0o4000
    assert os.path.lexists(home / os.fsdecode(b"n\xff\n\\"))
    assert len(os.getxattr(home / "acl", "system.posix_acl_access")) == 4 + 6 * 8
    assert os.getxattr(home / "user", "user.note") == b"kept"
    assert (out / "etc/vzdump/vps.conf").is_file()


# Archives of strangers


CONF = b'OSTEMPLATE="busybox-x86_64"\nVE_LAYOUT="simfs"\n'


def archive(path, *members, conf: bytes = CONF) -> str:
    """members  TarInfo, or (TarInfo, bytes)"""
    import io

    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("./etc/vzdump/vps.conf")
        info.size = len(conf)
        tar.addfile(info, io.BytesIO(conf))
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"", **kw):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    for key, value in kw.items():
        setattr(info, key, value)
    return (info, data) if data else info


def untouched(node, ctid: int) -> None:
    conf = Path(node.paths.conf)
    assert not list(conf.glob(f"{ctid}.*")), list(conf.glob(f"{ctid}.*"))
    assert not list(Path(node.vps(ctid).private).parent.iterdir())


def test_ways_out(node, tmp_path):
    """Names and links that lead out stay inside."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = str(tmp_path)
    path = archive(
        tmp_path / "a.tar",
        member("../../../../../../../.." + out + "/one", data=b"x"),
        member(out + "/two", data=b"x"),
        member("link", tarfile.SYMTYPE, out),
        member("link/three", data=b"x"),
        member("hard", tarfile.REGTYPE, data=b"x"),
        member("dir", tarfile.DIRTYPE),
        member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
        member("mem", tarfile.CHRTYPE, devmajor=1, devminor=1),
        member("su", data=b"x", mode=0o4755),
    )
    new = node.restore(path, 202)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "victim"]
    inside = Path(new.private)
    assert not (inside / "disk").exists() and not (inside / "mem").exists()
    assert (inside / "su").stat().st_uid == new.ids.base
    path = archive(tmp_path / "b.tar", member("hard", tarfile.LNKTYPE, str(victim)))
    with pytest.raises(VzError) as caught:
        node.restore(path, 203)
    assert caught.value.code == Exit.FS_BAD_TMPL
    assert victim.stat().st_nlink == 1


@pytest.mark.parametrize("broken", ["cut", "flipped", "not an archive", "empty", "owner", "bomb",
                                    "no conf", "conf is a link"])  # fmt: skip
def test_broken(node, tmp_path, broken):
    """It is told, and nothing is left."""
    path = tmp_path / "a.tar"
    members = [member("./", tarfile.DIRTYPE), member("a", data=b"x" * 5000)]
    if broken == "owner":
        members.append(member("b", uid=70000))
    archive(path, *members)
    data = bytearray(path.read_bytes())
    if broken == "cut":
        data = data[:4096]
    elif broken == "flipped":
        data[1536:2048] = b"\xff" * 512
    elif broken == "not an archive":
        data = bytearray(os.urandom(20000))
    elif broken == "empty":
        data = bytearray()
    path.write_bytes(data)
    if broken == "bomb":  # says that it holds more than any disk
        info = tarfile.TarInfo("huge")
        info.size = 1 << 60
        with open(path, "r+b") as file:
            file.seek(1024)  # after the configuration
            file.write(info.tobuf(tarfile.PAX_FORMAT))
    elif broken == "no conf":
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("a"))
    elif broken == "conf is a link":
        with tarfile.open(path, "w") as tar:
            tar.addfile(member("./etc/vzdump/vps.conf", tarfile.SYMTYPE, "/etc/shadow"))
    ran = tools.run_tool(node, ("vzrestore", path, 202))
    assert ran.code == 255 and "Traceback" not in ran.stderr, ran
    assert ran.stderr.strip()
    untouched(node, 202)


def test_hostile_configuration(node, tmp_path, cli):
    """What gives something of the host, or runs on it, is not taken from a stranger."""
    conf = CONF + (
        b'VE_PRIVATE="/etc"\nVE_ROOT="/"\nLOCAL_UID="0"\nLOCAL_GID="0"\nTEMPLATE="/tmp"\n'
        b'DEVNODES="sda:rw"\nCAPABILITY="SYS_ADMIN:on"\nLOCKDIR="/tmp"\nVEID="1"\n'
        b'DESCRIPTION="`id` $(id)"\nHOSTNAME="kept"\nNUMPROC="x"\nUNKNOWN="$(id)"\n'
    )
    script = b"#!/bin/sh\ntouch /tmp/vzrestore-ran\n"
    path = archive(
        tmp_path / "a.tar",
        member("./etc/vzdump/vps.mount", data=script),
        member("./etc/vzdump/vps.start", data=b"true\n"),
        member("./", tarfile.DIRTYPE),
        conf=conf,
    )
    ran = cli("vzrestore", path, 202)
    assert ran.code == 0, ran
    assert "DEVNODES" in ran.stderr and "CAPABILITY" in ran.stderr and "202.mount" in ran.stderr
    new = node.vps(202)
    assert new.private == node.config.vps(202, "/none").raw("VE_PRIVATE")
    assert new.ids.base > 65536 and new.config.own("HOSTNAME") == "kept"
    text = Path(new.conf_path).read_text()
    assert "UNKNOWN" not in text and "LOCKDIR" not in text and "DEVNODES" not in text
    asked = subprocess.run(["sh", "-c", f". {new.conf_path}; echo $DESCRIPTION"],
                           capture_output=True, text=True)  # fmt: skip
    assert asked.stdout == "`id` $(id)\n"
    conf_dir = Path(node.paths.conf)
    assert not (conf_dir / "202.mount").exists() and (conf_dir / "202.start").exists()
    assert (conf_dir / "202.mount.restored").read_bytes() == script
    ran = cli("vzrestore", "--trust", path, 203)
    assert ran.code == 0 and (conf_dir / "203.mount").read_bytes() == script
    assert "DEVNODES" in Path(node.vps(203).conf_path).read_text()
    tools.remove(conf_dir / "203.mount")


def test_what_is_there_stays(node, cli, tmp_path):
    one = node.create(101, layout="simfs")
    path = one.dump(Job(dumpdir=str(tmp_path)))
    (Path(one.private) / "changed").touch()
    ran = cli("vzrestore", path, 101)
    assert ran.code == 255 and "exists" in ran.stderr
    assert (Path(one.private) / "changed").exists()
    assert cli("vzrestore", "--force", path, 101).code == 0
    assert not (Path(one.private) / "changed").exists()
    one.start()
    assert cli("vzrestore", "--force", path, 101).code == 255
    assert one.status.running


# Cut at every step

KILL, FAIL = "VZ_TEST_STOP_AT", "VZ_TEST_FAIL_AT"


@pytest.mark.parametrize("how", [KILL, FAIL])
def test_dump_is_cut(node, tmp_path, how):
    """Half an archive has no archive's name; the VPS goes on; the next dump cleans up."""
    one = node.create(101)
    one.start()
    for step in ("draft", "copy", "archive", "finish"):
        words = ("vzdump", "--suspend", "--dumpdir", tmp_path, 101)
        ran = tools.run_tool(node, words, env={how: step})
        assert ran.code == (-9 if how == KILL else 255), (step, ran)
        assert not list(tmp_path.glob("*.tar"))
        assert sh(one, "echo on") == "on\n"
    assert tools.run_tool(node, words).code == 0
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".log", ".tar"]
    one.stop(fast=True)
    one.snapshot_delete(one.snapshot())
    assert not os.listdir(f"{one.private}/layers")


@pytest.mark.parametrize("how", [KILL, FAIL])
def test_restore_is_cut(node, tmp_path, how):
    path = node.create(101).dump(Job(dumpdir=str(tmp_path)))
    for step in create.STEPS:
        if step == "create-script":
            continue  # it is done
        ran = tools.run_tool(node, ("vzrestore", path, 202), env={how: step})
        assert ran.code in (-9, 255), (step, ran)
        assert str(node.vps(202).status) == "deleted unmounted down"
        if how == FAIL:
            conf = Path(node.paths.conf)
            assert not list(conf.glob("202.*")), (step, list(conf.glob("202.*")))
            assert os.listdir(Path(node.vps(202).private).parent) == ["101"], step
    new = node.restore(path, 202)
    new.start()
    assert sh(new, "echo on") == "on\n"


@tools.slow
@tools.needs("debian template")
@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_debian(make_node, tmp_path, layout):
    """A whole distribution: dumped while it runs, restored under other ids, booted; and a snapshot
    of it. The times are printed."""
    node = make_node(stores.debian_store())
    one = node.create(101, ostemplate=stores.DEBIAN, layout=layout)
    one.start(wait=True)
    sh(one, "echo one > /data")
    began = time.monotonic()

    def lap(what: str) -> None:
        nonlocal began
        print(f"\n{layout}: {what} {time.monotonic() - began:.2f} s")
        began = time.monotonic()

    guid = one.snapshot(skip_suspend=True)
    lap("snapshot, running")
    events: list[object] = []
    path = one.dump(Job(mode="suspend", dumpdir=str(tmp_path), suffix=".tar.zst"),
                    report=events.append)  # fmt: skip
    lap(f"dump, {os.stat(path).st_size >> 20} MiB")
    assert not warnings(events)
    print(*(str(e) for e in events if "suspended for" in str(e)))
    one.stop(fast=True)
    one.snapshot_switch(guid)
    one.destroy()
    began = time.monotonic()
    new = node.restore(path, 202)
    lap("restore")
    new.start(wait=True)
    assert sh(new, "cat /data; systemctl is-system-running || true") == "one\nrunning\n"
    assert new.layout == layout
