"""vzctl snapshot and its sisters (vzctl-cli 2.12, migrate.md 4)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from belongings import furnish, picture

import tools
from tools import sh
from vzpy import config, ids, rootfs
from vzpy.story import snapshot, states

GUID = "{11111111-2222-3333-4444-555555555555}"


@pytest.fixture(params=["overlay", "simfs"])
def vps(request, node):
    return node.create(101, layout=request.param)


@pytest.fixture(params=["overlay", "simfs", "image"])
def any_vps(request, node):
    return node.create(101, layout=request.param, diskspace="64M")


def write(vps, text: str, path: str = "/data") -> None:
    """Into a stopped VPS, as its own root would."""
    vps.start()
    sh(vps, f"echo {text} > {path}")
    vps.stop(fast=True)


def read(vps, path: str = "/data") -> str:
    vps.start()
    try:
        return sh(vps, f"cat {path} 2>/dev/null || echo none").strip()
    finally:
        vps.stop(fast=True)


def test_back_and_forth(any_vps):
    """A tree of states: each comes back as it was, whatever was done on the others."""
    vps = any_vps
    write(vps, "one")
    one = vps.snapshot(name="one")
    write(vps, "two")
    two = vps.snapshot(name="two")
    write(vps, "three")
    vps.snapshot_switch(one)
    assert read(vps) == "one"
    write(vps, "other")
    other = vps.snapshot()
    vps.snapshot_switch(two)
    assert read(vps) == "two"
    vps.snapshot_switch(other)
    assert read(vps) == "other"
    assert {s.guid: (s.parent, s.current) for s in vps.snapshots()} == {
        one: ("", False), two: (one, False), other: (one, True),
    }  # fmt: skip
    vps.snapshot_delete(one)
    vps.snapshot_switch(two)
    assert read(vps) == "two"
    vps.snapshot_delete(two)
    vps.snapshot_delete(other)
    assert read(vps) == "two" and not vps.snapshots()
    assert not leftovers(vps)
    assert not os.path.exists(f"{states.of(vps).store}/Snapshots.xml")


def leftovers(vps) -> list[str]:


    return sorted(os.listdir(states.of(vps).folder))


def test_of_a_running_vps(any_vps):
    vps = any_vps
    vps.start()
    sh(vps, "echo one > /data; mkdir /d; echo x > /d/x; ln /d/x /d/y; mkfifo /d/fifo")
    guid = vps.snapshot()
    assert vps.status.running
    sh(vps, "echo two > /data; rm -r /d; rm /etc/passwd")
    vps.snapshot_switch(guid)
    assert vps.status.running  # it was, then
    assert sh(vps, "cat /data; ls /d; stat -c %h /d/x; ls /etc/passwd") == (
        "one\nfifo\nx\ny\n2\n/etc/passwd\n"
    )


def test_mount(any_vps, tmp_path):
    vps = any_vps
    write(vps, "one")
    guid = vps.snapshot()
    write(vps, "two")
    vps.start()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        vps.snapshot_mount(guid, str(tmp_path / folder))
    assert (tmp_path / "a/data").read_text() == "one\n"
    assert (tmp_path / "b/data").read_text() == "one\n"
    with pytest.raises(OSError, match="Read-only"):
        (tmp_path / "a/data").write_text("three")
    assert sh(vps, "cat /data") == "two\n"
    vps.snapshot_umount(guid)
    assert not os.listdir(tmp_path / "a") and not os.listdir(tmp_path / "b")


def test_depth_is_bounded(node):
    """Layers do not pile up, and nothing is lost in them: whiteouts, opaque directories."""
    vps = node.create(101)
    guids = []
    for number in range(13):
        vps.start()
        sh(vps, f"echo {number} > /f{number}; rm -f /f{number - 2}; rm -rf /d; mkdir /d;"
                f" echo {number} > /d/{number}; rm -rf /etc/init.d; mkdir -p /etc/init.d")
        vps.stop(fast=True)
        guids.append(vps.snapshot())
    assert len(rootfs.layers_of(vps.private)) <= states.DEEPEST
    for number in (12, 3, 10, 0):
        vps.snapshot_switch(guids[number])
        vps.start()
        assert sh(vps, "cat /d/*; ls / | grep -c '^f[0-9]'; ls /etc/init.d").split() == [
            str(number), str(min(number + 1, 2)),
        ]  # fmt: skip
        vps.stop(fast=True)
    for guid in guids[:-1]:
        vps.snapshot_delete(guid)
    vps.snapshot_switch(guids[-1])
    assert len(rootfs.layers_of(vps.private)) == 1  # what the last one is made of
    assert read(vps, "/d/12") == "12"


def test_another_range_of_ids(vps):
    """A configuration that gets other ids: the snapshots go with the rest."""
    write(vps, "one")
    guid = vps.snapshot()
    write(vps, "two")
    vps.snapshot()
    other = ids.Registry().allocate(vps.owner)
    base = str(other.base)
    config.save(vps.conf_path, {"LOCAL_UID": base, "LOCAL_GID": base})
    vps.reload()
    assert read(vps) == "two"
    vps.snapshot_switch(guid)
    assert read(vps) == "one"
    vps.start()
    assert sh(vps, "stat -c %u /data").strip() == "0"
    vps.stop(fast=True)


def test_configuration(vps):
    vps.set(description="before", numproc=100)
    guid = vps.snapshot()
    vps.set(description="after", numproc=200)
    base = vps.ids.base
    vps.snapshot_switch(guid)
    assert vps.config.own("DESCRIPTION") == "before" and vps.ids.base == base
    vps.set(description="after")
    vps.snapshot_switch(guid, skip_config=True)
    assert vps.config.own("DESCRIPTION") == "after"


# Cut at every step


KILL, FAIL = "VZ_TEST_STOP_AT", "VZ_TEST_FAIL_AT"
BOTH = pytest.mark.parametrize("how", [KILL, pytest.param(FAIL, marks=tools.slow)])


class Witness:
    """A VPS whose file /data says what each state is."""

    def __init__(self, vps, folder) -> None:
        self.vps, self.folder = vps, folder
        self.said: dict[str, str] = {}  # snapshot -> what its /data says

    def say(self, text: str) -> None:
        self.vps.mount()
        Path(self.vps.root, "data").write_text(text)
        Path(self.vps.root, f"only-{text}").write_text(text)
        self.vps.umount()

    def now(self) -> str:
        self.vps.mount()
        try:
            return Path(self.vps.root, "data").read_text()
        finally:
            self.vps.umount()

    def keep(self, text: str) -> str:
        self.say(text)
        guid = self.vps.snapshot()
        self.said[guid] = text
        return guid

    def check(self) -> None:
        """Each snapshot shows what it did, and the tree of them is whole."""
        found = {one.guid for one in self.vps.snapshots()}
        assert found == set(self.said)
        for guid, text in self.said.items():
            self.vps.snapshot_mount(guid, str(self.folder))
            assert (self.folder / "data").read_text() == text
            assert (self.folder / f"only-{text}").exists()
            self.vps.snapshot_umount(guid)


@pytest.fixture
def witness(vps, tmp_path):
    return Witness(vps, tmp_path)


def cut(vps, how: str, step: str, *words) -> bool:
    """Whether the step was reached."""
    action, *rest = words
    ran = tools.run_tool(vps.node, ("vzctl", action, 101, *rest), env={how: step})
    assert "Traceback" not in ran.stderr, ran
    vps.reload()
    return ran.code != 0 or "Input/output error" in ran.stderr or "fault asked" in ran.stderr


@BOTH
def test_create_is_cut(witness, how):
    reached = set()
    witness.keep("a")
    for step in snapshot.STEPS:
        witness.say(step)
        if cut(witness.vps, how, step, "snapshot"):
            reached.add(step)
        assert witness.now() == step
        new = {one.guid for one in witness.vps.snapshots()} - set(witness.said)
        witness.said |= dict.fromkeys(new, step)
        witness.check()
    assert {"prepare", "journal", "moves", "files", "journal-end"} <= reached


@BOTH
def test_switch_is_cut(witness, how):
    guid = witness.keep("a")
    reached = set()
    for step in snapshot.STEPS:
        witness.say(step)
        if cut(witness.vps, how, step, "snapshot-switch", "--id", guid):
            reached.add(step)
        assert witness.now() in ("a", step)
        (one,) = witness.vps.snapshots()
        assert set(leftovers(witness.vps)) - {"stack"} == set(one.layers), step
        witness.check()
        witness.vps.snapshot_switch(guid)
        assert witness.now() == "a"
    assert {"prepare", "journal", "moves", "move", "stack", "file", "journal-end"} <= reached
    (one,) = witness.vps.snapshots()
    assert set(leftovers(witness.vps)) - {"stack"} == set(one.layers)


@BOTH
def test_delete_is_cut(witness, how):
    witness.keep("a")
    reached = set()
    for step in snapshot.STEPS:
        guid = witness.keep("b")
        witness.keep("c")
        witness.say(step)
        if cut(witness.vps, how, step, "snapshot-delete", "--id", guid):
            reached.add(step)
        assert witness.now() == step
        left = {one.guid for one in witness.vps.snapshots()}
        for gone in set(witness.said) - left:
            assert gone == guid
            del witness.said[gone]
        witness.check()
    assert {"prepare", "journal", "file", "journal-end"} <= reached
    if witness.vps.layout == "overlay":
        assert {"merge", "collect"} <= reached


@BOTH
def test_running_is_cut(any_vps, how):
    """Whatever becomes of us, a VPS that stands still goes on."""
    vps = any_vps
    steps = ("draft", "copy", "journal", "files")
    vps.start()
    sh(vps, "echo one > /data")
    for step in steps[vps.layout == "image" :]:  # of an image no first copy is made
        assert cut(vps, how, step, "snapshot", "--skip-suspend")
        assert sh(vps, "cat /data") == "one\n"
    guid = vps.snapshot(skip_suspend=True)
    vps.stop(fast=True)
    write(vps, "two")
    vps.snapshot_switch(guid)
    assert not vps.status.running  # it was not to be resumed
    assert read(vps) == "one"


def test_texts(vzctl, node, tmp_path):
    """vzctl-cli 2.12, word for word."""
    one = node.create(101)
    other = "{22222222-2222-3333-4444-555555555555}"
    xml = f"{one.private}/Snapshots.xml"

    def out(*words, code=0, err=""):
        ran = vzctl(*words)
        assert (ran.code, ran.stderr) == (code, err), ran
        return ran.stdout

    header = f"{'PARENT_UUID':<38} C {'UUID':<38} {'DATE':<19} {'NAME':<32}\n"
    assert out("snapshot-list", 101) == header
    assert out("snapshot", 101, "--id", GUID[1:-1].upper(), "--name", "a b") == (
        f"Creating snapshot {GUID}\nStoring {xml}\n"
        f"Snapshot {GUID} has been successfully created\n"
    )
    assert out("snapshot", 101, "--id", GUID, code=21,
               err=f"Invalid guid {GUID} specified: already exists\n") == ""
    out("snapshot", 101, "--id", other, "--name", "c", "--description", "d e")
    rows = out("snapshot-list", 101, "-H").splitlines()
    assert re.fullmatch(rf"{'':38}   {GUID} \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d a b", rows[0])
    assert rows[1].startswith(f"{GUID} * {other} ") and rows[1].endswith(" c")
    assert out("snapshot-list", 101, "-H", "-o", "UUID,desc") == f"{GUID} \n{other} d e\n"
    assert out("snapshot-list", 101, "-H", "-o", "uuid", "--id", other) == f"{other}\n{GUID}\n"
    assert out("snapshot-list", 101, "-H", "-o", "uuid", "--id", GUID) == f"{GUID}\n"
    out("snapshot-list", 101, "-o", "wings", code=21, err="Unknown field: wings\n")
    out("snapshot-list", 101, "--id", "5", code=21, err="Invalid guid is specified: 5\n")
    none = "{33333333-2222-3333-4444-555555555555}"
    out("snapshot-list", 101, "--id", none, code=21,
        err=f"Can't find snapshot by uuid {none}\n")
    assert out("snapshot-list", 101, "-L").splitlines()[:2] == [
        "parent_uuid     PARENT_UUID    ", "current         C              "]
    out("snapshot-switch", 101, "--id", none, code=159,
        err=f"Unable to find snapshot by uuid {none}\n")
    out("snapshot-switch", 101, "--id", GUID, "--must-resume", code=159,
        err="Error: no dump in snapshot, unable to resume\n")
    out("snapshot-switch", 101, "--id", GUID, "--must-resume", "--skip-resume", code=20,
        err="Invalid syntax: --skip-resume and --must-resume can not be used together\n")
    assert out("snapshot-switch", 101, "--id", GUID) == (
        f"Switching to snapshot {GUID}\n"
        "Container has been successfully switched to another snapshot\n"
    )
    assert out("snapshot-mount", 101, "--id", GUID, "--target", tmp_path) == (
        f"Mounting snapshot {GUID} to {tmp_path}\n"
    )
    assert out("snapshot-list", 101, "-H", "-o", "target", "--id", GUID) == f"{tmp_path}\n"
    ran = vzctl("snapshot-delete", 101, "--id", GUID)
    assert (ran.code, ran.stdout) == (158, "") and str(tmp_path) in ran.stderr
    ran = vzctl("destroy", 101)
    assert (ran.code, one.config.exists) == (41, True)
    assert out("snapshot-umount", 101, "--id", GUID) == f"Umounting snapshot {GUID}\n"
    out("snapshot-umount", 101, "--id", GUID, code=161, err=f"Snapshot {GUID} is not mounted\n")
    out("snapshot-mount", 101, "--id", GUID, code=20,
        err="Invalid syntax: mount target is missing\n")
    ran = vzctl("snapshot-mount", 101, "--id", GUID, "--target", "/nonexistent")
    assert ran.code == 160 and "/nonexistent" in ran.stderr
    assert out("snapshot-delete", 101, "--id", GUID) == (
        f"Deleting snapshot {GUID}\nSnapshot {GUID} has been successfully deleted\n"
    )
    out("snapshot-delete", 101, "--id", GUID, code=158,
        err=f"Unable to find snapshot by uuid {GUID}\n")


def test_broken_list(vzctl, node):
    """What somebody did to Snapshots.xml is told, with the path, and nothing is lost."""
    one = node.create(101)
    guid = one.snapshot()
    path = Path(one.private, "Snapshots.xml")
    text = path.read_text()
    for broken in ("", "x", text[:-20], text.replace(guid, "{1}"),
                   text.replace("<Layers>", "<Layers>../../etc:")):  # fmt: skip
        path.write_text(broken)
        for words, code in ((("snapshot-list", 101), 167), (("snapshot", 101), 156),
                            (("snapshot-switch", 101, "--id", guid), 159)):  # fmt: skip
            ran = vzctl(*words)
            assert ran.code == code and str(path) in ran.stderr, ran
            assert "Traceback" not in ran.stderr
        assert vzctl("start", 101).code == 0 and vzctl("stop", 101, "--fast").code == 0
    path.write_text(text)
    one.snapshot_switch(guid)


def test_deleted_while_running(node):
    """The layers of a mounted overlay stay; the next start merges them."""
    vps = node.create(101)
    write(vps, "one")
    guid = vps.snapshot()
    vps.start()
    sh(vps, "echo two > /other")
    vps.snapshot_delete(guid)
    assert sh(vps, "cat /data /other") == "one\ntwo\n"
    vps.stop(fast=True)
    assert rootfs.layers_of(vps.private)
    vps.start()
    assert not rootfs.layers_of(vps.private) and not leftovers(vps)
    assert sh(vps, "cat /data /other") == "one\ntwo\n"


def test_everything(vps):
    """Each file of a furnished VPS comes back as it was, of the running one too."""
    furnish(vps)
    before = picture(vps)
    guid = vps.snapshot()
    vps.start()
    sh(vps, "rm /home/one/plain; echo x > /etc/group; mkdir /bin/ls")
    second = vps.snapshot(skip_suspend=True)
    sh(vps, "mv /etc/passwd /etc/passed")
    vps.stop(fast=True)
    vps.snapshot_switch(guid)
    after = picture(vps)
    assert {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)} == set()
    vps.snapshot_delete(guid)
    vps.snapshot_switch(second)
    vps.start()
    assert sh(vps, "ls -d /bin/ls /etc/passwd; cat /etc/group; ls /home/one/plain || true") == (
        "/bin/ls\n/etc/passwd\nx\n"
    )
