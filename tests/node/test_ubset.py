"""Beancounters of login users: the same names, the same functions, another cgroup."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tools import needs
from vzpy import cgroups
from vzpy.errors import VzError
from vzpy.story import ubset

UID = 54321  # nobody's


@pytest.fixture
def session():
    """The slice of a user who is logged in, and a shell in it."""
    top = f"{cgroups.mountpoint()}/user.slice"
    was_there = os.path.isdir(top)
    path = f"{top}/user-{UID}.slice"
    os.makedirs(f"{path}/session-1.scope")
    yield path
    cgroups.remove(path)
    if not was_there:
        os.rmdir(top)


def run_in(path, command) -> subprocess.CompletedProcess[str]:
    """As a process of the session, the root of the host all the same."""
    enter = f"echo $$ >{path}/session-1.scope/cgroup.procs && {command}"
    return subprocess.run(["sh", "-c", enter], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [
        ("user:nobody-of-that-name", 21, "Bad user nobody-of-that-name: no such user"),
        (f"user:{UID}", 31, f"Unable to apply UBC parameters: user:{UID} has no cgroup"),
        ("user-9.slice", 31, "Unable to apply UBC parameters: user-9.slice has no cgroup"),
        ("101", 21, "Bad user or slice 101"),
        ("/", 21, "Bad slice /: it is none of a user"),
        ("/../..", 31, "Unable to apply UBC parameters: /../.. has no cgroup"),
    ],
)
def test_refused(vzctl, word, code, message):
    done = vzctl("ubset", word, "--numproc", 10)
    assert (done.code, done.stderr.splitlines()[0]) == (code, message)


def test_no_slice_of_a_vps(vzctl, vps, node):
    vps.start()
    done = vzctl("ubset", f"/{node.paths.cgroup}/101", "--numproc", 10)
    assert done.code == 21 and "`vzctl set` limits a VPS." in done.stderr


def test_wrong_options(vzctl, session):
    assert vzctl("ubset", f"user:{UID}", "--hostname", "a").code == 21
    assert vzctl("ubset", f"user:{UID}", "--numproc", "many").code == 21
    assert vzctl("ubset", f"user:{UID}").code == 0


def test_only_with_the_controller(vzctl, session):
    with open(f"{cgroups.mountpoint()}/cgroup.controllers") as f:
        has = "pids" in f.read().split()
    done = vzctl("ubset", f"user:{UID}", "--numproc", 10)
    refused = (1, "Error: cannot be applied on this node: numproc\n")
    assert (done.code, done.stderr) == ((0, "") if has else refused)


@needs("pids controller", "memory controller")
def test_a_user_is_limited_and_counted(node, cli, vzctl, session):
    done = vzctl("ubset", f"user:{UID}", "--numproc", 5, "--ram", "64M", "--swap", "0",
                 "--lockedpages", 10)
    assert (done.code, done.stdout) == (0, "UB limits were set successfully\n")
    assert done.stderr == "Warning: not applied on this node: lockedpages\n"
    forked = run_in(session, "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done")
    assert "fork" in forked.stderr
    hog = run_in(session, "exec dd if=/dev/zero of=/dev/null bs=200M count=1")
    assert hog.returncode == -signal.SIGKILL
    uid, rows = ubset.beancounters(node.paths, f"user-{UID}.slice")
    found = {row.name: row for row in rows}
    assert uid == UID and len(rows) > 20
    assert found["numproc"].limit == 5 and found["numproc"].failcnt >= 1
    assert found["physpages"].limit == 16384 and found["physpages"].failcnt >= 1
    assert found["oomguarpages"].failcnt == 1
    assert found["numpty"].held is None  # those of the host are not the user's
    raw = cli("vzubc", "--slice", f"user:{UID}", "--raw").stdout
    assert f"{UID}:".rjust(10) + "  kmemsize " in raw
    vzctl("ubset", session, "--numproc", "unlimited")
    assert open(f"{session}/pids.max").read() == "max\n"
    assert open(f"{session}/memory.max").read() == f"{64 << 20}\n"


@needs("memory controller")
def test_memory_in_use_is_not_taken_away(node, vzctl, session):
    vzctl("ubset", f"user:{UID}", "--ram", "256M", "--swap", "0")
    with subprocess.Popen(
        ["sh", "-c", f"echo $$ >{session}/session-1.scope/cgroup.procs;"
         " exec python3 -c 'x = bytearray(100 << 20); print(1, flush=True); input()'"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        holder.stdout.readline()
        done = vzctl("ubset", f"user:{UID}", "--ram", "32M")
        assert done.code == 1 and "pages are in use" in done.stderr
        assert open(f"{session}/memory.max").read() == f"{256 << 20}\n"
        holder.communicate(b"\n")
    with pytest.raises(VzError):
        ubset.cgroup_of(node.paths, "user:")
