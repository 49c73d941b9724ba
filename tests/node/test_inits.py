"""Halt, reboot and boot of every kind of init, with the programs that distributions ship."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

import pytest
import stores

import tools
from tools import needs, plant, sh, slow
from vzpy import events
from vzpy.errors import VzError
from vzpy.story import parent, ready, stop

pytestmark = needs("root")

TEMPLATES = {"busybox": "busybox-x86_64", "systemd": stores.DEBIAN, **stores.INITS}
REBOOT = {"openrc": ["openrc-shutdown", "-r", "now"]}
# How the table knows them; the name of a template says more.
KIND = {"openrc-sysvinit": "sysvinit"}
# Seconds that a halt may take on an idle machine.
LIMITS = {"systemd": 5}
IN_VM = os.environ.get("VZ_TEST_VM") == "1"

each_init = pytest.mark.parametrize(
    "kind",
    [
        "busybox",
        pytest.param("systemd", marks=needs("debian template")),
        *(pytest.param(k, marks=[needs(f"{t} template"), slow]) for k, t in stores.INITS.items()),
    ],
)


@pytest.fixture
def make(make_node, monkeypatch):
    """A VPS with that kind of init, child of the test: the wait status of init says how it ended,
    SIGINT a halt, SIGHUP a reboot."""
    monkeypatch.setattr(parent, "of", lambda *_: parent.Caller())

    def made(kind: str):
        store = None if kind == "busybox" else stores.debian_store(TEMPLATES[kind])
        return make_node(store).create(101, ostemplate=TEMPLATES[kind])

    return made


class Story:
    """A report, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[events.Event] = []

    def __call__(self, event: events.Event) -> None:
        self.heard.append(event)

    def __contains__(self, name: str) -> bool:
        return any(type(event).__name__ == name for event in self.heard)

    def ways(self) -> list[tuple[object, object]]:
        return [(e.kind, e.how) for e in self.heard if type(e).__name__ == "HaltBy"]


def start(vps) -> int:
    """Start and wait until it has booted; the pid of init."""
    story = Story()
    vps.start(wait=True, report=story)
    assert "Waiting" in story and "StartedFully" in story and "Started" not in story
    return vps.facts().pid


def end_of(vps, monkeypatch, **how) -> tuple[int, Story, float]:
    """Stop it: the signal by which init ended, what was told, seconds."""
    statuses: list[int] = []
    monkeypatch.setattr(stop, "reap", lambda pid: statuses.append(os.waitpid(pid, 0)[1]))
    story, began = Story(), time.monotonic()
    vps.stop(report=story, **how)
    assert "Stopped" in story
    return os.WTERMSIG(statuses[0]), story, time.monotonic() - began


def upper(vps, path: str) -> Path:
    """A file that was written inside, seen from the host."""
    return Path(vps.private, "upper", path)


TOLD = 'trap "echo > /root/told; exit" TERM; echo > /run/armed; while :; do sleep 0.1; done'


def leave_a_service(vps, kind: str) -> None:
    """A program that writes /root/told when it is asked to end."""
    if kind == "s6":
        sh(vps, f"mkdir /run/service/told; printf '#!/bin/sh\\n{TOLD}\\n' > /run/service/told/run;"
                " chmod 755 /run/service/told/run; s6-svscanctl -a /run/service")
    else:
        sh(vps, f"({TOLD}) > /dev/null 2>&1 &")
    tools.wait_for(lambda: vps.exec(["test", "-e", "/run/armed"]).returncode == 0)


@each_init
def test_halt(make, monkeypatch, kind):
    """In its own way: its programs are asked to end, and reboot(2) comes from inside."""
    vps = make(kind)
    start(vps)
    leave_a_service(vps, kind)
    sig, story, seconds = end_of(vps, monkeypatch)
    assert sig == signal.SIGINT
    assert "Killing" not in story
    assert {k for k, _ in story.ways()} == {KIND.get(kind, kind)}
    assert upper(vps, "root/told").exists()
    assert IN_VM or seconds < 3 * LIMITS.get(kind, 10)


@each_init
def test_halt_during_boot(make, monkeypatch, kind):
    vps = make(kind)
    vps.start()
    sig, story, seconds = end_of(vps, monkeypatch)
    assert sig == signal.SIGINT
    assert "Killing" not in story
    assert IN_VM or seconds < 3 * LIMITS.get(kind, 10)


@each_init
def test_halt_of_a_frozen_one(make, monkeypatch, kind):
    vps = make(kind)
    Path(vps.node.paths.conf, "101.stop").write_text("echo > /root/stop-script\n")
    start(vps)
    vps.suspend()
    sig, story, _ = end_of(vps, monkeypatch)
    assert sig == signal.SIGINT and "Killing" not in story
    assert upper(vps, "root/stop-script").exists()


@each_init
def test_fast(make, monkeypatch, kind):
    vps = make(kind)
    start(vps)
    sig, story, seconds = end_of(vps, monkeypatch, fast=True)
    assert sig == signal.SIGKILL
    assert "Killing" in story and "Stopping" not in story and not story.ways()
    assert IN_VM or seconds < 3


@each_init
def test_reboot_from_inside(make, kind):
    """Only to the parent of init, and only by this signal, it differs from a halt."""
    vps = make(kind)
    pid = start(vps)
    init = os.pidfd_open(pid)
    try:
        vps.exec(REBOOT.get(kind, ["reboot"]))
        assert select.select([init], [], [], 90)[0]
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGHUP
    finally:
        os.close(init)


@each_init
def test_container_variable(make, kind):
    """OpenRC and runit know a fixed list of names, and take another for a real machine (G2)."""
    vps = make(kind)
    start(vps)
    value = "lxc" if kind.startswith("openrc") or kind == "runit" else "vzpy"
    assert f"container={value}" in sh(vps, "tr '\\0' '\\n' < /proc/1/environ").splitlines()
    if kind.startswith("openrc"):
        assert sh(vps, "openrc --sys").strip() == "LXC"
    if kind == "systemd":
        assert sh(vps, "systemd-detect-virt --container || :").strip() == "container-other"


@each_init
def test_wait_is_until_the_last_script(make, kind):
    if kind == "s6":
        return  # Debian has no scripts for it
    vps = make(kind)
    slowly = "#!/bin/sh\nsleep 1\necho > /run/last\n"
    if kind == "systemd":
        unit = "[Service]\nType=oneshot\nExecStart=/usr/local/bin/slowly\n"
        plant(vps, "/usr/local/bin/slowly", slowly, 0o755)
        plant(vps, "/etc/systemd/system/slowly.service", unit)
        wants = "/etc/systemd/system/multi-user.target.wants/slowly.service"
        plant(vps, wants, link="../slowly.service")
    else:
        plant(vps, "/etc/rc.local", slowly, 0o755)
    start(vps)
    assert vps.exec(["test", "-e", "/run/last"]).returncode == 0


# Inits that are none of these


def scripted(make, script: str):
    vps = make("busybox")
    plant(vps, "/sbin/init", f"#!/bin/sh\n{script}\n", 0o755)
    return vps


def test_shell_that_sleeps(make, monkeypatch):
    """It hears nothing: its programs are asked to end, and the VPS ends as by a halt."""
    vps = scripted(make, f"({TOLD}) & while :; do sleep 1000; done")
    vps.start()
    tools.wait_for(lambda: vps.exec(["test", "-e", "/run/armed"]).returncode == 0)
    sig, story, seconds = end_of(vps, monkeypatch)
    assert sig == signal.SIGINT
    assert "Killing" not in story
    assert story.ways() == [("shell", "SIGTERM to all its processes and reboot(2)")]
    assert upper(vps, "root/told").exists()
    assert IN_VM or seconds < 30


def test_shell_that_waits_for_its_child(make, monkeypatch):
    vps = scripted(make, "sleep 1000 & wait; echo > /root/waited; exit 7")
    vps.start()
    _, story, _ = end_of(vps, monkeypatch)
    assert "Killing" not in story


def test_shell_with_a_trap(make, monkeypatch):
    vps = scripted(make, "trap 'echo > /root/bye; exit 0' TERM; while :; do sleep 0.1; done")
    vps.start()
    sig, story, seconds = end_of(vps, monkeypatch)
    assert sig == 0 and "Killing" not in story
    assert story.ways() == [("shell", "signal 15")]
    assert upper(vps, "root/bye").exists()
    assert IN_VM or seconds < 5


def test_one_that_ignores_all(node, vzctl):
    """It has handlers, which do nothing: killed after STOP_TIMEOUT."""
    vps = node.create(101)
    vps.set(stop_timeout=2)
    loop = "trap : HUP INT TERM USR1 USR2 PWR; while :; do sleep 0.1; done"
    plant(vps, "/sbin/init", f"#!/bin/sh\n{loop}\n", 0o755)
    vps.start()
    began = time.monotonic()
    done = vzctl("stop", 101)
    seconds = time.monotonic() - began
    assert done.code == 0
    assert done.stdout.splitlines() == [
        "Stopping container ...",
        "Killing container ...",
        "Container was stopped",
        "Container is unmounted",
    ]
    assert 2 <= seconds < 6 or IN_VM


def test_guest_that_stops_the_helper(make, monkeypatch):
    """A hostile guest halts whoever would end it from inside: it is killed all the same."""
    vps = scripted(
        make,
        "(trap '' TERM; while :; do for p in /proc/[0-9]*; do p=${p#/proc/};"
        ' [ $p -gt 1 -a $p != $$ ] && grep -q python /proc/$p/exe && kill -STOP $p; done; done) &'
        " while :; do sleep 1000; done",
    )
    vps.start()
    _, _, seconds = end_of(vps, monkeypatch)
    assert IN_VM or seconds < 40
    assert str(vps.status) == "exist unmounted down"


def test_stop_twice(vps, vzctl):
    vps.start()
    vps.stop()
    done = vzctl("stop", 101)
    assert (done.code, done.stdout, done.stderr) == (
        0, "", "Unable to stop: container is not running\n",
    )  # fmt: skip


# start --wait that does not succeed


def test_wait_texts(vps, vzctl):
    done = vzctl("start", 101, "--wait")
    assert done.code == 0
    assert done.stdout.splitlines()[-2:] == [
        "Container start in progress, waiting ...",
        "Container started successfully",
    ]


def test_wait_for_one_that_dies(node, vps, vzctl):
    plant(vps, "/etc/init.d/rcS", "#!/bin/sh\nsleep 0.5\npoweroff -f\n", 0o755)
    done = vzctl("start", 101, "--wait")
    assert done.code == 133
    assert done.stdout.splitlines()[-1] == "Container wait failed"
    assert "has ended before it had booted" in done.stderr
    tools.wait_for(lambda: str(node.vps(101).status) == "exist unmounted down")


def test_wait_for_one_that_dies_without_a_daemon(make):
    vps = make("busybox")
    plant(vps, "/etc/init.d/rcS", "#!/bin/sh\nsleep 0.5\npoweroff -f\n", 0o755)
    with pytest.raises(VzError) as caught:
        vps.start(wait=True)
    assert caught.value.code == 133
    assert str(vps.status) == "exist unmounted down"


def test_wait_that_takes_too_long(make, monkeypatch):
    """The VPS stays as it is."""
    vps = make("busybox")
    plant(vps, "/etc/init.d/rcS", "#!/bin/sh\nsleep 1000\n", 0o755)
    monkeypatch.setattr(ready, "LIMIT", 0.5)
    story = Story()
    with pytest.raises(VzError) as caught:
        vps.start(wait=True, report=story)
    assert caught.value.code == 133
    assert "WaitTimeout" in story and "StartedFully" not in story
    assert str(vps.status) == "exist mounted running"


def test_wait_for_an_unknown_init(make):
    vps = scripted(make, "while :; do sleep 1000; done")
    story = Story()
    vps.start(wait=True, report=story)
    warned = [str(e) for e in story.heard if type(e).__name__ == "Warned"]
    assert any("no way is known to tell when an init of kind shell" in text for text in warned)
    assert "StartedFully" in story


@needs("debian template")
def test_wait_for_maintenance(make):
    vps = make("systemd")
    plant(vps, "/etc/systemd/system/default.target", link="/lib/systemd/system/emergency.target")
    story = Story()
    with pytest.raises(VzError) as caught:
        vps.start(wait=True, report=story)
    assert caught.value.code == 133 and "maintenance" in str(caught.value)
    assert "WaitFailed" in story
