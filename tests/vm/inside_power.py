"""Runs inside the virtual machine: python3 -m tests.vm.inside_power NUMBER ROUNDS

Boot NUMBER checks what the power cut of the boot before has left, and brings every VPS to the
point where the next cut comes. On each disk a node has one VPS for each story; a tool is killed at
a step of the story, and the machine a little later. Nothing is written back meanwhile but what
vzpy itself demands.

What has to be true after a cut: the next start works; the quota counts what is there and no more,
and has the old or the new limits; the present state is the old or the new one; each snapshot that
is listed is what it was taken of, to the last byte."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(HERE / "tests/node")]

import tools  # noqa: E402  # the helpers of the node suite
from vzpy import config, nodesetup, template  # noqa: E402
from vzpy.backup import Job  # noqa: E402
from vzpy.events import silent  # noqa: E402
from vzpy.kernel import quotactl as q  # noqa: E402
from vzpy.model import NodePaths  # noqa: E402
from vzpy.node import Node  # noqa: E402
from vzpy.quotaid import Quota  # noqa: E402
from vzpy.vps import VPS  # noqa: E402

CUT = "@the power goes@"
MIB = 1 << 20
OPTIONS = "usrquota,grpquota,prjquota"
ARCHIVED = 90  # the VPS that the archive is of
SIZES = (40 << 10, 50 << 10)  # KiB, before and after `set`
CREATE = ("--layout", "simfs", "--diskspace", "40M:40M")
UNDECIDED = ("copy", "journal")  # steps of snapshots before their journal is there

# story -> its number, layout, the VPS runs, words of the command, steps of which each round has one
# (""): it is cut when it is done, and has to be so).
STORIES: dict[str, tuple[int, str, bool, tuple[str, ...], tuple[str, ...]]] = {
    "start": (101, "overlay", False, ("start",), ("quota-limit", "quota-file", "go")),
    "set": (102, "simfs", True, ("set", "--diskspace", "50M:50M", "--save"),
            ("quota-limit", "", "quota-file")),
    "stop": (103, "overlay", True, ("stop", "--fast"),
             ("quota-saved", "quota-unlimit", "umount-root")),
    "snapshot": (104, "overlay", False, ("snapshot",), ("", "move", "journal-end")),
    "running": (105, "simfs", True, ("snapshot", "--skip-suspend"), ("journal", "", "files")),
    "image": (106, "image", False, ("snapshot",), ("file", "copy", "")),
    "back": (107, "overlay", False, ("snapshot-switch", "--id", "GUID"), ("move", "stack", "")),
    "back-simfs": (108, "simfs", False, ("snapshot-switch", "--id", "GUID"),
                   ("moves", "", "copy")),
    "restore": (109, "simfs", False, (), ("", "private", "config")),
    "create": (110, "simfs", False, ("create", *CREATE), ("", "quota-file", "private")),
}  # fmt: skip
KEPT = {name for name in STORIES if name not in ("restore", "create")}


def main() -> None:
    number, rounds = map(int, sys.argv[1:])
    disks = list(zip(("ext4", "xfs"), os.environ["VZ_TEST_DISKS"].split()))
    for fstype, device in disks:
        mount(fstype, device, fresh=number == 0)
    # The registries of the machine, which is to remember them.
    os.makedirs("/srv/ext4/lib", exist_ok=True)
    os.makedirs("/var/lib/vzctl", exist_ok=True)
    subprocess.run(["mount", "--bind", "/srv/ext4/lib", "/var/lib/vzctl"], check=True)
    # Nothing goes to the disk by itself.
    Path("/proc/sys/vm/dirty_writeback_centisecs").write_text("0")
    Path("/proc/sys/vm/dirty_expire_centisecs").write_text("360000")
    beds = [Bed(fstype) for fstype, _ in disks]
    if number:
        at_once([bed.check for bed in beds], number - 1)
    if number < rounds:
        at_once([bed.prepare for bed in beds], number)
        os.sync()
        at_once([bed.act for bed in beds], number)
        print(CUT, flush=True)
        time.sleep(60)
        raise AssertionError("the power is still there")


def mount(fstype: str, device: str, fresh: bool) -> None:
    where = f"/srv/{fstype}"
    os.makedirs(where)
    if fresh and fstype == "ext4":
        features = ["-O", "project,quota", "-E", "quotatype=usrquota:grpquota:prjquota"]
        subprocess.run(["mkfs.ext4", "-qF", *features, device], check=True)
    elif fresh:
        subprocess.run(["mkfs.xfs", "-qf", device], check=True)
    subprocess.run(["mount", "-o", OPTIONS, device, where], check=True)


def at_once(calls: list[Callable[[int], None]], number: int) -> None:
    """All of them, each in a thread; the first failure is raised."""
    failed: list[BaseException] = []

    def run(call: Callable[[int], None]) -> None:
        try:
            call(number)
        except BaseException as err:
            failed.append(err)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def text_of(said: str) -> str:
    """What /data holds: enough that a page cache has some of it."""
    return f"{said}\n" * (200_000 // (len(said) + 1))


class Bed:
    """A node on one disk."""

    def __init__(self, fstype: str) -> None:
        self.fstype, self.where = fstype, f"/srv/{fstype}"
        self.paths = NodePaths.of(f"{self.where}/etc", f"/run/{fstype}")
        if not os.path.exists(f"{self.where}/etc"):
            nodesetup.setup(self.paths, f"{self.where}/vz")
            config.save(f"{self.paths.etc}/vz.conf", {"TEMPLATE": f"{self.where}/template"})
            os.makedirs(f"{self.where}/template/cache")
        store = f"{self.where}/template"
        self.template = template.ensure_tree(store, "busybox-x86_64", silent)
        self.node = Node(etc=self.paths.etc, run=self.paths.run)
        # No daemon with the environment of a tool that is to be killed.
        self.tool("vzeventd")

    def say(self, what: str) -> None:
        print(f"{time.monotonic():.1f} {self.fstype}: {what}", flush=True)

    def tool(self, *words: object, step: str = "", may_fail: bool = False) -> tools.Ran:
        env = {"VZ_TEST_STOP_AT": step} if step else {}
        ran = tools.run_tool(self.node, words, env=env)
        assert "Traceback" not in ran.stderr, ran
        if step:
            assert ran.code == -9, (words, step, ran)
        else:
            assert may_fail or ran.code == 0, (words, ran)
        return ran

    # Before a cut

    def prepare(self, number: int) -> None:
        if number == 0:
            self.make(ARCHIVED, "simfs")
            self.node.vps(ARCHIVED).dump(Job(mode="stop", dumpdir=self.where))
        for name in sorted(KEPT):
            ctid, layout, runs, _, _ = STORIES[name]
            if number == 0:
                self.make(ctid, layout)
            vps = self.node.vps(ctid)
            for one in vps.snapshots():
                vps.snapshot_delete(one.guid)
            self.put(vps, f"old {number}")
            if "GUID" in STORIES[name][3]:
                vps.snapshot()
            if name == "set":
                self.tool("vzctl", "set", ctid, "--diskspace", "40M:40M", "--save")
            if runs:
                vps.start()

    def make(self, ctid: int, layout: str) -> None:
        vps = self.node.create(ctid, layout=layout, diskspace="40M:40M", diskinodes="2000:2000")
        self.put(vps, "old 0")

    def put(self, vps: VPS, said: str) -> None:
        """Into /data, without the guest's writing it back."""
        if vps.facts():
            tools.sh(vps, "cat >/data", stdin=text_of(said).encode())
            return
        vps.mount()
        Path(vps.root, "data").write_text(text_of(said))
        top = os.stat(vps.root)
        os.chown(f"{vps.root}/data", top.st_uid, top.st_gid)
        vps.umount()

    def act(self, number: int) -> None:
        """Each story as far as its step of this round."""
        plan = {}
        for name, (ctid, _, _, words, steps) in STORIES.items():
            step, vps = steps[number % len(steps)], self.node.vps(ctid)
            if name in KEPT:
                self.put(vps, f"new {number}")
            if name == "restore":
                self.tool("vzrestore", self.archive(), ctid, step=step)
            else:
                guid = vps.snapshots()[0].guid if "GUID" in words else ""
                rest = (guid if word == "GUID" else word for word in words[1:])
                self.tool("vzctl", words[0], ctid, *rest, step=step)
            plan[name] = step
            self.say(f"{name}: {step or 'done'}")
        plan_file = Path(self.where, "plan")
        with open(plan_file, "w") as file:
            json.dump(plan, file)
            file.flush()
            os.fsync(file.fileno())

    def archive(self) -> Path:
        (found,) = Path(self.where).glob(f"vzdump-openvz-{ARCHIVED}-*.tar")
        return found

    # After it

    def check(self, number: int) -> None:
        plan = json.loads(Path(self.where, "plan").read_text())
        for name, step in plan.items():
            self.say(f"{name}, cut at {step or 'its end'}")
            ctid = STORIES[name][0]
            if name not in KEPT:
                self.check_new(name, ctid, step)
                continue
            vps = self.node.vps(ctid)
            self.tool("vzctl", "start", ctid)
            vps.reload()
            self.check_state(vps, name, number, step)
            if vps.layout != "image":
                self.check_quota(vps, name, step)
            self.check_snapshots(vps, name, number, step)
            self.tool("vzctl", "stop", ctid, "--fast")

    def check_new(self, name: str, ctid: int, step: str) -> None:
        """There, and whole, or not there, and made by the next try."""
        conf = Path(self.paths.conf, f"{ctid}.conf")
        assert conf.exists() or step, f"{name} was done, and is not there"
        if not conf.exists():
            if name == "restore":
                self.tool("vzrestore", self.archive(), ctid)
            else:
                self.tool("vzctl", "create", ctid, *CREATE)
        vps = self.node.vps(ctid)
        self.tool("vzctl", "start", ctid)
        if name == "restore":
            assert tools.sh(vps, "cat /data") == text_of("old 0")
        for path in Path(self.template).rglob("*"):
            copy = Path(vps.private, path.relative_to(self.template))
            assert path.is_symlink() or copy.stat().st_size or not path.stat().st_size, copy
        self.check_quota(vps, name, step)
        self.tool("vzctl", "stop", ctid, "--fast")
        self.tool("vzctl", "destroy", ctid)

    def check_state(self, vps: VPS, name: str, number: int, step: str) -> None:
        found = tools.sh(vps, "cat /data")
        old, new = text_of(f"old {number}"), text_of(f"new {number}")
        if step in UNDECIDED or name in ("start", "set", "stop"):
            return  # what a guest has not written back may be lost
        expected = old if name.startswith("back") else new
        assert found == expected, (name, step, found[:20], len(found))

    def check_quota(self, vps: VPS, name: str, step: str) -> None:
        file = Quota(vps.ctid, self.paths.quota_file(vps.ctid))
        size = int(tools.sh(vps, "df -kP / | tail -n 1").split()[1])
        if name != "set" or not step:
            assert size == SIZES[name == "set"], (name, step, size)
        assert size in SIZES, (name, step, size)
        assert file.load("stat").space.hard == size

        def is_right() -> bool:
            os.sync()
            found = file.stat()
            used = (found.space.used, found.inodes.used)
            return used == counted(vps.private, found.project)

        tools.wait_for(is_right, 1, f"the use of {name} is right")  # its init is still at work

    def check_snapshots(self, vps: VPS, name: str, number: int, step: str) -> None:
        listed = vps.snapshots()
        if name in ("snapshot", "running", "image"):
            assert len(listed) == (step not in UNDECIDED), (name, step)
            said = f"new {number}"
        elif name.startswith("back"):
            assert len(listed) == 1
            said = f"old {number}"
        else:
            assert not listed
        for one in listed:
            where = f"/run/{self.fstype}-snapshot"
            os.makedirs(where, exist_ok=True)
            vps.snapshot_mount(one.guid, where)
            try:
                assert Path(where, "data").read_text() == text_of(said), (name, step)
            finally:
                vps.snapshot_umount(one.guid)


def counted(path: str, project: int) -> tuple[int, int]:
    """Bytes and inodes of what is in a project, below a directory that is in it."""
    used, seen = 0, set()

    def add(about: os.stat_result) -> None:
        nonlocal used
        if about.st_ino not in seen:
            seen.add(about.st_ino)
            used += about.st_blocks * 512

    for _, folders, files, fd in os.fwalk(path):
        if q.fsgetxattr(fd)[1] == project:
            add(os.fstat(fd))
            for name in (*files, *folders):
                about = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISDIR(about.st_mode):
                    add(about)
    return used, len(seen)


if __name__ == "__main__":
    main()
