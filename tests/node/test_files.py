"""numfile and numflock, by programs at the hooks of BPF LSM."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest
from test_bounds import within_user
from test_dos import ATTACKS

import tools
from tools import needs, sh
from vzpy import cgroups, lockcount
from vzpy.filecount import SPARE
from vzpy.model import IdRange
from vzpy.story import counted

pytestmark = needs("BPF LSM")


@pytest.fixture
def limited(vps, vzctl):
    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)
    assert vzctl("set", 101, "--numfile", "200", "--save").code == 0
    ran = vzctl("start", 101)
    assert ran.code == 0 and "numfile" not in ran.stderr, ran
    vps.reload()
    comm = Path(f"/proc/{vps.facts().pid}/comm")
    tools.wait_for(lambda: comm.read_text() == "sleep\n")
    steady(vps)
    return vps


def steady(vps) -> int:
    """What is held when nothing comes and goes."""
    before, now = -1, row(vps)[0]
    while before != now:
        time.sleep(0.3)
        before, now = now, row(vps)[0]
    return now


def row(vps) -> tuple[int, int, int]:
    return counted.read(vps.facts())["NUMFILE"]


def opened(count: int):
    """Open so many files; the errnos of those refused."""

    def act() -> list[int]:
        errors = []
        for _ in range(count):
            try:
                os.open("/dev/null", os.O_RDONLY)
            except OSError as err:
                errors.append(err.errno)
        return errors

    return act


def test_one_too_many(limited, vzctl, node):
    """ENFILE, counted exactly; the neighbour and the host open what they want; what was opened is
    given back, whatever is done with it."""
    other = node.create(102)
    other.start()
    before = steady(limited)
    room = 200 - before
    assert within_user(limited, opened(room + 7)) == [errno.ENFILE] * 7
    assert row(limited)[1:] == (200, 7)
    assert within_user(other, opened(300)) == []
    for fd in [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]:
        os.close(fd)

    line = "ls /bin | cat | head -n 3 >/tmp/x; (cat /tmp/x &) ; exec 5<>/dev/ptmx; cat /dev/null"
    for _ in range(3):
        sh(limited, line)
    tools.wait_for(lambda: row(limited)[0] == before, what=f"{before} files")

    ran = vzctl("set", 101, "--numfile", "400", "--save")
    assert (ran.code, ran.stderr) == (0, "") and row(limited)[1:] == (200, 7)
    assert within_user(limited, opened(room + 203)) == [errno.ENFILE] * 3
    assert row(limited)[1:] == (400, 10)
    assert vzctl("set", 101, "--numfile", "unlimited").code == 0
    assert within_user(limited, opened(500)) == []
    assert row(limited)[2] == 10


def test_one_that_has_all_its_files_can_be_entered(vps, vzctl):
    """Who comes from outside has some to spare, and no more; who is inside has none."""
    tools.plant(vps, "/files", ATTACKS["open files"][0], 0o755)
    vps.set(numfile=300)
    vps.start()
    sh(vps, "(while :; do /files; done) >/dev/null 2>&1 &")
    tools.wait_for(lambda: row(vps)[2], what="a refusal")
    for _ in range(5):
        assert sh(vps, "cat /etc/passwd | wc -l; ls -d /bin").endswith("/bin\n")
    ran = vzctl("enter", 101, stdin=b"echo I am $((40 + 2)); exit\n")
    assert ran.code == 0 and "I am 42" in ran.stdout, ran
    refused = vps.exec(["tail", "-n", "1", *["/etc/passwd"] * (SPARE + 20)])
    assert refused.stderr.count(b"Too many open files in system") >= 20, refused
    assert row(vps)[0] <= 300 + SPARE
    began = time.monotonic()
    assert vzctl("stop", 101).code == 0
    assert time.monotonic() - began < 10 * tools.PATIENCE


def test_the_program_for_locks_loads():
    """If it does not, the kernel says why."""
    path = f"{cgroups.mountpoint()}/vz-locks-{os.getpid()}/1"
    os.makedirs(path)
    try:
        lockcount.change(path, IdRange(1 << 30), {"NUMFLOCK": 5})
        assert lockcount.read(path) == {"NUMFLOCK": (0, 0, 0)}
    finally:
        os.removedirs(path)


def locked(count: int, give_back: bool = False):
    """Lock so many parts of a file; the errnos of what was refused."""

    def act() -> list[int]:
        file = os.open("/etc/passwd", os.O_RDONLY)
        errors = []
        for part in range(count):
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 2 * part)
                if give_back:
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, 2 * part)
            except OSError as err:
                errors.append(err.errno)
        os.close(file)
        return errors

    return act


def locked_whole(count: int):
    def act() -> list[int]:
        files = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(count)]
        errors = []
        for file in files:
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
            except OSError as err:
                errors.append(err.errno)
        return errors

    return act


def unlocked_when_full() -> list[int]:
    file = os.open("/etc/passwd", os.O_RDONLY)
    errors = []
    for part in range(50):
        fcntl.lockf(file, fcntl.LOCK_SH, 1, 2 * part)
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_UN, fcntl.LOCK_SH):
        try:
            fcntl.lockf(file, kind, 1, 98 if kind == fcntl.LOCK_UN else 200)
        except OSError as err:
            errors.append(err.errno)
    return errors


def test_one_lock_too_many(vps, vzctl, node):
    """ENOLCK, counted exactly; what ends with its process is given back; a neighbour and the host
    lock what they want."""
    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)
    other = node.create(102)
    other.start()
    assert vzctl("set", 101, "--numflock", "50", "--save").code == 0
    ran = vzctl("start", 101)
    assert ran.code == 0 and "numflock" not in ran.stderr, ran
    vps.reload()

    def told():
        found = next(x for x in vps.beancounters() if x.name == "numflock")
        return found.verdict, found.limit, found.maxheld, found.failcnt

    assert within_user(vps, locked(57)) == [errno.ENOLCK] * 7
    assert told() == ("P", 50, 50, 7)
    for _ in range(3):
        assert within_user(vps, locked(50)) == []
    assert within_user(vps, locked_whole(53)) == [errno.ENOLCK] * 3
    assert within_user(vps, unlocked_when_full) == [errno.ENOLCK]
    assert within_user(vps, locked(500, give_back=True)) == []
    assert within_user(other, locked(200)) == [] == locked(200)()
    assert told() == ("P", 50, 50, 11)
    assert vzctl("set", 101, "--numflock", "100").code == 0
    assert within_user(vps, locked(101)) == [errno.ENOLCK]
    assert vzctl("set", 101, "--numflock", "unlimited").code == 0
    assert within_user(vps, locked(300)) == []
    assert told()[3] == 12
