"""The bed of the benches: a throw-away node, a plain cgroup2, timing of commands and calls.

All happens in a mount namespace of its own, in which /sys/fs/cgroup is cgroup2 and nothing else:
crun and runc take a hybrid tree for cgroup v1, which knows no delegation. What a peer leaves
running, its monitors too, lives below one cgroup, which is killed at the end."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vzpy import bundling, cgroups, ids, nodesetup, template
from vzpy.errors import VzError
from vzpy.events import silent
from vzpy.kernel import mount as m
from vzpy.kernel import proc, process
from vzpy.model import NodePaths
from vzpy.node import Node

ROOT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TEMPLATE = "busybox-x86_64"
TIMEOUT = 60.0  # seconds, for any command


def lacking(why: str) -> NoReturn:
    """End a bench that cannot run here; others go on."""
    print(f"left out: {why}")
    sys.exit(77)  # the exit status of a test that is skipped (automake)


class Failed(Exception):
    """A command did not do what it was asked."""


@dataclass(frozen=True)
class Sample:
    """Milliseconds: by the clock, and of processor time in user and kernel mode."""

    wall: float
    cpu: float


class Bed:
    """A context; everything it made is gone afterwards, whatever happened in it."""

    def __enter__(self) -> Bed:
        if os.geteuid():
            sys.exit("needs root")
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        with ExitStack() as undo:
            self._mounts()
            self.folder = tempfile.mkdtemp(prefix="vzpy-bench-", dir="/var/tmp")
            undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
            os.chmod(self.folder, 0o755)
            self.run = f"{self.folder}/run"  # state, ours and theirs: /run is a tmpfs elsewhere too
            m.mount("none", self._made(self.run), "tmpfs", 0)
            undo.callback(m.umount2, self.run, m.MNT_DETACH)
            self._install(undo)
            self.cgroup = f"vzpy-bench-{os.getpid()}"
            self._move_into_cgroup(undo)
            self.node = self._node()
            self.env = {
                "PATH": PATH, "LANG": "C.UTF-8", "HOME": self.folder,
                "VZ_ETC": self.node.paths.etc, "VZ_RUN": self.node.paths.run,
            }  # fmt: skip
            self._stderr = f"{self.folder}/stderr"
            undo.callback(self._clear_node)
            self.tree = self._bind_tree(undo)
            self.undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.undo.close()

    @staticmethod
    def _mounts() -> None:
        process.unshare(process.CLONE_NEWNS)
        m.mount("none", "/", "none", m.MS_REC | m.MS_PRIVATE)
        m.umount2("/sys/fs/cgroup", m.MNT_DETACH)
        m.mount("none", "/sys/fs/cgroup", "cgroup2", 0)

    @staticmethod
    def _made(folder: str) -> str:
        os.mkdir(folder, 0o755)
        return folder

    def _install(self, undo: ExitStack) -> None:
        """The tools of this checkout as `make install` makes them."""
        python = "/usr/bin/python3"
        undo.callback(Path(bundling.FILE).unlink, missing_ok=True)
        words = [python, "-ISX", "no_debug_ranges", f"{bundling.PACKAGE}/bundling.py"]
        subprocess.run(words, check=True)
        lib = Path(self._made(f"{self.folder}/lib"))
        for there in (ROOT / "vzpy", *Path(sysconfig.get_path("purelib")).iterdir()):
            if not (lib / there.name).exists():
                (lib / there.name).symlink_to(there)
        text = (ROOT / "tools/launcher.in").read_text().replace("@LIB@", str(lib))
        launcher = Path(self._made(f"{self.folder}/sbin"), "launcher")
        launcher.write_text(text)
        launcher.chmod(0o755)
        for tool in (ROOT / "bin").iterdir():
            launcher.with_name(tool.name).hardlink_to(launcher)

    def _move_into_cgroup(self, undo: ExitStack) -> None:
        top = f"{cgroups.mountpoint()}/{self.cgroup}"
        before = proc.slurp("/proc/self/cgroup").decode().rpartition("0::")[2].strip()
        os.makedirs(f"{top}/self")
        undo.callback(cgroups.remove, top)
        cgroups.write(f"{top}/self", "cgroup.procs", "0")
        undo.callback(cgroups.write, cgroups.mountpoint() + before, "cgroup.procs", "0")

    def _node(self) -> Node:
        paths = NodePaths.of(f"{self.folder}/etc", self._made(f"{self.run}/vz"))
        nodesetup.setup(paths, f"{self.folder}/vz")
        return Node(etc=paths.etc, run=paths.run)

    def _bind_tree(self, undo: ExitStack) -> str:
        """The template's tree where the ids of a peer's container may reach it."""
        made = template.ensure_tree(str(self.node.config.raw("TEMPLATE")), TEMPLATE, silent)
        tree = f"{self.folder}/tree"
        os.mkdir(tree)
        m.mount(os.path.realpath(made), tree, "none", m.MS_BIND)
        undo.callback(m.umount2, tree, m.MNT_DETACH)
        return tree

    def _clear_node(self) -> None:
        for vps in self.node:
            try:
                vps.stop(fast=True)
                vps.destroy()
            except (VzError, OSError) as err:
                print(f"{vps}: {err}", file=sys.stderr)
        self.command([self.tool("vzeventd"), "--stop"], check=False)
        top = f"{cgroups.mountpoint()}/{self.node.paths.cgroup}"
        cgroups.remove(top)
        for target in reversed(proc.mounts_below(f"{self.folder}/vz")):
            m.umount2(target, m.MNT_DETACH)
        end = time.monotonic() + 10  # the remover of private areas works in the background
        staging = f"{self.folder}/vz/vztmp"
        while os.path.isdir(staging) and os.listdir(staging) and time.monotonic() < end:
            time.sleep(0.05)
        owner = ids.Owner(self.node.paths.etc, 1, f"{self.folder}/private")
        ids.Registry().allocate(owner)  # who wants a range clears out what is dead
        ids.Registry().free(owner)

    # What is measured

    def tool(self, name: str) -> str:
        return f"{self.folder}/sbin/{name}"

    def command(self, words: list[str], check: bool = True, stdout: str = os.devnull) -> Sample:
        """Run a command to its end, with nothing on its streams that a container could hold open.

        Raises Failed, with the last line of its standard error, unless it exits with 0."""
        null, write = os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        files = [
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout, write, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, self._stderr, write, 0o600),
        ]
        began = time.perf_counter()
        pid = os.posix_spawnp(words[0], words, self.env, file_actions=files)
        fd = os.pidfd_open(pid)
        try:
            late = not select.select([fd], [], [], TIMEOUT)[0]
            if late:
                process.pidfd_send_signal(fd, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
        finally:
            os.close(fd)
        wall = time.perf_counter() - began
        if check and (late or status):
            raise Failed(self._why(words, status, late))
        return Sample(wall * 1e3, (used.ru_utime + used.ru_stime) * 1e3)

    def _why(self, words: list[str], status: int, late: bool) -> str:
        what = " ".join(os.path.basename(word) for word in words[:8])
        with open(self._stderr, errors="replace") as f:
            said = [line for line in f.read().splitlines() if line.strip()]
        how = "hangs" if late else f"exit status {os.waitstatus_to_exitcode(status)}"
        return f"{what}: {how}" + (f": {said[-1]}" if said else "")

    def output(self, words: list[str]) -> str:
        """The same, and what it wrote."""
        path = f"{self.folder}/stdout"
        self.command(words, stdout=path)
        with open(path, errors="replace") as f:
            return f.read()


def call(function: Callable[[], object]) -> Sample:
    """Time a call in this process, and the processes that it waits for."""
    used = _cpu()
    began = time.perf_counter()
    function()
    wall = time.perf_counter() - began
    return Sample(wall * 1e3, (_cpu() - used) * 1e3)


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def say(*words: object) -> None:
    print(*words, flush=True)


def keep(figures: dict[str, object], path: str | None) -> None:
    """Write all figures where --json asks for them."""
    if path:
        with open(path, "w") as file:
            json.dump(figures, file, indent=1)


def run_bench(main: Callable[[], object]) -> None:
    """The whole of a bench; control-c ends it without a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
