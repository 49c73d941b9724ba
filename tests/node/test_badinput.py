"""What users do wrong: told what, where and with the contract's code; nothing is changed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import traces

import tools
from vzpy.errors import VzError
from vzpy.node import Node

BAD_CTIDS = ["-1", "2147483645", "99999999999999999999", "a/b", "../101", "..", "", " 101", "101x",
             "1e2", "0x65", "bob", "101\n", "١٠١", "\udcff", "+101", "101.conf", "--",
             "*"]  # fmt: skip

# words, exit code, stderr (its end)
WORDS = [
    ("create 102 --ostemplate nope", 91, "nope.tar[.gz|.bz2|.xz] not found\n"),
    ("create 102 --ostemplate ../../etc/passwd", 21,
     "Bad parameter for --ostemplate: ../../etc/passwd\n"),
    ("create 102 --layout zfs", 21, "Bad parameter for --layout: zfs\n"),
    ("create 102 --private relative/x", 21, "Bad parameter for --private: relative/x\n"),
    ("create 102 --private /", 21, "=/: the absolute path of a folder of its own is needed\n"),
    ("create 102 --root /", 21, "=/: the absolute path of a folder of its own is needed\n"),
    ("create 102 --config nope", 82, "Sample config ETC/conf/ve-nope.conf-sample not found\n"),
    ("create 102 --name a/b", 21, "Bad parameter for --name: a/b\n"),
    ("create 102 --name ../x", 21, "Bad parameter for --name: ../x\n"),
    ("create 102 --hostname $(reboot)", 21, "Bad parameter for --hostname: $(reboot)\n"),
    ("create 102 --local_uid 0", 21, "Bad parameter for --local_uid: 0\n"),
    ("create 102 --local_uid 5", 21, "Bad parameter for --local_uid: 5\n"),
    ("create 102 --local_uid 4294967295", 21, "Bad parameter for --local_uid: 4294967295\n"),
    ("create 102 --local_ids 99999", 21, "Bad parameter for --local_ids: 99999\n"),
    ("create 102 --bogus", 21, "vzctl: unrecognized option '--bogus'\n"),
    ("create 102 x", 20, "Invalid extra arguments: x \n"),
    ("create 101", 44, "Private area already exists in VZ/private/101\n"),
    ("start 101 --bogus", 20, "vzctl: unrecognized option '--bogus'\n"),
    ("start 101 x y", 20, "Invalid extra arguments: x y \n"),
    ("start 102", 14, "Container config file does not exist\n"),
    ("destroy 101 x", 20, "Invalid options: x \n"),
    ("stop 101 --wait", 20, "Option --wait is not applicable to stop command\n"),
    ("bogus 101", 20, "Bad command: bogus\n"),
    ("start", 21, "CT ID missing\n"),
    ("--bogus start 101", 20, "Bad command: --bogus\n"),
    ("set 101 --save --numproc x", 21, "Bad parameter for --numproc: x\n"),
    ("set 101 --save --ram 1Q", 21, "Bad parameter for --ram: 1Q\n"),
    ("runscript 101 /no/such/script", 11, "Script not found: /no/such/script\n"),
    ("exec 0 true", 21, "Only set actions are allowed for CT0\n"),
    ("start 0", 21, "Only set actions are allowed for CT0\n"),
]  # fmt: skip


def photo(node) -> dict[str, object]:
    """Everything in the folders of a node but the log and the lock of its quotas: path -> what it
    is."""
    top = os.path.dirname(node.paths.etc)
    found: dict[str, object] = {}
    for path in Path(top).rglob("*"):
        if path.name not in ("vzctl.log", "vzquota", ".lock"):
            is_file = path.is_file() and not path.is_symlink() and "private" not in path.parts
            found[str(path)] = path.read_bytes() if is_file else path.lstat().st_ino
    return found


def change(path: str, key: str, value: str) -> None:
    """Give a parameter of a configuration another value, or its first."""
    text = Path(path).read_text()
    text = re.sub(f"(?m)^{key}=.*\n", "", text) + f"{key}={value}\n"
    Path(path).write_text(text)


@pytest.mark.parametrize("action", ["create", "start", "stop", "destroy", "status", "exec", "set"])
def test_bad_ids(node, vps, vzctl, action):
    before = photo(node)
    for word in BAD_CTIDS:
        ran = vzctl(action, word)
        assert (ran.code, ran.stdout, ran.stderr) == (21, "", f"Bad CT ID {word}\n")
    assert photo(node) == before


def test_bad_ids_of_the_library(node):
    for word in (*BAD_CTIDS, -1, 2147483645, 1.5, None):
        with pytest.raises(VzError) as caught:
            node.vps(word)
        assert caught.value.code == 21


def test_the_last_number(node):
    vps = node.create(2147483644)
    vps.start()
    assert tools.sh(vps, "hostname") == "vps2147483644\n"
    assert vps.status.running


def test_number_0_is_the_host(node):
    Path(node.paths.conf, "0.conf").write_text("")
    vps = node.vps(0)
    for action in (vps.create, vps.start, vps.stop, vps.destroy, vps.mount):
        with pytest.raises(VzError) as caught:
            action()
        assert caught.value.code == 21
    assert os.path.exists(vps.conf_path)


def test_words(node, vps, vzctl):
    """One node for all: none of them may change it."""
    before = photo(node)
    for line, code, text in WORDS:
        ran = vzctl(*line.split())
        text = text.replace("ETC", node.paths.etc).replace(
            "VZ", os.path.dirname(node.config.raw("LOCKDIR")))
        tail = "Creation of container private area failed\n"
        assert ran.code == code and ran.stderr.removesuffix(tail).endswith(text), (line, ran)
        assert photo(node) == before, line


# what of N.conf is changed, exit code of start, end of stderr
CONFIGS = [
    ("NUMPROC", '"abc"', 0, '101.conf:{line}: invalid value for NUMPROC ("abc"), skipped'),
    ("HOSTNAME", '"unterminated', 0, "101.conf:{line} (unmatched quotes), skipping"),
    ("NAME", '"$(touch /tmp/x)"', 0, "101.conf:{line}: invalid value for NAME"),
    ("CAPABILITY", '"FOO:on"', 0, "Capability FOO is unknown"),
    ("DISABLED", "yes", 105, "Container start disabled"),
    ("LOCAL_UID", "0", 21, "privileged containers are not supported"),
    ("LOCAL_UID", "abc", 21, "LOCAL_UID=abc: a number is needed"),
    ("LOCAL_IDS", "0", 21, "LOCAL_IDS=0"),
    ("VE_PRIVATE", "", 23, "VE_PRIVATE is not set"),
    ("VE_ROOT", "", 22, "VE_ROOT is not set"),
    ("VE_PRIVATE", "/no/such/$VEID", 43, "Container private area /no/such/101 does not exist"),
    ("VE_ROOT", "/proc/no/$VEID", 49, "Can't create mount point /proc/no/101"),
    ("VE_LAYOUT", "zfs", 99, "Layout zfs is not supported"),
]


@pytest.mark.parametrize("key,value,code,text", CONFIGS, ids=[f"{c[0]}={c[1]}" for c in CONFIGS])
def test_configuration(node, vps, vzctl, key, value, code, text):
    good = Path(vps.conf_path).read_text()
    change(node.paths.etc + "/vz.conf", key, "") if not value else None
    change(vps.conf_path, key, value)
    if key == "LOCAL_UID":
        change(vps.conf_path, "LOCAL_GID", value)
        change(vps.conf_path, key, value)
    line = len(Path(vps.conf_path).read_text().splitlines())
    ran = vzctl("start", 101)
    assert ran.code == code and text.format(line=line) in ran.stderr, ran
    assert "Traceback" not in ran.stderr
    Path(vps.conf_path).write_text(good)
    vps.reload()
    assert str(vps.status) == f"exist {'unmounted down' if code else 'mounted running'}"


@pytest.mark.parametrize("rubbish", [
    b"RUBBISH", b"\xff\xfe\x00=\x00", b"=x", b"X" * 100000, b"$(touch /tmp/x)", b"\0" * 5000,
    b"export A=1; touch /tmp/x", b'NAME="a', b"\r\n\r\n", b"NUMPROC=\\", "ü=ü".encode(),
])  # fmt: skip
def test_rubbish_lines(node, vps, vzctl, rubbish):
    for path in (vps.conf_path, f"{node.paths.etc}/vz.conf"):
        with open(path, "ab") as file:
            file.write(rubbish + b"\n")
    number = len(Path(vps.conf_path).read_bytes().split(b"\n")) - 1
    ran = vzctl("start", 101)
    assert ran.code == 0 and "Traceback" not in ran.stderr, ran
    if rubbish == b"RUBBISH":
        assert f"can't parse {vps.conf_path}:{number} ('=' not found), skipping\n" in ran.stderr
    assert vzctl("set", 101, "--save", "--hostname", "new.example").code == 0
    assert rubbish in Path(vps.conf_path).read_bytes()
    assert not os.path.exists("/tmp/x")


class TestGlobalConfiguration:
    @pytest.mark.parametrize("key,value,action,code,text", [
        ("LOCKDIR", "", "start", 3, "lockdir is not set"),
        ("LOCKDIR", "/proc", "start", 3, "Unable to lock container: /proc/101.lck"),
        ("TEMPLATE", "", "create", 24, "TEMPLATE is not set"),
        ("DEF_OSTEMPLATE", "", "create", 29, "OS template is not specified"),
        ("CONFIGFILE", "nope", "create", 82, "Fix the value of CONFIGFILE in"),
        ("VE_PRIVATE", "", "create", 23, "VE_PRIVATE is not set"),
        ("VE_ROOT", "", "create", 22, "VE_ROOT is not set"),
        ("LOGFILE", "/no/such/folder/log", "start", 0, ""),
        ("LOGFILE", "/", "start", 0, ""),
        ("LOG_LEVEL", "x", "start", 0, "LOG_LEVEL"),
        ("VERBOSE", "-7", "start", 0, ""),
    ])  # fmt: skip
    def test_values(self, node, vps, vzctl, key, value, action, code, text):
        good = Path(node.paths.etc, "vz.conf").read_text()
        change(f"{node.paths.etc}/vz.conf", key, value)
        ran = vzctl(action, 101 if action == "start" else 102)
        assert ran.code == code and text in ran.stderr, ran
        assert "Traceback" not in ran.stderr, ran
        Path(node.paths.etc, "vz.conf").write_text(good)
        assert [v.ctid for v in node] == [101]

    @pytest.mark.parametrize("kind", ["missing", "directory", "loop", "binary", "fifo"])
    def test_file(self, node, cli, vzctl, kind):
        path = Path(node.paths.etc, "vz.conf")
        good = path.read_text()
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to("vz.conf")
        elif kind == "binary":
            path.write_bytes(os.urandom(5000))
        elif kind == "fifo":
            os.mkfifo(path)
        for ran in (vzctl("status", 101), cli("vzlist"), vzctl("create", 101)):
            assert "Traceback" not in ran.stderr, ran
            if kind != "binary":
                assert ran.code == 10 and ran.stderr.startswith(f"Unable to open {path}: "), ran
        if kind == "missing":
            assert "vz setup" in vzctl("status", 101).stderr
            with pytest.raises(VzError) as caught:
                Node(etc=node.paths.etc, run=node.paths.run)
            assert caught.value.code == 10
        if kind != "missing":
            tools.remove(path)
        path.write_text(good)


class TestTemplates:
    """A broken one: its code, and nothing of the VPS is left."""

    @pytest.fixture
    def own(self, make_node, bed):
        node = make_node(f"{bed.folder}/own-template")
        cache = Path(bed.folder, "own-template/cache")
        cache.mkdir(parents=True)
        yield node, cache
        traces.remove_tree(str(cache.parent))

    @pytest.mark.parametrize("name,content,code", [
        ("x.tar", b"", 47), ("x.tar", b"not a tar" * 100, 47), ("x.tar.gz", b"\x1f\x8b broken", 47),
        ("x.tar.xz", b"", 47), ("x.tar.zst", b"junk", 47), ("x.zip", b"PK", 91),
    ])  # fmt: skip
    def test_tarball(self, own, name, content, code):
        node, cache = own
        (cache / name).write_bytes(content)
        before = photo(node)
        for layout in ("overlay", "simfs"):
            ran = tools.run_tool(node, ("vzctl", "create", 101, "--ostemplate", "x", "--layout",
                                        layout))
            assert ran.code == code and "Traceback" not in ran.stderr, ran
            assert "Creation of container private area failed\n" in ran.stderr
        assert photo(node) == before


class TestPlace:
    """Something is where the VPS is to be."""

    @pytest.mark.parametrize("kind", ["file", "full", "link", "dangling"])
    def test_private_area(self, node, vzctl, kind):
        private = Path(os.path.dirname(node.config.raw("VE_PRIVATE")), "101")
        if kind == "file":
            private.write_text("")
        elif kind == "full":
            (private / "x").mkdir(parents=True)
        else:
            private.symlink_to("/etc" if kind == "link" else "/no/such")
        before = photo(node)
        ran = vzctl("create", 101)
        assert ran.code == 44 and "Private area already exists in" in ran.stderr, ran
        assert photo(node) == before
        tools.remove(private)

    def test_an_empty_directory_is_taken(self, node, vzctl):
        Path(os.path.dirname(node.config.raw("VE_PRIVATE")), "101").mkdir()
        assert vzctl("create", 101).code == 0

    def test_private_area_on_a_file_that_is_no_folder(self, node, vzctl):
        ran = vzctl("create", 101, "--private", "/etc/passwd/x")
        assert ran.code in (44, 48) and "/etc/passwd/x" in ran.stderr, ran

    def test_mount_point_is_a_link_out(self, vps, vzctl):
        """The guest cannot make it one, but an administrator can: what is mounted is told."""
        os.rmdir(vps.root) if os.path.isdir(vps.root) else None
        os.symlink("/no/such/place", vps.root)
        ran = vzctl("start", 101)
        assert ran.code == 49 and vps.root in ran.stderr, ran
        os.unlink(vps.root)

    @tools.needs("tmpfs")
    def test_destroy_on_a_full_disk(self, node, vzctl):
        """Nothing can be made there any more, not even a place to move it to."""
        private = os.path.dirname(node.config.raw("VE_PRIVATE"))
        subprocess.run(["mount", "-t", "tmpfs", "none", private], check=True)
        try:
            node.create(101, layout="simfs")
            used = os.statvfs(private)
            full = f"remount,nr_inodes={used.f_files - used.f_ffree}"
            subprocess.run(["mount", "-o", full, private], check=True)
            with pytest.raises(OSError):
                os.mkdir(f"{private}/x")
            ran = vzctl("destroy", 101)
            assert ran.code == 0, ran
            assert set(os.listdir(private)) <= {"vztmp"}
        finally:
            subprocess.run(["umount", private], check=True)

    @tools.needs("tmpfs")
    @pytest.mark.parametrize("layout", ["overlay", "simfs"])
    def test_a_full_disk(self, bed, node, vzctl, layout):
        """46, and what was made is gone, however far it came."""
        private = os.path.dirname(node.config.raw("VE_PRIVATE"))
        sizes = ["nr_inodes=3", "nr_inodes=4"]  # an overlay takes no more than a few inodes
        if layout == "simfs":
            sizes += ["nr_inodes=20", "size=4k", "size=64k", "size=2200k"]
        for size in sizes:
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", private], check=True)
            try:
                if "size" in size:
                    with open(f"{private}/filler", "wb") as file:
                        tools.fill(file, 1_500_000)
                ran = vzctl("create", 101, "--layout", layout)
                assert ran.code == 46 and "space" in ran.stderr, (size, ran)
                assert set(os.listdir(private)) <= {"filler", "vztmp"}
            finally:
                subprocess.run(["umount", private], check=True)
        assert list(node) == []
        assert vzctl("create", 101, "--layout", layout).code == 0
