"""OS templates: the store of their trees, recipes, and what is built from them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import abilities
import pytest
import stores
from tarballs import Archive, tool

import tools
from vzpy import busybox, events, recipe, template
from vzpy.errors import VzError

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.usefixtures("no_mount_is_left"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path


# the store


def cached(store, name="a", data=b"1"):
    return Archive(store / f"cache/{name}.tar").add("etc/file", data=data).close()


def test_a_tree_is_made_once(store):
    cached(store)
    tree = template.ensure_tree(str(store), "a")
    assert tree.startswith(f"{store}/tree/a@") and os.path.exists(tree + "/etc/file")
    assert stat.S_IMODE(os.lstat(store / "tree").st_mode) == 0o700
    before = os.lstat(tree)
    assert template.ensure_tree(str(store), "a") == tree
    assert os.lstat(tree).st_ino == before.st_ino
    cached(store, data=b"2")
    newer = template.ensure_tree(str(store), "a")
    assert newer != tree and os.path.isdir(tree)
    assert Path(newer, "etc/file").read_bytes() == b"2"
    assert template.gc(str(store)) == [tree]


def test_a_tree_that_was_deleted_is_made_again(store, tmp_path):
    cached(store)
    tree = template.ensure_tree(str(store), "a")
    private = tmp_path / "private/101"
    private.mkdir(parents=True)
    template.record_tree(str(private), tree)
    os.rename(store / "cache/a.tar", store / "cache/a.tar-old")
    cached(store, data=b"another")
    shutil.rmtree(store / "tree")
    assert template.tree_of(str(private)) == tree
    assert Path(tree, "etc/file").read_bytes() == b"1"
    shutil.rmtree(store / "tree")
    os.unlink(store / "cache/a.tar-old")
    with pytest.raises(VzError, match="is gone"):
        template.tree_of(str(private))


def test_a_bad_template_leaves_no_tree(store):
    Archive(store / "cache/a.tar").add("x", uid=70000).close()
    with pytest.raises(VzError):
        template.ensure_tree(str(store), "a")
    assert [n for n in os.listdir(store / "tree") if "@" in n] == []


ENSURE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "from vzpy import template\n"
    "print(template.ensure_tree(sys.argv[1], sys.argv[2]))\n"
)


def test_many_at_once_make_one(store):
    archive = Archive(store / "cache/a.tar")
    for number in range(300):
        archive.add(f"f{number}", data=os.urandom(20000))
    archive.close()
    command = [sys.executable, "-c", ENSURE, str(store), "a"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1 and not any(run.returncode for run in runs)
    assert len([n for n in os.listdir(store / "tree") if "@" in n]) == 1


def unpackers(store) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"untar.py" in line and os.fsencode(store) in line:
            found.append(int(pid))
    return found


def test_killed_while_unpacking(store):
    """kill -9 of the tool: its child dies too, the next one cleans up and makes the tree."""
    archive = Archive(store / "cache/a.tar")
    for number in range(3000):
        archive.add(f"d{number % 50}/f{number}", data=bytes(9000))
    archive.close()
    run = subprocess.Popen([sys.executable, "-c", ENSURE, str(store), "a"])
    end = time.monotonic() + 20 * tools.PATIENCE
    while not list(store.glob("tree/.a@*.tmp/d*/f*")):
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while unpackers(store):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert 0 < len(list(store.glob("tree/.a@*.tmp/d*/f*"))) < 3000, "the child went on"
    assert not list(store.glob("tree/a@*"))
    tree = template.ensure_tree(str(store), "a")
    assert len(list(Path(tree).glob("d*/f*"))) == 3000
    assert not list(store.glob("tree/.a@*.tmp"))


def test_a_tree_deeper_than_a_path_is_long(store):
    """Two thousand levels, made through links; then the archive is refused, and all goes away."""
    archive = Archive(store / "cache/a.tar")
    steps = ["/".join("d" * depth) for depth in range(1, 501)]
    start = ""
    for hop in range(4):
        for step in steps:
            archive.add(start + step, tarfile.DIRTYPE, mode=0o755)
        archive.link(f"s{hop}", start + steps[-1])
        start = f"s{hop}/"
    archive.add("last", uid=70000).close()
    with pytest.raises(VzError, match="/last: belongs to user 70000"):
        template.ensure_tree(str(store), "a")
    assert [name for name in os.listdir(store / "tree") if "@" in name] == []


# recipes


def test_the_embedded_template(store):
    if not shutil.which("busybox"):
        pytest.skip("needs busybox-static")
    told = []
    start = time.monotonic()
    tree = Path(template.ensure_tree(str(store), "busybox-x86_64", told.append))
    assert time.monotonic() - start < 3 * tools.PATIENCE
    assert [type(event) for event in told] == [events.BuildingTemplate]
    assert str(told[0]) == "Creating cache for busybox-x86_64 OS template"
    for name in ("sbin/init", "sbin/halt", "bin/sh", "bin/ps", "usr/sbin/httpd", "sbin/syslogd"):
        assert os.readlink(tree / name) == "/bin/busybox"
    assert (tree / "etc/machine-id").read_bytes() == b""
    done = subprocess.run(["chroot", tree, "/bin/sh", "-c", "echo $PPID; ps axf --help"],
                          capture_output=True, text=True)
    assert "BusyBox" in done.stderr
    again = Path(template.build_cache(str(store), "busybox-x86_64", again=True))
    assert again.read_bytes() == Path(f"{again}-old").read_bytes(), "not reproducible"


@pytest.mark.parametrize("found, text", [
    ([], "busybox is not installed"),
    (["/bin/sh"], "/bin/sh is not statically linked"),
])
def test_no_static_busybox(store, monkeypatch, found, text):
    monkeypatch.setattr(busybox, "PATHS", tuple(found))
    with pytest.raises(VzError, match=text) as error:
        template.ensure_tree(str(store), "busybox-x86_64")
    assert error.value.code == 47 and error.value.hint == "apt-get install busybox-static"
    assert template.cached_names(str(store)) == []


def test_a_build_that_was_killed_is_cleaned_up(store):
    tool("busybox")
    (store / "cache/.busybox-x86_64.build/old/etc").mkdir(parents=True)
    template.ensure_cache(str(store), "busybox-x86_64")
    assert sorted(os.listdir(store / "cache")) == [".busybox-x86_64.lock", "busybox-x86_64.tar"]


def test_a_mount_in_the_way_is_not_removed(store, small):
    scratch = store / "cache/.busybox-x86_64.build"
    (scratch / "etc").mkdir(parents=True)
    (small / "precious").write_text("")
    subprocess.run(["mount", "--bind", small, scratch / "etc"], check=True)
    try:
        with pytest.raises(VzError, match="Device or resource busy"):
            template.ensure_cache(str(store), "busybox-x86_64")
        assert (small / "precious").exists()
    finally:
        subprocess.run(["umount", scratch / "etc"], check=True)


def test_mmdebstraps_words_are_told(store):
    (store / "recipes").mkdir()
    (store / "recipes/bad-x86_64.yaml").write_text(
        "summary: x\nbuilder: mmdebstrap\narch: x86_64\nsuite: bookworm\nvariant: nonesuch\n"
    )
    with pytest.raises(VzError, match="template: |mmdebstrap could not build") as error:
        template.ensure_cache(str(store), "bad-x86_64")
    hint = "E: " if shutil.which("mmdebstrap") else "apt-get install mmdebstrap"
    assert error.value.code == 47 and error.value.hint.startswith(hint)
    assert sorted(os.listdir(store / "cache")) == [".bad-x86_64.lock"]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", [n for n in recipe.names("/nonexistent") if "debian" in n])
def test_debian(name):
    """Built once, and again when its recipe changed: half a minute each."""
    abilities.require(f"{name} template" if name != stores.DEBIAN else "debian template")
    folder = stores.debian_store(name)
    tree = Path(template.ensure_tree(folder, name))
    assert (tree / "etc/debian_version").read_text().startswith("12")
    assert (tree / "sbin/init").exists() or (tree / "sbin/init").is_symlink()
    assert (tree / "etc/hostname").read_bytes() == b""
    assert not (tree / "etc/machine-id").exists() or not (tree / "etc/machine-id").read_bytes()
    assert not (tree / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert (tree / "etc/apt/sources.list.d/0000debian.sources").exists()
    template.gc(folder)


def test_vzpkg(store, tmp_path):
    tool("busybox")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vz.conf").write_text(f"TEMPLATE={store}\nVE_PRIVATE={tmp_path}/p/$VEID\n")
    entry = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from vzpy.cli import main; "

    def vzpkg(*words):
        return subprocess.run(
            [sys.executable, "-c", entry + "sys.exit(main('vzpkg', sys.argv[1:]))", *words],
            capture_output=True, text=True,
            env={**os.environ, "VZ_ETC": str(tmp_path / "etc"), "VZ_RUN": str(tmp_path / "run")},
        )  # fmt: skip

    assert f"{'busybox-x86_64':<34} \n" in vzpkg("list", "-q").stdout
    assert vzpkg("list", "-c").stdout == ""
    made = vzpkg("create", "cache", "busybox")
    assert made.returncode == 0 and made.stderr == ""
    assert made.stdout.startswith("Creating cache for busybox-x86_64 OS template\nCache file ")
    assert vzpkg("list", "--cached", "-S").stdout == (
        f"{'busybox-x86_64':<34} :busybox with its own init, syslogd, crond and an idle httpd\n"
    )
    assert vzpkg("create", "cache", "busybox-x86_64").returncode == 29
    assert vzpkg("update", "cache", "busybox", "-q").stdout == ""
    assert (store / "cache/busybox-x86_64.tar-old").exists()
    assert vzpkg("remove", "cache", "busybox").returncode == 0
    assert vzpkg("remove", "cache", "busybox").returncode == 23
    assert vzpkg("create", "cache", "nonesuch").returncode == 24
    assert vzpkg("info", "busybox").returncode == 28
    assert vzpkg("help").returncode == 0
    assert vzpkg().returncode == vzpkg("--bogus").returncode == 35


LIST, GC = ("vz", "template", "list"), ("vz", "template", "gc")


def test_the_store_is_listed_and_collected(make_node, tmp_path):
    """A tree stays while a VPS stands on it, or its cache would make it again."""
    store = tmp_path / "template"
    (store / "cache").mkdir(parents=True)
    node = make_node(str(store))
    node.create(101)
    tree = os.readlink(f"{node.vps(101).private}/tree")
    line = tools.run_tool(node, LIST).stdout.split()
    assert line == [os.path.basename(tree), "1", "current"]
    tarball = next((store / "cache").glob("busybox*"))
    with tarball.open("ab") as file:
        file.write(bytes(512))  # another file, which unpacks to the same
    node.create(102)
    listed = [x.split()[1:] for x in tools.run_tool(node, LIST).stdout.splitlines()]
    assert sorted(listed) == [["1", "current"], ["1", "kept"]]
    assert tools.run_tool(node, GC).stdout == ""
    node.vps(101).destroy()
    assert tools.run_tool(node, GC).stdout == f"{tree}\n"
    assert not os.path.exists(tree)
    tarball.unlink()
    assert tools.run_tool(node, GC).stdout == ""
    node.vps(102).start()
    node.vps(102).stop(fast=True)
    node.vps(102).destroy()
    assert len(tools.run_tool(node, GC).stdout.splitlines()) == 1
    assert tools.run_tool(node, LIST).stdout == ""
