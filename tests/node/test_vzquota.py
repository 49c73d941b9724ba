"""vzquota and its sisters on a plain tree: the steps of quota.md 7 that need no VPS."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

import tools
from vzpy.quotaid import Quota

pytestmark = tools.needs("project quota")
LIMITS = ("-b", 1000, "-B", 2000, "-i", 100, "-I", 200, "-e", 60, "-n", 60)


@pytest.fixture
def tree(node):
    """A folder on the disk of the node, which is the root disk here."""
    path = f"{os.path.dirname(node.config.raw('VE_PRIVATE'))}/tree"
    os.mkdir(path)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def vzquota(cli):
    return lambda *words, **kw: cli("vzquota", *words, **kw)


def write(path: str, kib: int) -> str:
    """As somebody whom limits stop: the host's root has CAP_SYS_RESOURCE."""
    argv = ["setpriv", "--bounding-set=-sys_resource", "dd", "if=/dev/zero", f"of={path}", "bs=1k"]
    done = subprocess.run([*argv, f"count={kib}", "conv=fsync"], capture_output=True, text=True)
    return done.stderr


def test_the_life_of_a_quota(vzquota, node, tree):
    assert vzquota("stat", 7).code == 6
    assert vzquota("show", 7).code == 11
    ran = vzquota("init", 7, "-p", tree, "-b", 1000)
    assert ran.code == 2 and "--inode-exptime" in ran.stderr
    assert vzquota("on", 7).code == 11

    ran = vzquota("init", 7, "-p", tree, *LIMITS)
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")
    assert vzquota("stat", 7).code == 6
    ran = vzquota("show", 7)
    assert (ran.code, ran.stdout) == (0, (
        "   resource          usage       softlimit      hardlimit    grace\n"
        "  1k-blocks              4            1000           2000         \n"
        "     inodes              1             100            200         \n"
    ))  # fmt: skip
    assert vzquota("on", 7).code == 0
    assert vzquota("on", 7).code == 5
    assert vzquota("init", 7, "-p", tree, *LIMITS).code == 5
    assert vzquota("drop", 7).code == 5

    assert "copied" in write(f"{tree}/a", 1500)
    ran = vzquota("stat", 7)
    assert ran.code == 0
    assert ran.stdout.splitlines()[1].startswith("  1k-blocks           1504*")
    assert ran.stdout.splitlines()[1].endswith("    00:01")
    assert "exceeded" in write(f"{tree}/b", 1000)
    ran = vzquota("-b", "stat", 7)
    used, soft, hard, expires, period = map(int, ran.stdout.splitlines()[0].split())
    assert (used, soft, hard, period) == (2000, 1000, 2000, 60)
    assert 0 < expires - time.time() <= 60
    ran = vzquota("show", 7)
    assert ran.code == 0
    assert ran.stderr.startswith("vzquota : (warning) Quota is running, so data reported")

    # The time runs out: soft is hard, and that shows.
    assert vzquota("setlimit", 7, "-e", 1).code == 0
    time.sleep(2.1)
    ran = vzquota("stat", 7)
    assert ran.stdout.splitlines()[1].endswith("    none")
    os.unlink(f"{tree}/b")
    assert "exceeded" in write(f"{tree}/c", 100)

    assert vzquota("off", 7).code == 0
    assert vzquota("off", 7).code == 6
    assert "copied" in write(f"{tree}/c", 4000)
    file = Quota(7, node.paths.quota_file(7)).file
    text = open(file).read()
    with open(file, "w") as broken:
        broken.write(text.replace("project", "broject"))
    for command in ("show", "stat", "on"):
        ran = vzquota(command, 7)
        assert ran.code == 4
        assert "Quota file check sum is invalid for id 7; file is broken" in ran.stderr
    assert vzquota("drop", 7).code == 0
    assert not os.path.exists(file)


def test_busy(vzquota, tree):
    assert vzquota("init", 7, "-p", tree, *LIMITS).code == 0
    with open(f"{tree}/file", "w"):
        ran = vzquota("on", 7)
    assert ran.code == 3
    assert "Quota on syscall for id 7: Device or resource busy\nPossible reasons:" in ran.stderr
    assert vzquota("on", 7).code == 0
    ran = vzquota("off", 7, cwd=tree)
    assert ran.code == 3 and "Quota off syscall for id 7" in ran.stderr
    assert vzquota("drop", 7, "-f").code == 0


def test_files_elsewhere(vzquota, tree):
    ran = vzquota("init", 7, "-c", "/x", "-R", "-p", tree, *LIMITS)
    assert ran.code == 2
    assert "-c and -R options can't be set together" in ran.stderr
    assert vzquota("show", 7, "-R").code == 13
    beside = f"{os.path.dirname(tree)}/quota.tree"
    assert vzquota("init", 7, "-R", "-p", tree, *LIMITS).code == 0
    assert vzquota("show", 7, "-c", beside).code == 0
    assert vzquota("drop", 7, "-R", "-p", tree).code == 0
    assert not os.path.exists(beside)


def test_dump_and_load(cli, vzquota, tree):
    assert vzquota("init", 7, "-p", tree, *LIMITS, "-s", 1, "-u", 10).code == 0
    assert vzquota("setlimit2", 7, "-u", 500, 100, 200, 10, 20).code == 0
    assert vzquota("setlimit2", 7, "-t", "-g", "60", "1:00").code == 0
    dump = cli("vzdqdump", 7, "-U", "-G", "-T", "-F").stdout
    assert dump == (
        "#ugid_quota_status:\tstatus\nugid_quota_status:\t1\n"
        "#grace_time:\ttype\tbgrace\tigrace\n"
        "grace_time:\t0\t604800\t604800\ngrace_time:\t1\t60\t60\n"
        "#ugid_number:\tnumber\nugid_number:\t1\n"
        "#ugid:\tid\ttype\tbsoft\tbhard\tisoft\tihard\tbtime\titime\n"
        "ugid:\t500\t0\t100\t200\t10\t20\t0\t0\n"
        "first_level_quota:\n4096 1024000 2048000 0 60\n1 100 200 0 60\n"
    )
    assert vzquota("drop", 7).code == 0
    assert vzquota("init", 7, "-p", tree, *LIMITS).code == 0
    assert cli("vzdqload", 7, "-U", "-G", "-T", "-F", stdin=dump.encode()).code == 0
    assert cli("vzdqdump", 7, "-U", "-G", "-T", "-F").stdout == dump
    ran = cli("vzdqload", 7, "-U", stdin=b"ugid:\trubbish\n")
    assert ran.code == 4 and "line 1 is not understood" in ran.stderr
    assert cli("vzdqdump", 7, "-U", "-G", "-T", "-F").stdout == dump
    assert vzquota("reload2", 7).code == 6
    assert vzquota("on", 7).code == 0
    ran = cli("vzdqload", 7, stdin=dump.encode())
    assert ran.code == 5 and "Quota is running, stop it first" in ran.stderr
    ran = vzquota("stat", 7, "-t")
    assert ran.code == 9
    assert "User/group quota: on,inactive\nUgids: loaded 0, total 1, limit 0\n" in ran.stdout
    assert vzquota("drop", 7, "-f").code == 0
