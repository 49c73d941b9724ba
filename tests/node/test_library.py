"""The library as scripts use it: silent, typed, in whatever process it finds itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tools
import vzpy
from vzpy import events
from vzpy.errors import (
    AlreadyRunning,
    ConfigError,
    Exit,
    Locked,
    NoSuchVPS,
    NotRunning,
    UsageError,
    ValueInvalid,
    VzError,
)


def test_what_is_public():
    from vzpy import VPS, Node

    assert {"Node", "VPS"} <= set(dir(vzpy)) | {"Node", "VPS"} and Node and VPS
    with pytest.raises(AttributeError):
        vzpy.nonsense  # noqa: B018


def test_it_prints_nothing(node, capfd):
    vps = node.create(101, hostname="a.example", name="one")
    vps.start()
    vps.exec(["sh", "-c", "echo out; echo err >&2"])
    vps.set(numproc=500)
    vps.suspend()
    vps.resume()
    vps.restart(fast=True)
    vps.stop(fast=True)
    vps.mount()
    vps.umount()
    with pytest.raises(VzError):
        vps.exec(["true"])
    vps.destroy()
    assert capfd.readouterr() == ("", "")


def test_events(node):
    seen: list[events.Event] = []
    vps = node.create(101, report=seen.append)
    vps.start(report=seen.append)
    vps.stop(fast=True, report=seen.append)
    vps.destroy(report=seen.append)
    kinds = [type(event).__name__ for event in seen]
    order = ["Creating", "Created", "Starting", "Mounted", "Started", "Killing", "Stopped",
             "Unmounted", "Destroying", "Destroyed"]  # fmt: skip
    assert [kind for kind in kinds if kind in order] == order
    assert all(isinstance(event, events.Event) and str(event) for event in seen)


def test_a_report_that_raises_stops_and_undoes(node):
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Mounted):
            raise KeyboardInterrupt

    vps = node.create(101)
    with pytest.raises(KeyboardInterrupt):
        vps.start(report=stop)
    assert str(vps.status) == "exist unmounted down"
    vps.start()


def test_errors(node):
    def code(call, *words, **kw) -> tuple[type, int]:
        with pytest.raises(VzError) as caught:
            call(*words, **kw)
        assert str(caught.value) and caught.value.message
        return type(caught.value), caught.value.code

    vps = node.vps(101)
    assert code(vps.start) == (NoSuchVPS, Exit.NOVECONFIG)
    assert code(node.create, 101, ostemplate="nope")[1] == Exit.OSTEMPLATE_NOT_FOUND
    assert code(node.create, 101, hostname="a b") == (ValueInvalid, 21)
    assert code(node.create, 101, nonsense=1) == (UsageError, 20)
    assert code(node.create, "no-such-name")[1] == 21
    vps = node.create(101)
    assert code(node.create, 101)[1] == Exit.FS_PRVT_AREA_EXIST
    assert code(vps.exec, ["true"]) == (NotRunning, Exit.VE_NOT_RUNNING)
    assert code(vps.umount)[1] == Exit.FS_NOT_MOUNTED
    vps.start()
    assert code(vps.start) == (AlreadyRunning, Exit.VE_RUNNING)
    assert code(vps.destroy) == (AlreadyRunning, Exit.VE_RUNNING)
    assert code(vps.exec, []) == (UsageError, 20)
    assert code(vps.exec, ["no-such"])[1] == Exit.FS_BAD_TMPL
    assert code(vps.set, numproc="x") == (ValueInvalid, 21)
    with vps.locked():
        assert code(vps.stop) == (Locked, Exit.LOCKED)
    assert code(vzpy.Node, etc="/no/such") == (ConfigError, Exit.NOCONFIG)


def test_an_error_carries_errno_and_step(node, monkeypatch):
    vps = node.create(101)
    monkeypatch.setenv("VZ_TEST_FAIL_AT", "child-root")
    with pytest.raises(VzError) as caught:
        vps.start()
    assert caught.value.errno == 5 and caught.value.step == "child-root"


def test_names_and_order(node):
    for ctid, name in ((300, "c"), (20, "b"), (101, "a")):
        node.create(ctid, name=name)
    assert [vps.ctid for vps in node] == [20, 101, 300]
    assert node.vps("b").ctid == 20 and node.vps(20).config.value("NAME") == "b"
    node.vps("b").set(name="z")
    assert node.vps("z").ctid == 20
    with pytest.raises(VzError):
        node.vps("b")


def test_two_nodes_side_by_side(make_node):
    one, two = make_node(), make_node()
    a, b = one.create(101), two.create(101, hostname="other.example")
    a.start()
    b.start()
    assert tools.sh(a, "hostname") == "vps101\n" and tools.sh(b, "hostname") == "other.example\n"
    assert a.running().cgroup != b.running().cgroup and a.uuid != b.uuid
    assert not a.ids.holds(b.ids.base)
    a.stop(fast=True)
    assert b.status.running and not a.status.running


def test_set_and_what_another_process_changed(node, vzctl):
    vps = node.create(101)
    vps.set(numproc=777, hostname="new.example")
    assert 'NUMPROC="777"' in Path(vps.conf_path).read_text()
    assert vzctl("set", 101, "--save", "--description", "by another").code == 0
    assert node.vps(101).config.value("DESCRIPTION") == "by another"
    vps.set(numproc=778)
    assert 'DESCRIPTION="by another"' in Path(vps.conf_path).read_text()


def test_a_process_that_ignores_its_children(node, vps):
    """It could not know how anything ended: told, not guessed."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for action in (vps.start, vps.mount, lambda: node.create(102)):
            with pytest.raises(VzError, match="ignores SIGCHLD"):
                action()
        assert str(vps.status) == "exist unmounted down"
    finally:
        signal.signal(signal.SIGCHLD, before)


# Each is put in front of a program that lives one VPS's life.
SURROUNDINGS = {
    "plain": "",
    "umask 077": "os.umask(0o077)",
    "no current folder": "os.mkdir('d'); os.chdir('d'); os.rmdir('../d')",
    "signals blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
    "no environment": "etc, run = os.environ['VZ_ETC'], os.environ['VZ_RUN'];"
                      " os.environ.clear(); os.environ.update(VZ_ETC=etc, VZ_RUN=run)",
    "no descriptors": "os.close(0), os.close(1), os.close(2)",
    "few descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4096))",
    "many descriptors": "fds = [os.open('/dev/null', 0) for _ in range(900)]",
    "high descriptors": "os.dup2(0, 1000, inheritable=True)",
    "a thread": "thread = True",
    "a fork": "pid = os.fork()\nif pid: os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
    "a handler that raises": "signal.signal(signal.SIGALRM, signal.SIG_DFL)",
    "low limits": "resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, -1));"
                  " resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "a subreaper": "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)",
    "optimized": "sys.flags.optimize or"
                 " os.execv(sys.executable, [sys.executable, '-OO', *sys.argv])",
}  # fmt: skip
LIFE = """
def life():
    from vzpy import Node
    node = Node()
    vps = node.create(101)
    vps.start()
    assert vps.status.running
    done = vps.exec(["sh", "-c", "umask; cat /proc/self/cwd 2>/dev/null; pwd; exit 3"])
    if (done.returncode, done.stdout) != (3, b"0022\\n/\\n"):
        raise SystemExit(f"{done}")
    vps.restart(fast=True)
    vps.stop(fast=True)
    vps.destroy()

if globals().get("thread"):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(life).result()
else:
    life()
os._exit(0)
"""


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_in_any_process(node, tmp_path, name):
    program = tmp_path / "life.py"
    program.write_text(f"import os, resource, signal, sys\n{SURROUNDINGS[name]}\n{LIFE}")
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run,
           "PYTHONPATH": str(tools.ROOT)}  # fmt: skip
    done = subprocess.run([sys.executable, program], env=env, cwd=tmp_path, capture_output=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    assert list(node) == []
    for path in (node.paths.conf, node.paths.names):
        assert os.stat(path).st_mode & 0o777 == 0o755
