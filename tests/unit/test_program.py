"""Programs that are lists of system calls: made here, run here."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vzpy import tasks
from vzpy.kernel import program
from vzpy.kernel.program import Blank, Number, Program

ROOT = Path(__file__).parents[2]
AT_FDCWD = -100
X86_64, GENERIC = 1, 2


@pytest.fixture
def ends():
    """Ours, and the one that a program tells its failure to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


TELL, GIVEN = 3, 4


def run(calls: Program, *fds: int) -> int:
    """Exit status."""
    pid = calls.start(list(fds))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_one_call_after_the_other(ends):
    ours, theirs = ends
    calls = Program(TELL)
    for text in (b"one", b"two"):
        calls.call("write", TELL, text, len(text))
    calls.call("exit_group", 7)
    assert run(calls, theirs.fileno()) == 7
    assert [ours.recv(9), ours.recv(9)] == [b"one", b"two"]


def test_a_result_is_the_argument_of_the_next_call(ends, tmp_path):
    (tmp_path / "file").write_bytes(b"read")
    ours, theirs = ends
    calls = Program(TELL)
    calls.call("openat", AT_FDCWD, bytes(tmp_path / "file"), os.O_RDONLY, 0, result=0)
    calls.call("dup3", 0, 50, 0)
    calls.call("fcntl", 50, 1, 0)  # F_GETFD
    calls.call("exit_group", 3)
    assert run(calls, theirs.fileno()) == 3


def test_a_result_is_kept(ends):
    ours, theirs = ends
    calls = Program(TELL)
    kept = calls.room(bytes(8))
    calls.call("umask", 0o77)
    calls.call("umask", 0, kept=kept)
    calls.call("write", TELL, kept, 8)
    calls.call("exit_group", 0)
    assert run(calls, theirs.fileno()) == 0
    assert int.from_bytes(ours.recv(8), "little") == 0o77


@pytest.mark.parametrize(
    ("first", "status"),
    [(("umask", 0), 2), (("dup3", 0, 50, 0), 1), (("dup3", 999, 50, 0), 3)],
)
def test_the_next_call_is_chosen_by_the_result(ends, first, status):
    """The umask was 0 before; dup3 gives 50, or EBADF."""
    _, theirs = ends
    calls = Program(TELL)
    calls.call("umask", 0)
    calls.call(*first, positive="positive", zero="zero", error="error")
    for number, label in enumerate(("positive", "zero", "error"), 1):
        calls.label(label)
        calls.call("exit_group", number)
    assert run(calls, theirs.fileno()) == status


def test_a_loop(ends):
    """Until nothing more comes."""
    ours, theirs = ends
    for _ in range(3):
        ours.send(b"more")
    ours.shutdown(socket.SHUT_WR)
    calls = Program(TELL)
    room = calls.room(bytes(8))
    calls.label("again")
    calls.call("sendto", TELL, b"heard", 5, 0, 0, 0)
    calls.call("recvfrom", TELL, room, 8, 0, 0, 0, positive="again")
    calls.call("exit_group", 0)
    assert run(calls, theirs.fileno()) == 0
    assert [ours.recv(9) for _ in range(4)] == [b"heard"] * 4


def test_what_failed_is_told(ends):
    ours, theirs = ends
    calls = Program(TELL)
    calls.step = "early"
    calls.may_fail("chdir", b"/nonexistent")
    calls.step = "late"
    calls.call("chdir", b"/nonexistent either", about=b"/nonexistent either")
    assert run(calls, theirs.fileno()) == 1
    packet = ours.recv(64)
    assert packet.startswith(program.FAILED)
    assert calls.failure(packet) == (2, "late", b"/nonexistent either")


def test_nobody_to_tell(ends):
    ours, theirs = ends
    calls = Program(TELL)
    calls.call("chdir", b"/nonexistent")
    ours.close()
    assert run(calls, theirs.fileno()) == 1


def test_whatever_the_numbers_are():
    """Where few descriptors are open, the program and what it is given stand in each other's
    places."""
    script = """if True:
        import os
        from vzpy.kernel.elf import start
        from vzpy.kernel.program import Program
        calls = Program(3)
        calls.call("fcntl", 4, 1, 0, error="missing")
        calls.call("fcntl", 5, 1, 0, error="missing")
        calls.call("exit_group", 4)
        calls.label("missing")
        calls.call("exit_group", 5)
        made = calls.load()
        assert made == 3, made
        fds = [os.open("/dev/null", os.O_RDWR), made, os.open("/", os.O_PATH)]
        print(os.waitpid(start(made, fds), 0)[1] >> 8)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "4\n", ran.stderr


def test_limits_of_somebody_who_may_less(ends):
    """The list is made where hard limits are higher than where it is run."""
    _, theirs = ends
    calls = Program(TELL)
    tasks.switch_on(calls, ((resource.RLIMIT_MEMLOCK, 1 << 41),), (1 << 40,) * 16)
    calls.call("exit_group", 0)
    assert run(calls, theirs.fileno()) == 0


def test_words_and_strings(ends):
    _, theirs = ends
    read, write = os.pipe()
    calls = Program(TELL)
    calls.call("dup3", GIVEN, 1, 0)
    argv = calls.pointers([b"sh", b"-c", b"echo $WORD"])
    calls.call("execve", b"/bin/sh", argv, calls.pointers([b"WORD=found"]))
    assert run(calls, theirs.fileno(), write) == 0
    os.close(write)
    assert os.read(read, 99) == b"found\n"
    os.close(read)


def test_a_second_list_is_written_while_the_first_one_waits(ends):
    ours, theirs = ends
    calls = Program(TELL)
    tasks.begin(calls, GIVEN, GIVEN + 1)
    tasks.wait_for_more(calls, GIVEN + 1)
    later = calls.second()
    pid = calls.start([theirs.fileno(), later.memory])
    theirs.close()
    later.step = "later"
    later.call("fcntl", GIVEN + 1, 1, 0)  # F_GETFD: what comes with the word
    later.call("write", TELL, Blank("who", 3, b"I am ", b"."), 9)
    later.call("chdir", b"/nonexistent", about=b"/nonexistent")
    later.write({"who": b"two"})
    assert later.memory == -1
    socket.send_fds(ours, [b"go on"], [0])
    assert ours.recv(99) == b"I am two."
    assert calls.failure(ours.recv(99)) == (errno.ENOENT, "later", b"/nonexistent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_second_list_that_never_comes(ends):
    ours, theirs = ends
    calls = Program(TELL)
    tasks.begin(calls, GIVEN, GIVEN + 1)
    tasks.wait_for_more(calls, GIVEN + 1)
    pid = calls.start([theirs.fileno(), calls.second().memory])
    calls.close()
    theirs.close()
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_list_is_made_once_and_filled_in_twice(ends):
    ours, theirs = ends
    first, second = Program(TELL), Program(TELL)
    first.call("write", TELL, Blank("who", 3), Number("length"))
    first.call("exit_group", 0)
    second.take(first)
    for calls, who, length in ((first, b"one", 3), (second, b"two", 2)):
        pid = calls.start([theirs.fileno()], {"who": who, "length": program.word(length)})
        assert os.waitpid(pid, 0)[1] == 0
        assert ours.recv(9) == who[:length]


def test_nothing_in_it_can_be_written_and_executed(ends):
    calls = Program(TELL)
    calls.call("exit_group", 0)
    fd = calls.load()
    segments = [os.pread(fd, 8, 64 + 56 * number) for number in range(3)]
    os.close(fd)
    read, write, execute = 4, 2, 1
    assert [int.from_bytes(segment[4:], "little") for segment in segments] == [
        read | execute, read | write, read | write
    ]


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_the_loop_of_another_machine(monkeypatch, tmp_path, machine):
    """By qemu's user emulation, where it is installed."""
    emulator = shutil.which(f"qemu-{machine}-static")
    if not emulator or platform.machine() != "x86_64":
        pytest.skip("no emulator")
    from vzpy.kernel import numbers

    words = numbers._TABLE
    others = {name: int(words[at + GENERIC]) for at, name in enumerate(words) if not at % 3}
    monkeypatch.setattr(program, "NR", others)
    uname = os.uname_result((*os.uname()[:4], machine))
    monkeypatch.setattr(os, "uname", lambda: uname)
    calls = Program(1)
    calls.call("write", 1, b"one\n", 4)
    calls.call("dup3", 999, 50, 0, error="")
    calls.call("umask", 0)
    calls.call("umask", 0, positive="wrong", zero="right")
    calls.label("wrong")
    calls.call("exit_group", 1)
    calls.label("right")
    calls.call("dup3", 1, 50, 0, result=0)
    calls.call("write", 0, b"two\n", 4)
    calls.call("chdir", b"/nonexistent", error="end")
    calls.label("end")
    calls.call("exit_group", 5)
    fd = calls.load()
    file = tmp_path / "program"
    file.write_bytes(os.pread(fd, 1 << 23, 0))
    os.close(fd)
    file.chmod(0o755)
    ran = subprocess.run([emulator, file], capture_output=True)
    assert (ran.returncode, ran.stdout) == (5, b"one\ntwo\n")
