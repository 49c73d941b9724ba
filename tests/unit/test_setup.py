"""vz setup: what it writes, that it touches nothing that is there, that remove takes it back."""

from __future__ import annotations

import os
import subprocess

import pytest

from vzpy import config, data, events, nodesetup, params, values
from vzpy.errors import Exit, VzError
from vzpy.model import NodePaths

SAMPLES = [
    f"ve-{name}.conf-sample"
    for name in ("basic", "light", *(f"vswap-{ram}" for ram in ("256m", "512m", "1024m", "1g",
                                                                "2g", "4g")))
]


@pytest.fixture
def paths(tmp_path):
    return NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))


def tree(top):
    """path -> content and mode of everything below a folder."""
    found = {}
    for folder, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(folder, name)
            content = None
            if name in files:
                with open(path) as file:
                    content = file.read()
            found[path] = (content, os.stat(path).st_mode, os.stat(path).st_mtime_ns)
    return found


def test_default_node():
    paths = NodePaths.of("/etc/vz", "/run/vz")
    assert (paths.state, paths.cgroup) == ("/var/lib/vzctl", "vz")
    other = NodePaths.of("/srv/etc/", "/srv/run")
    assert (other.etc, other.state) == ("/srv/etc", "/srv/etc/var")
    assert other.cgroup.startswith("vz-") and len(other.cgroup) == 11


def test_writes_all_once(paths, tmp_path):
    told = []
    made = nodesetup.setup(paths, str(tmp_path / "vz"), told.append)
    assert made == sum(isinstance(event, events.Made) for event in told) > 20
    before = tree(tmp_path)
    assert nodesetup.setup(paths, "/elsewhere") == 0  # the vz.conf at hand keeps its folders
    assert tree(tmp_path) == before


def test_what_it_writes(paths, tmp_path):
    old = os.umask(0o077)
    try:
        nodesetup.setup(paths, f"{tmp_path}/vz/")
    finally:
        os.umask(old)
    conf = config.load_global(paths.etc)
    assert conf.warnings == []
    assert conf.raw("LOCKDIR") == f"{tmp_path}/vz/lock"
    assert conf.raw("VE_LAYOUT") == "overlay"
    assert conf.raw("DEF_OSTEMPLATE") == "busybox-x86_64"
    assert conf.raw("CONFIGFILE") == "vswap-256m"
    assert conf.raw("VE_STOP_MODE") == "stop"
    assert conf.raw("DISK_QUOTA") == "yes"
    assert conf.raw("LOGFILE") == f"{paths.state}/vzctl.log"
    assert conf.raw("LOCAL_UID") is None
    with open(f"{paths.etc}/vz.conf") as file:
        text = file.read()
    assert "$VZ/" not in text and "@" not in text
    assert os.stat(f"{paths.etc}/vz.conf").st_mode & 0o777 == 0o644
    assert os.stat(tmp_path / "vz/private").st_mode & 0o777 == 0o700
    for name in ("lock", "dump", "template/cache", "root", "private"):
        assert (tmp_path / "vz" / name).is_dir()


def test_vz_conf_is_shell(paths, tmp_path):
    nodesetup.setup(paths, str(tmp_path / "vz"))
    script = f". {paths.etc}/vz.conf; echo $VE_ROOT $VE_LAYOUT"
    out = subprocess.run(["sh", "-euc", script], env={"VEID": "101"}, stdout=subprocess.PIPE,
                         text=True)
    assert out.stdout == f"{tmp_path}/vz/root/101 overlay\n"


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_known_and_fence_fork_bombs(name):
    layer = config.Layer(name, data.read("conf", name))
    assert layer.warnings == []
    for key, (text, _) in layer.entries.items():
        values.parse(params.BY_KEY[key].kind, text)  # raises for a value it cannot read
    assert values.parse("ubc-num", layer.entries["NUMPROC"][0])[1] < 1 << 15


def test_sample_values_of_the_contract():
    layer = config.Layer("", data.read("conf", "ve-basic.conf-sample"))
    assert layer.entries["KMEMSIZE"][0] == "14372700:14790164"
    assert len(layer.entries) == 26
    layer = config.Layer("", data.read("conf", "ve-vswap-2g.conf-sample"))
    assert (layer.entries["PHYSPAGES"][0], layer.entries["SWAPPAGES"][0]) == ("0:2G", "0:4G")


def test_keeps_what_is_there(paths, tmp_path):
    os.makedirs(paths.conf)
    sample = f"{paths.conf}/ve-basic.conf-sample"
    with open(sample, "w") as file:
        file.write("mine")
    os.symlink("/nowhere", f"{paths.conf}/0.conf")
    nodesetup.setup(paths, str(tmp_path / "vz"))
    with open(sample) as file:
        assert file.read() == "mine"
    assert os.readlink(f"{paths.conf}/0.conf") == "/nowhere"


def test_follows_a_vz_conf_at_hand(paths, tmp_path):
    os.makedirs(paths.etc)
    with open(f"{paths.etc}/vz.conf", "w") as file:
        file.write(f'LOCKDIR="{tmp_path}/a/lock"\nVE_PRIVATE="{tmp_path}/b/$VEID"\n')
    nodesetup.setup(paths, str(tmp_path / "vz"))
    assert (tmp_path / "a/lock").is_dir() and (tmp_path / "b").is_dir()
    assert not (tmp_path / "vz").exists()


def test_remove_leaves_no_trace(paths, tmp_path):
    nodesetup.setup(paths, str(tmp_path / "vz"))
    nodesetup.remove(paths)
    assert list(tmp_path.iterdir()) == []
    assert nodesetup.remove(paths) == 0


def test_remove_leaves_what_is_yours(paths, tmp_path):
    (tmp_path / "vz").mkdir()
    nodesetup.setup(paths, str(tmp_path / "vz"))
    with open(f"{paths.etc}/vz.conf", "a") as file:
        file.write('IPV6="no"\n')
    (tmp_path / "vz/private/101").mkdir()
    nodesetup.remove(paths)
    assert os.listdir(paths.etc) == ["vz.conf"]
    assert [p.name for p in (tmp_path / "vz").iterdir()] == ["private"]


@pytest.mark.parametrize("vzdir", ["relative", "", "/a\"b", "/a$b", "/a\nb"])
def test_bad_vzdir(paths, tmp_path, vzdir):
    with pytest.raises(VzError) as err:
        nodesetup.setup(paths, vzdir)
    assert err.value.code == Exit.INVALID_PARAMETER_VALUE
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(paths, tmp_path):
    (tmp_path / "vz").write_text("a file")
    with pytest.raises(VzError) as err:
        nodesetup.setup(paths, str(tmp_path / "vz"))
    assert err.value.code == Exit.CANT_CREATE_DIR and f"{tmp_path}/vz/lock" in str(err.value)
