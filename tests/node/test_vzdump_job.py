"""What vzdump is told by options, vzdump.conf and storage.cfg, and whom it tells (migrate.md 5)."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from pathlib import Path

import pytest

from tools import sh
from vzpy.backup import Job
from vzpy.story import halt

NAME = "vzdump-openvz-101-[0-9]*"


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_directory(cli, node, tmp_path):
    """--noarch: root's alone, with the ids of the guest, rotated as archives are; it is restored
    from, and what is left out of archives is left out of it."""
    one = node.create(101, hostname="kept")
    one.start()
    sh(one, "mkdir -p /srv/no; echo one > /srv/data; cp /bin/busybox /srv/su; chmod 4755 /srv/su;"
            " echo x > /srv/no/x; chown 7:8 /srv/data")  # fmt: skip
    old = tmp_path / "vzdump-openvz-101-2001_01_01-00_00_00"
    (old / "root").mkdir(parents=True)
    old.with_suffix(".log").touch()
    ran = cli("vzdump", "--noarch", "--suspend", "--maxfiles", 1, "--exclude-path", "/srv/no/.*",
              "--dumpdir", tmp_path, 101)  # fmt: skip
    assert ran.code == 0, ran
    assert not old.exists() and not old.with_suffix(".log").exists()
    (made,) = (p for p in tmp_path.glob(NAME) if p.is_dir())
    assert stat.S_IMODE(made.stat().st_mode) == 0o700 and made.stat().st_uid == 0
    tree = made / "root"
    about = (tree / "srv/su").stat()
    assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (0, 0o4755)
    assert ((tree / "srv/data").stat().st_uid, (tree / "srv/data").stat().st_gid) == (7, 8)
    assert (tree / "srv/no").is_dir() and not (tree / "srv/no/x").exists()
    assert (tree / "etc/vzdump/vps.conf").read_text() == Path(one.conf_path).read_text()
    ran = cli("vzrestore", made, 202)
    assert ran.code == 0, ran
    new = node.vps(202)
    new.start()
    assert sh(new, "cat /srv/data; hostname; stat -c %u:%g:%a /srv/su") == "one\nkept\n0:0:4755\n"
    assert sh(new, "ls /etc/vzdump 2>&1 || true").count("No such file")


def test_strange_directory(cli, node, tmp_path):
    """A directory of a stranger: owners beyond a VPS, a link for the configuration."""
    tree = tmp_path / "d/root/etc/vzdump"
    tree.mkdir(parents=True)
    conf = tree / "vps.conf"
    conf.symlink_to("/etc/passwd")
    for case in ("no conf", "owner", "no tree"):
        ran = cli("vzrestore", tmp_path / "d", 202)
        assert ran.code == 255 and "Traceback" not in ran.stderr, ran
        assert ran.stderr.strip() and not list(Path(node.paths.conf).glob("202.*")), case
        if case == "no conf":
            conf.unlink()
            conf.write_text('OSTEMPLATE="busybox-x86_64"\nVE_LAYOUT="simfs"\n')
            (tmp_path / "d/root/far").touch()
            os.chown(tmp_path / "d/root/far", 70000, 0)
        elif case == "owner":
            assert "far" in ran.stderr
            (tmp_path / "d/root").rename(tmp_path / "d/other")


STORAGES = """\
dir: local
\tpath /nowhere
\tcontent images,iso

# for backups
dir: here
\tpath {}
\tcontent iso,backup
\tmaxfiles 1

lvm: disks
\tvgname x
\tcontent backup
"""


def test_storage(cli, node, tmp_path):
    node.create(101)
    etc = Path(node.paths.etc).parent
    words = ("vzdump", "--quiet", "--storage")
    ran = cli(*words, "here", 101)
    assert ran.code == 255 and "here" in ran.stderr, ran
    (etc / "pve").mkdir()
    (etc / "pve/storage.cfg").write_text(STORAGES.format(tmp_path))
    for _ in range(2):
        ran = cli(*words, "here", 101)
        assert ran.code == 0 and ran.stdout == "", ran
        time.sleep(1.1)  # names are of a second
    assert len(list((tmp_path / "dump").glob("*.tar"))) == 1
    for name in ("local", "disks", "none"):
        ran = cli(*words, name, 101)
        assert ran.code == 255 and name in ran.stderr and "Traceback" not in ran.stderr, ran
    assert cli(*words, "here", "--dumpdir", tmp_path, 101).code == 255
    (etc / "vzdump.conf").write_text("storage: here\nmode: suspend\n")
    assert cli("vzdump", "--maxfiles", 5, 101).code == 0
    assert len(list((tmp_path / "dump").glob("*.tar"))) == 2


def test_configuration(cli, node, tmp_path):
    """Settings of vzdump.conf hold, options win; a mistake in it is told with its line."""
    one = node.create(101)
    one.start()
    hook = program(tmp_path / "hook", f'echo "$1" "$TARFILE" >> {tmp_path}/told')
    conf = Path(node.paths.etc).parent / "vzdump.conf"
    dump = tmp_path / "dump"
    conf.write_text(f"# ours\ndumpdir: {dump}\nmode: suspend\nscript: {hook}\nmaxfiles: 7\n"
                    "bwlimit: 100000\nlockwait: 1\nstopwait: 1\nsize: 500\ntmpdir: /tmp\n")
    assert cli("vzdump", 101).code == 0
    (archive,) = dump.glob("*.tar")
    assert "backup mode: suspend" in archive.with_suffix(".log").read_text()
    # What hooks copy elsewhere: $TARFILE.
    assert f"backup-end {archive}" in (tmp_path / "told").read_text().splitlines()
    assert cli("vzdump", "--snapshot", "--dumpdir", tmp_path / "other", 101).code == 0
    assert len(list((tmp_path / "other").glob("*.tar"))) == 1
    for text, wrong in (("mode: fast", "fast"), ("colour: red", ":1:"), ("maxfiles: x", "x")):
        conf.write_text(f"{text}\n")
        ran = cli("vzdump", "--dumpdir", tmp_path, 101)
        assert ran.code == 255 and wrong in ran.stderr and "Traceback" not in ran.stderr, ran


def test_mail(cli, node, tmp_path):
    """One mail a job, to all; only of failures where that is asked for; a broken mailer is told."""
    one = node.create(101)
    folder = tmp_path / "bin"
    folder.mkdir()
    mailer = program(folder / "sendmail", f'echo "$@" > {tmp_path}/to; cat > {tmp_path}/mail')
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    words = ("vzdump", "--dumpdir", tmp_path / "dump", "--mailto", "a@x", "--mailto", "b@x")
    assert cli(*words, 101, env=env).code == 0
    text = (tmp_path / "mail").read_text()
    head, _, body = text.partition("\n\n")
    assert (tmp_path / "to").read_text().split()[-2:] == ["a@x", "b@x"]
    assert "To: a@x, b@x" in head and head.endswith(": backup successful")
    assert "INFO: Finished Backup of VM 101" in body
    (tmp_path / "mail").unlink()
    assert cli(*words, "--mail-error-only", 101, env=env).code == 0
    assert not (tmp_path / "mail").exists()
    away = Path(f"{one.private}.away")
    Path(one.private).rename(away)
    assert cli(*words, "--mail-error-only", 101, env=env).code == 255
    text = (tmp_path / "mail").read_text()
    assert "backup failed" in text and "Backup of VM 101 failed" in text
    away.rename(one.private)
    program(mailer, "exit 3")
    ran = cli(*words, 101, env=env)
    assert ran.code == 0 and "sendmail: exit status 3" in ran.stdout + ran.stderr, ran


def test_bandwidth(cli, node, tmp_path):
    one = node.create(101)
    os.makedirs(f"{one.private}/upper/srv", exist_ok=True)
    Path(one.private, "upper/srv/data").write_bytes(os.urandom(2 << 20))
    began = time.monotonic()
    assert cli("vzdump", "--bwlimit", 2048, "--dumpdir", tmp_path, 101).code == 0
    assert time.monotonic() - began > 1


def test_only_on_that_node(cli, node, tmp_path):
    node.create(101)
    assert cli("vzdump", "--node", "elsewhere", "--dumpdir", tmp_path, 101).code == 0
    assert not list(tmp_path.glob("*.tar"))
    name = os.uname().nodename.partition(".")[0]
    assert cli("vzdump", "--node", name, "--dumpdir", tmp_path, 101).code == 0
    assert len(list(tmp_path.glob("*.tar"))) == 1


def test_one_job_at_a_time(cli, node, tmp_path):
    """--lockwait 0 does not wait for another job."""
    import fcntl

    node.create(101)
    fd = os.open(node.paths.conf, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    ran = cli("vzdump", "--lockwait", 0, "--dumpdir", tmp_path, 101)
    assert ran.code == 255 and "got no lock" in ran.stderr, ran
    os.close(fd)


def test_patience_of_a_stop(cli, node, tmp_path, monkeypatch):
    """--stopwait is what init has, in the place of STOP_TIMEOUT."""
    one = node.create(101)
    one.start()
    given = []
    ask = halt.ask
    monkeypatch.setattr(halt, "ask", lambda *args: (given.append(args[3]), ask(*args)))
    one.dump(Job(mode="stop", dumpdir=str(tmp_path), stopwait=3))
    time.sleep(1.1)
    one.dump(Job(mode="stop", dumpdir=str(tmp_path)))
    assert given == [180, one.stop_timeout]


def test_force_needs_an_archive(cli, node, tmp_path):
    """What cannot be restored from costs no VPS; what is at its places is not overwritten."""
    one = node.create(101, layout="simfs")
    (tmp_path / "bad.tar").write_bytes(os.urandom(10240))
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("./etc/passwd"))
    for name in ("bad.tar", "foreign.tar", "none.tar"):
        ran = cli("vzrestore", "--force", tmp_path / name, 101)
        assert ran.code == 255 and "Traceback" not in ran.stderr, ran
    path = Path(one.dump(Job(dumpdir=str(tmp_path), suffix=".tgz")))
    (tmp_path / "cut.tgz").write_bytes(path.read_bytes()[:-3000])
    ran = cli("vzrestore", "--force", tmp_path / "cut.tgz", 101)
    assert ran.code == 255 and "cut.tgz" in ran.stderr, ran
    one.start()
    one.stop(fast=True)
    root = node.vps(202).config.raw("VE_ROOT")
    os.makedirs(root)
    ran = cli("vzrestore", path, 202)
    assert ran.code == 255 and f"{root} exists" in ran.stderr, ran
    assert cli("vzrestore", "--force", path, 202).code == 0


def test_more_ids(node, tmp_path):
    """A VPS with two ranges is restored into two."""
    one = node.create(101, layout="simfs", local_ids=2)
    far = Path(one.private, "far")
    far.touch()
    os.chown(far, one.ids.base + 100000, one.ids.base)
    path = one.dump(Job(dumpdir=str(tmp_path)))
    new = node.restore(path, 202)
    other = node.create(203)
    assert new.ids.count == 2 * 65536
    assert not new.ids.base <= other.ids.base < new.ids.base + new.ids.count
    assert Path(new.private, "far").stat().st_uid == new.ids.base + 100000
    assert node.restore(path, 202, force=True).ids.count == 2 * 65536


@pytest.mark.parametrize("words", [
    ("--compress", "--noarch", 101), ("--zstd", "--compress", 101), ("--stopwait", "x", 101),
    ("--all", "--exclude", "x"), ("--mailto",),
])  # fmt: skip
def test_mistakes(cli, node, tmp_path, words):
    node.create(101)
    ran = cli("vzdump", "--dumpdir", tmp_path, *words)
    assert ran.code == 255 and ran.stderr and "Traceback" not in ran.stderr, ran
    assert not list(tmp_path.glob("*.tar"))
