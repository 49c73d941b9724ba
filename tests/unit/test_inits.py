"""The table of inits: how one is recognised, and how asking goes on until it halts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from vzpy import inits
from vzpy.kernel import process


class Fake:
    """A VPS whose init takes what it is told to take; its clock runs only while it is waited for.

    catches, reads  signals, each from a second on
    takes   commands -> exit status, each from a second on
    ends    seconds from being asked in a way it takes to its end"""

    def __init__(self, kind="unknown", catches=(), reads=(), takes=(), ends=1.0, age=100.0):
        self.name, self.ends, self.born = kind, ends, -age
        self.caught, self.read, self.taken = dict(catches), dict(reads), dict(takes)
        self.files: dict[str, float] = {}
        self.now = 0.0
        self.over = float("inf")
        self.asked: list[tuple[float, object]] = []

    def kind(self):
        return self.name

    def age(self):
        return self.now - self.born

    def catches(self, sig):
        return self.caught.get(sig, float("inf")) <= self.now

    def reads(self, sig):
        return self.read.get(sig, float("inf")) <= self.now

    def signal(self, sig):
        self.note(sig)
        self.over = min(self.over, self.now + self.ends)

    def has(self, path):
        return self.files.get(path, float("inf")) <= self.now

    def run(self, words):
        self.note(words)
        status, since = self.taken.get(words, (127, 0))
        if status == 0 and since <= self.now:
            self.over = min(self.over, self.now + self.ends)
        return status

    def by_hand(self, seconds):
        self.note("by hand")
        self.now += seconds
        self.over = self.now

    def gone(self, seconds):
        self.now = max(self.now, min(self.now + max(seconds, 0), self.over))
        return self.over <= self.now

    def tell(self, kind, how):
        pass

    def note(self, way):
        self.asked.append((round(self.now, 2), way))


@pytest.fixture
def ask(monkeypatch):
    def run(vps: Fake, timeout=120.0) -> bool:
        class Clock:
            monotonic = staticmethod(lambda: vps.now)

        monkeypatch.setattr(inits, "time", Clock)
        return inits.ask(vps, timeout)

    return run


HALT, OFF = ("halt",), ("poweroff",)


def test_a_signal_that_is_heard(ask):
    vps = Fake("procd", catches={12: 0}, ends=50)
    assert ask(vps)
    assert vps.asked == [(0, 12)] and vps.now == 50


def test_a_signal_that_may_have_been_lost(ask):
    """Blocked is not read yet: it is sent again."""
    vps = Fake("systemd", reads={37: 0}, ends=50)
    assert ask(vps)
    assert [at for at, _ in vps.asked] == [0, 2, 6, 14, 30] and vps.now == 50


def test_a_shell_that_blocks_a_signal(ask):
    vps = Fake("shell", reads={15: 0}, age=0)
    vps.caught[15] = 3.0
    assert ask(vps)
    assert len(vps.asked) == 1 and vps.asked[0][0] >= 3


def test_a_signal_that_is_heard_but_not_obeyed(ask):
    """Nothing else is tried: an orderly shutdown may take as long as it is given."""
    vps = Fake("shell", catches={15: 0}, ends=500)
    assert not ask(vps)
    assert vps.asked == [(0, 15)] and vps.now == 120


def test_an_init_that_has_just_been_started(ask):
    """No signal is sent before its handler is there."""
    vps = Fake("systemd", reads={37: 3}, age=0)
    assert ask(vps)
    assert len(vps.asked) == 1 and 3 <= vps.asked[0][0] < 3.6


def test_ways_in_order(ask):
    vps = Fake("unknown", takes={OFF: (0, 0)})
    assert ask(vps)
    assert vps.asked == [(0, HALT), (0, OFF)]


@pytest.mark.parametrize(("status", "taken"), [(0, True), (1, True), (2, False), (127, False)])
def test_exit_status_of_halt(ask, status, taken):
    """halt(8) sometimes returns 1 but still stops."""
    vps = Fake("unknown", takes={HALT: (status, 99), OFF: (0, 0)}, ends=0.5)
    ask(vps, timeout=1)
    assert ((0, OFF) in vps.asked) is not taken


def test_a_command_is_given_again_ever_less_often(ask):
    vps = Fake("runit", takes={("init", "0"): (0, 13)})
    assert ask(vps)
    assert [at for at, _ in vps.asked] == [0, 2, 6, 14]


def test_a_halt_that_is_under_way_is_left_alone(ask):
    """Once it was taken: no command works any more, and still nothing is done by hand."""
    vps = Fake("runit", takes={("init", "0"): (0, 0)}, ends=60)
    real = vps.run

    def run(words):
        return real(words) if vps.now < 1 else 126

    vps.run = run
    assert ask(vps)
    assert vps.asked == [(0, ("init", "0"))] and vps.now == 60


def test_a_command_that_needs_a_listener(ask):
    vps = Fake("openrc", takes={("openrc-shutdown", "-p", "now"): (0, 0)}, age=0)
    vps.files["/run/openrc/init.ctl"] = 3.0
    assert ask(vps)
    assert len(vps.asked) == 1 and 3 <= vps.asked[0][0] < 3.6


def test_a_script_becomes_another_init(ask):
    vps = Fake("shell", takes={HALT: (0, 0)}, age=0)
    real = vps.gone

    def gone(seconds):
        vps.name = "s6" if vps.now > 1 else "shell"
        return real(seconds)

    vps.gone = gone
    assert ask(vps)
    assert [way for _, way in vps.asked] == [HALT]


def test_a_dumb_init_is_helped(ask):
    vps = Fake("shell")
    assert ask(vps)
    assert vps.asked == [(0, "by hand")] and vps.now == 5


def test_a_dumb_init_that_may_still_wake_up(ask):
    vps = Fake("shell", age=0)
    assert ask(vps)
    assert vps.asked[0][1] == "by hand" and 5 < vps.asked[0][0] < 5.6


def test_no_longer_than_the_timeout(ask):
    for vps in (Fake("unknown", takes={HALT: (1, 0)}), Fake("systemd", age=0)):
        assert not ask(vps, timeout=30)
        assert vps.now == pytest.approx(30)


# By looking


@pytest.fixture
def tree(tmp_path):
    """A root directory to put files, links (targets begin with ->) and programs in."""

    def make(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str) and content.startswith("->"):
                path.symlink_to(content[2:])
            elif isinstance(content, str):
                path.write_text(content)
            else:
                content(path)
        fd = os.open(tmp_path, os.O_PATH)
        try:
            return inits.kind_in_tree(fd), inits.uses_openrc(fd)
        finally:
            os.close(fd)

    return make


ELF = "\x7fELF"
SCRIPT = "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"sbin__init": "->/lib/systemd/systemd", "lib__systemd__systemd": ELF}, "systemd"),
        ({"sbin__init": "->../bin/busybox", "bin__busybox": ELF}, "busybox"),
        ({"sbin__init": "->openrc-init", "sbin__openrc-init": ELF}, "openrc"),
        ({"sbin__init": "->/lib/runit/runit-init", "lib__runit__runit-init": ELF}, "runit"),
        ({"sbin__init": ELF, "sbin__telinit": "->init"}, "sysvinit"),
        ({"sbin__init": ELF, "sbin__procd": ELF}, "procd"),
        ({"sbin__init": SCRIPT, "etc__s6-linux-init__current": ""}, "s6"),
        ({"sbin__init": SCRIPT}, "shell"),
        ({"sbin__init": "->/bin/dash", "bin__dash": ELF}, "shell"),
        ({"sbin__init": ELF}, "unknown"),
        ({"etc__init": SCRIPT}, "shell"),
        ({"bin__init": "->busybox", "bin__busybox": ELF}, "busybox"),
        ({"sbin__init": os.mkfifo}, "unknown"),
        ({"sbin__init": os.mkdir}, "unknown"),
        ({"sbin__init": ""}, "unknown"),
        ({"sbin__init": "->/sbin/init"}, "unknown"),
        ({"sbin__init": "->../../../../../../usr/bin/python3"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_kind_in_tree(tree, files, kind):
    assert tree(**files) == (kind, False)


def test_uses_openrc(tree):
    assert tree(sbin__init=ELF, sbin__telinit="->init", sbin__openrc=ELF) == ("sysvinit", True)


@pytest.mark.parametrize("kind", ["sysvinit", "unknown", "shell"])
def test_kind_of_a_program_that_tells_nothing(kind):
    """python3 is no init: the tree decides, except that a script is not what runs any more."""
    assert inits.kind_of_pid(os.getpid(), kind) == ("unknown" if kind == "shell" else kind)


@pytest.mark.parametrize(("in_tree", "kind"), [("unknown", "shell"), ("s6", "s6")])
def test_kind_of_a_shell(in_tree, kind):
    with subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE) as shell:
        while "python" in os.readlink(f"/proc/{shell.pid}/exe"):
            time.sleep(0.01)
        assert inits.kind_of_pid(shell.pid, in_tree) == kind
        shell.kill()


def test_kind_of_nobody():
    assert inits.kind_of_pid(2**22 + 1, "runit") == "runit"
    assert not inits.catches(2**22 + 1, 15)
    assert not inits.reads(2**22 + 1, 15)


PROGRAM = """
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print(flush=True)
if sys.argv[1] == "wait":
    signal.sigtimedwait([signal.SIGTERM], 100)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["read", "wait"])
def test_catches_and_reads(how):
    command = [sys.executable, "-c", PROGRAM, how]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as child:
        child.stdout.readline()
        end = time.monotonic() + 5
        while inits.in_sigtimedwait(child.pid) != (how == "wait") and time.monotonic() < end:
            time.sleep(0.01)
        assert inits.catches(child.pid, signal.SIGUSR1)
        assert not inits.catches(child.pid, signal.SIGUSR2)
        assert inits.reads(child.pid, signal.SIGUSR2), "blocked"
        assert inits.reads(child.pid, signal.SIGTERM), "blocked, or waited for"
        assert inits.reads(child.pid, signal.SIGHUP) == (how == "wait"), "nobody can tell"
        assert not inits.catches(child.pid, signal.SIGHUP), "ignored"
        child.kill()


def test_all_kinds_are_in_the_table():
    kinds = {*inits._PROGRAMS.values(), *inits._BESIDE.values(), "unknown"}
    assert kinds == set(inits.INITS)
    for init in inits.INITS.values():
        assert init.halt and init.container in ("vzpy", "lxc")
        assert process.SIGKILL not in init.halt


