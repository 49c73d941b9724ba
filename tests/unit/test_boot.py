"""The boot service: who starts, in which order, what is remembered, what a crash left."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

from vzpy import config, events
from vzpy.errors import Exit, VzError
from vzpy.identity import Status
from vzpy.log import Log
from vzpy.model import NodePaths
from vzpy.story import boot


class VPS:
    """Stands for a VPS: its real configuration, and a start and stop that only remember."""

    done: list[tuple[str, int]]

    def __init__(self, node, ctid):
        self.node, self.ctid, self.up, self.mounted = node, ctid, False, False
        self.obeys = True
        self.config = node.config.vps(ctid, f"{node.paths.conf}/{ctid}.conf")

    def facts(self):
        return object() if self.up else None

    @property
    def status(self):
        return Status(True, self.mounted, self.up, False)

    def set(self, *, save, report, **limits):
        assert not save and self.up and list(limits.values()) in (["0"], ["2000"])

    def start(self, *, report):
        self.node.done.append(("start", self.ctid))
        if self.config.raw("DISABLED") == "yes":
            raise VzError("Container start disabled", Exit.VE_START_DISABLED)
        self.up = self.mounted = True

    def stop(self, *, fast, report):
        self.node.done.append(("kill" if fast else "stop", self.ctid))
        if fast or self.obeys:
            self.up = self.mounted = False

    def umount(self):
        self.node.done.append(("umount", self.ctid))
        self.mounted = False

    def settle(self, *, wait, report):
        pass


class Node:
    def __init__(self, tmp_path, **vpss):
        self.paths = NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))
        os.makedirs(self.paths.conf)
        (tmp_path / "lock").mkdir()
        (tmp_path / "etc/vz.conf").write_text(
            f'VIRTUOZZO="yes"\nLOCKDIR="{tmp_path}/lock"\nVE_PARALLEL="1"\n'
        )
        self.config = config.load_global(self.paths.etc)
        self.log = Log(None)
        self.done = []
        for name, text in vpss.items():
            (tmp_path / f"etc/conf/{name[1:]}.conf").write_text(text)
        self.vpss = [VPS(self, int(name[1:])) for name in vpss]

    def __iter__(self):
        return iter(self.vpss)

    def reboot(self):
        """All is gone but the disk."""
        for vps in self.vpss:
            vps.up = vps.mounted = False
        os.unlink(f"{self.paths.run}/service")


def told(node, act):
    lines = []
    code = act(node, lambda event: lines.append((event.level, str(event))))
    return code, lines


def test_who_starts_and_in_which_order(tmp_path):
    node = Node(
        tmp_path,
        n101='ONBOOT="yes"\n',
        n102='ONBOOT="yes"\nBOOTORDER="5"\n',
        n103='ONBOOT="no"\n',
        n104="",
        n105='ONBOOT="yes"\nBOOTORDER="10"\n',
        n106="",
    )
    os.makedirs(f"{node.paths.state}/vzreboot")
    for ctid in (103, 106, 999):
        open(f"{node.paths.state}/vzreboot/{ctid}", "w").close()
    code, lines = told(node, boot.start)
    assert code == 0
    assert [ctid for _, ctid in node.done] == [105, 102, 101, 106]
    assert (events.NORMAL, "Starting CT 105") in lines


def test_what_ran_comes_back(tmp_path):
    node = Node(tmp_path, n101="", n102='ONBOOT="yes"\n', n103='BOOTORDER="7"\n', n104="")
    for vps in node.vpss[:3]:
        vps.up = True
    assert told(node, boot.stop)[0] == 0
    assert node.done == [("stop", 101 + i) for i in (1, 0, 2)]
    node.done.clear()
    told(node, boot.start)
    assert [ctid for _, ctid in node.done] == [103, 101, 102]
    node.reboot()
    node.vpss[0].up = True  # somebody was quicker
    node.done.clear()
    told(node, boot.start)
    assert [ctid for _, ctid in node.done] == [103, 102]


def test_a_failure_stops_no_other(tmp_path):
    node = Node(tmp_path, n101='ONBOOT="yes"\nDISABLED="yes"\n', n102='ONBOOT="yes"\n')
    code, lines = told(node, boot.start)
    assert code == 0 and node.vpss[1].up
    assert (events.ERROR, "CT 101: Container start disabled") in lines


def test_one_that_does_not_halt_is_killed_in_the_third_round(tmp_path):
    node = Node(tmp_path, n101="", n102="")
    for vps in node.vpss:
        vps.up = True
    node.vpss[0].obeys = False
    assert told(node, boot.stop)[0] == 0
    assert node.done == [("stop", 102), ("stop", 101), ("stop", 101), ("kill", 101)]


def test_stop_unmounts_the_rest_and_status_tells(tmp_path):
    node = Node(tmp_path, n101='ONBOOT="yes"\n', n102="")
    assert told(node, boot.status) == (3, [(0, "OpenVZ is stopped.")])
    told(node, boot.start)
    assert told(node, boot.status) == (0, [(0, "OpenVZ is running...")])
    node.vpss[1].mounted = True
    told(node, boot.stop)
    assert node.done[-1] == ("umount", 102)
    assert told(node, boot.status)[0] == 3
    node.vpss[1].up = True  # by hand
    assert told(node, boot.status)[0] == 0


def test_no_support(tmp_path, monkeypatch):
    monkeypatch.setattr(boot, "_supported", lambda: False)
    text = "Running kernel is not an OpenVZ kernel"
    assert told(Node(tmp_path), boot.status) == (6, [(0, text)])


def test_first_start_of_a_boot_clears_what_a_crash_left(tmp_path):
    node = Node(tmp_path, n101="", n102="")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "lock/101.lck").write_text(f"{dead.pid}\n\n")
    (tmp_path / "lock/102.lck").write_text(f"{os.getpid()}\n\n")
    (tmp_path / "lock/103.lck").write_text(f"{os.getpid()}\n\n")
    long_ago = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 100
    os.utime(tmp_path / "lock/103.lck", (long_ago, long_ago))
    node.vpss[0].mounted = True
    told(node, boot.start)
    assert sorted(os.listdir(tmp_path / "lock")) == ["102.lck"]
    assert node.done == [("umount", 101)]
    node.vpss[0].mounted = True  # by `vzctl mount`, later
    told(node, boot.start)
    assert node.vpss[0].mounted


def test_some_at_a_time(tmp_path):
    node = Node(tmp_path, **{f"n{ctid}": 'ONBOOT="yes"\n' for ctid in range(1, 13)})
    node.config._layers[0].entries["VE_PARALLEL"] = ("3", 1)
    node.config._values.clear()
    now, most, lock = set(), [0], threading.Lock()

    def slow(self, *, report):
        with lock:
            now.add(self.ctid)
            most[0] = max(most[0], len(now))
        time.sleep(0.02)
        with lock:
            now.discard(self.ctid)

    original, VPS.start = VPS.start, slow
    try:
        told(node, boot.start)
    finally:
        VPS.start = original
    assert 1 < most[0] <= 3


def test_an_imported_file_that_says_no(tmp_path, monkeypatch):
    node = Node(tmp_path, n101='ONBOOT="yes"\n')
    with open(f"{node.paths.etc}/vz.conf", "a") as file:
        file.write("#")
    monkeypatch.setenv("VZ_ETC", node.paths.etc)
    monkeypatch.setenv("VZ_RUN", node.paths.run)
    path = tmp_path / "etc/vz.conf"
    path.write_text(path.read_text().replace('VIRTUOZZO="yes"', 'VIRTUOZZO="no"'))
    assert boot.run("start", events.silent) == 0
    assert not os.path.exists(f"{node.paths.run}/service")


@pytest.mark.parametrize("argv", [["start", "101"], ["status", "--x"]])
def test_usage(argv, capsys):
    from vzpy.commands import vz

    assert vz.main(argv) == 3
    assert capsys.readouterr().err == "Usage: vz {start|stop|status|restart|force-reload}\n"
