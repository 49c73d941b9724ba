"""Second names: links that are never taken from another VPS."""

import os

import pytest

from vzpy import names
from vzpy.errors import VzError
from vzpy.model import NodePaths


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "conf").mkdir()
    for ctid in (101, 102):
        (tmp_path / "conf" / f"{ctid}.conf").touch()
    return NodePaths(str(tmp_path), "", "", "")


def test_assign_find_release(paths):
    names.assign(paths, 101, "web server-1.a_b+c")
    link = f"{paths.names}/web server-1.a_b+c"
    assert os.readlink(link) == f"{paths.conf}/101.conf"
    assert names.find(paths, "web server-1.a_b+c") == 101
    names.assign(paths, 101, "web server-1.a_b+c")
    names.release(paths, 102, "web server-1.a_b+c")
    assert os.path.lexists(link)
    names.release(paths, 101, "web server-1.a_b+c")
    assert not os.path.lexists(link)
    names.release(paths, 101, "web server-1.a_b+c")


def test_conflict(paths):
    names.assign(paths, 101, "web")
    with pytest.raises(VzError) as info:
        names.assign(paths, 102, "web")
    assert info.value.message == "Conflict: name web already used by container 101"
    assert info.value.code == 131
    assert names.find(paths, "web") == 101


def test_a_name_of_a_vps_that_is_gone_is_free(paths):
    names.assign(paths, 101, "web")
    os.unlink(f"{paths.conf}/101.conf")
    names.assign(paths, 102, "web")
    assert names.find(paths, "web") == 102


def test_a_file_that_is_no_link_is_left_alone(paths):
    os.makedirs(paths.names)
    open(f"{paths.names}/web", "w").close()
    with pytest.raises(VzError, match="Conflict: name web already used by the file"):
        names.assign(paths, 101, "web")
    assert os.path.isfile(f"{paths.names}/web")


def test_rename_takes_the_old_name_only_from_its_own(paths):
    names.assign(paths, 101, "old")
    names.assign(paths, 101, "new", before="old")
    assert (names.find(paths, "old"), names.find(paths, "new")) == (None, 101)
    names.assign(paths, 102, "other", before="new")
    assert names.find(paths, "new") == 101


def test_release_all(paths):
    for name in ("one", "two"):
        names.assign(paths, 101, name)
    names.assign(paths, 102, "three")
    names.release_all(paths, 101)
    assert os.listdir(paths.names) == ["three"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\n", "caf\xe9", "x" * 256, "a;b", "\0"])
def test_illegal_names(paths, name):
    with pytest.raises(VzError, match="Error: invalid name") as info:
        names.assign(paths, 101, name)
    assert info.value.code == 131
    assert names.find(paths, name) is None


def test_a_number_is_never_a_name(paths):
    names.assign(paths, 101, "7")
    assert names.lookup(paths.names, "7") == 7
    names.assign(paths, 101, "web")
    assert names.lookup(paths.names, "web") == 101
    assert names.lookup(paths.names, "other") is None
    assert names.lookup(paths.names, "-7") is None


@pytest.mark.parametrize(
    "target", ["x.conf", "101", "101.conf.destroyed", "-1.conf", "\u0661.conf"]
)
def test_links_that_mean_nothing(paths, target):
    os.makedirs(paths.names)
    os.symlink(target, f"{paths.names}/web")
    assert names.find(paths, "web") is None
