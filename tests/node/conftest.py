"""The bed of the node suite: throw-away nodes in a mount namespace of their own.

node      a Node in folders of its own, with the embedded template at hand
vps       number 101 of it, created
cli       runs a tool of the checkout as a process: cli("vzctl", "start", 101)
vzctl     the same for vzctl: vzctl("start", 101)
up, run   one that runs for all tests of a file, and vzctl for it
make_node makes more nodes
parent    "daemon", "caller": runs the test twice, with the node daemon and without
After every test everything that a VPS is made of has to be gone again."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import abilities
import pytest
import traces
from wire import Lan, Net

import tools
from vzpy import (
    cgroups,
    config,
    devices,
    filecount,
    ids,
    lockcount,
    nodesetup,
    socketcount,
    tablelimit,
    template,
)
from vzpy.errors import VzError
from vzpy.events import silent
from vzpy.kernel import mount as m
from vzpy.lockfile import Flock
from vzpy.model import IdRange, NodePaths
from vzpy.node import Node


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(*abilities): skipped, by name, where one is missing")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs"):
        abilities.require(*mark.args)


def pytest_runtest_logreport(report):
    """In the virtual machine a run takes minutes: why a test failed is told at once."""
    if report.failed and os.environ.get("VZ_TEST_VM") == "1":
        print(f"\n{report.nodeid}\n{report.longreprtext}", file=sys.__stdout__, flush=True)


def pytest_sessionstart(session):
    if os.environ.get("VZ_TEST_VM") == "1":
        hooks = session.config.stash[_HOOKS] = ExitStack()
        hooks.enter_context(kept_hooks())


def pytest_sessionfinish(session):
    if hooks := session.config.stash.get(_HOOKS, None):
        hooks.close()


_HOOKS = pytest.StashKey[ExitStack]()


@contextmanager
def kept_hooks():
    """Each hook that programs of ours are attached to has one for the whole session, so that the
    kernel does not rewrite its own text when tests attach the first and remove the last. Emulators
    fail there: QEMU 7.2 with threads goes on to execute what has just been replaced (seen: both
    processors for ever in an int3 of which nothing was in memory any more)."""
    path = f"{cgroups.mountpoint()}/vz-hooks"
    os.makedirs(f"{path}/ve")
    with suppress(OSError):  # a kernel without programs of that kind: its tests will say so
        devices.leave_open(path)
        tablelimit.change(path, {"NUMIPTENT": 1})
        socketcount.change(path, {"NUMTCPSOCK": 1, "NUMOTHERSOCK": 1})
        filecount.change(path, IdRange(1 << 30), {"NUMFILE": 1})
        lockcount.change(path, IdRange(1 << 30), {"NUMFLOCK": 1})
    try:
        yield
    finally:
        os.removedirs(f"{path}/ve")


class Bed:
    """A folder for the nodes of one session, on a mount of its own: what vzctl puts at the root of
    the file system, it puts there."""

    def __init__(self) -> None:
        tools.CACHE.mkdir(parents=True, exist_ok=True)
        with Flock(str(tools.CACHE / ".sweep.lock")):  # what is not locked yet looks abandoned
            _sweep()
            self.folder = tempfile.mkdtemp(prefix="node-", dir=tools.CACHE)
            self.lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        traces.private_mounts()
        m.mount(self.folder, self.folder, "none", m.MS_BIND)
        self.template = f"{self.folder}/template"
        self.network = Net()
        with self.network:  # else each start with an address tells that it is off
            for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path(f"/proc/sys/net/{switch}").write_text("1")
        self.cgroups: dict[str, bool] = {}
        self._count = 0
        os.makedirs(f"{self.template}/cache")
        template.ensure_tree(self.template, "busybox-x86_64", silent)

    def node(self, template_dir: str | None = None) -> Node:
        self._count += 1
        where = f"{self.folder}/{self._count}"
        paths = NodePaths.of(f"{where}/etc", f"{where}/run")
        self.cgroups[paths.cgroup] = True
        nodesetup.setup(paths, f"{where}/vz")
        config.save(f"{paths.etc}/vz.conf", {"TEMPLATE": template_dir or self.template})
        return Node(etc=paths.etc, run=paths.run)

    def clear(self, node: Node) -> None:
        """Take a node down as its administrator would. Raises when that does not work, or leaves
        something, having removed it by force."""
        problems = []
        try:
            for vps in node:
                try:
                    _end(vps)
                except (VzError, OSError) as err:
                    problems.append(f"{vps}: {err!r}")
            if os.path.exists(node.paths.socket):
                done = tools.run_tool(node, ("vzeventd", "--stop"))
                # 3: it had nothing to do any more and has ended by itself meanwhile
                if done.code and (done.code != 3 or os.path.exists(node.paths.socket)):
                    problems.append(f"vzeventd --stop: {done}")
            problems += traces.leftovers(node)
            root = f"{cgroups.mountpoint()}/{node.paths.cgroup}"
            problems += [f"{root}/{n.name}" for n in Path(root).glob("*/")]
        finally:
            self.cgroups[node.paths.cgroup] = False
            traces.clear_cgroup(node.paths.cgroup)
            traces.remove_tree(os.path.dirname(node.paths.etc))
        assert not problems, "\n".join(problems)

    def close(self) -> None:
        m.umount2(self.folder, m.MNT_DETACH)
        traces.remove_tree(self.folder)
        os.close(self.lock)
        self.network.close()
        _prune_ranges(self.folder)


def _end(vps) -> None:
    if vps.facts():
        vps.stop(fast=True)
    vps.settle()
    if vps.status.mounted:
        vps.umount()
    vps.destroy()


def _sweep() -> None:
    """Remove what sessions left that were killed."""
    for folder in tools.CACHE.glob("node-*"):
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another session has just ended
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for etc in folder.glob("*/etc"):
                traces.clear_cgroup(NodePaths.of(str(etc)).cgroup)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # another session
        finally:
            os.close(fd)


def _prune_ranges(folder: str) -> None:
    """The registry forgets dead entries when the next range is wanted: want one."""
    owner = ids.Owner(f"{folder}/etc", 1, f"{folder}/private")
    ids.Registry().allocate(owner)
    ids.Registry().free(owner)


@pytest.fixture(scope="session")
def bed():
    abilities.require("root")
    made = Bed()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def leaks(request):
    """Fails a test that leaves something behind."""
    if "bed" not in request.fixturenames:
        yield
        return
    bed = request.getfixturevalue("bed")
    if not request.node.get_closest_marker("network"):
        # What a test does to the network, it does to one of the session's own.
        bed.network.__enter__()
        request.addfinalizer(lambda: bed.network.__exit__())
    before = traces.Traces(bed.folder, bed.cgroups)
    yield
    end = time.monotonic() + 10 * tools.PATIENCE
    # The remover of private areas works in the background, and what was killed takes its time.
    while left := traces.Traces(bed.folder, bed.cgroups).since(before):
        if time.monotonic() > end or not any(x.startswith(("process", "to be")) for x in left):
            pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
        time.sleep(0.02)


@pytest.fixture
def make_node(leaks, bed):
    with ExitStack() as made:

        def make(template_dir: str | None = None) -> Node:
            node = bed.node(template_dir)
            made.callback(bed.clear, node)
            return node

        yield make


@pytest.fixture
def node(make_node):
    return make_node()


@pytest.fixture
def lan(leaks):
    """The node is on an Ethernet with a neighbour (wire.py); to be asked for before `node`."""
    made = Lan()
    with made.node:
        yield made
    made.close()


@pytest.fixture
def vps(node):
    return node.create(101)


@pytest.fixture(params=["daemon", "caller"])
def parent(request, node):
    """The test runs with the node daemon as parent of every init, and without one."""
    if request.param == "caller":
        with tools.no_daemon(node):
            yield request.param
    else:
        yield request.param


@pytest.fixture
def cli(node):
    def run(*words, **kw) -> tools.Ran:
        return tools.run_tool(node, words, **kw)

    return run


@pytest.fixture
def vzctl(cli):
    def run(*words, **kw) -> tools.Ran:
        return cli("vzctl", *words, **kw)

    return run


@pytest.fixture(scope="module")
def up(bed):
    """A running VPS for all tests of a file that only look."""
    node = bed.node()
    vps = node.create(101)
    vps.start()
    yield vps
    bed.clear(node)


@pytest.fixture
def run(up):
    """vzctl for that one: run("exec", 101, "true")."""

    def run(*words, **kw) -> tools.Ran:
        return tools.run_tool(up.node, ("vzctl", *words), **kw)

    return run


@pytest.fixture
def small(tmp_path):
    """A file system of 8 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", point])
    if done.returncode:
        pytest.skip("needs to mount a tmpfs")
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.fixture
def no_mount_is_left(tmp_path):
    yield
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
