"""Names, caches, references: what of OS templates needs neither root nor a kernel's help."""

from __future__ import annotations

import os

import pytest

from vzpy import recipe, template
from vzpy.errors import VzError

ARCH = template.machine_arch()


@pytest.fixture
def store(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "tree").mkdir()
    return str(tmp_path)


def cache(store, name, text="x"):
    path = os.path.join(store, "cache", name)
    with open(path, "w") as file:
        file.write(text)
    return path


def made_tree(store, name, tarball):
    """A tree and its stamp, as ensure_tree() leaves them."""
    digest = template._digest(tarball)
    tree = os.path.join(store, "tree", f"{name}@{digest}")
    os.mkdir(tree)
    template._write(
        template._stamp(template.tree_dir(store), name),
        f"{template._identity(tarball)} {digest}\n",
    )
    return tree


def area(tmp_path, ctid):
    private = tmp_path / "private" / str(ctid)
    private.mkdir(parents=True)
    return str(private)


def test_the_contracts_order(store):
    for suffix in reversed(template.SUFFIXES):
        path = cache(store, "a" + suffix)
        assert template.find_cache(store, "a") == path


def test_no_cache(store):
    with pytest.raises(VzError) as error:
        template.ensure_cache(store, "a")
    assert error.value.code == 91
    assert str(error.value) == (
        f"Cached OS template {store}/cache/a.tar[.gz|.bz2|.xz] not found"
    )


@pytest.mark.parametrize(
    "there, asked",
    [
        ("centos-4-i386", "centos-4-i386"),
        (f"debian-12-{ARCH}", "debian-12"),
        (f"centos-4-{ARCH}-default", "centos-4"),
        (f"centos-4-{ARCH}-minimal", "centos-4-minimal"),
        (f"centos-4-{ARCH}-minimal", f"centos-4-minimal-{ARCH}"),
        (f"centos-4-{ARCH}-default", f"centos-4-{ARCH}"),
        ("suse-9", "/var/lib/vz/template/suse-9"),
        ("suse-9", "suse-9/"),
    ],
)
def test_short_names(store, there, asked):
    cache(store, there + ".tar.gz")
    assert template.resolve_name(store, asked) == there


def test_unknown_names_stay(store):
    assert template.resolve_name(store, "nonesuch-1") == "nonesuch-1"


@pytest.mark.parametrize("name", ["", "/", "..", ".", "a/..", "a\0b"])
def test_names_that_are_none(store, name):
    with pytest.raises(VzError) as error:
        template.resolve_name(store, name)
    assert error.value.code == 91


def test_cached_names(store):
    for file in ("b.tar.gz", "a.tar", "a.tar.gz", "a.tar-old", ".c.lock", "x.txt", ".tar"):
        cache(store, file)
    assert template.cached_names(store) == ["a", "b"]


def test_stamp_is_of_the_file_as_it_is(store):
    tarball = cache(store, "a.tar")
    tree = made_tree(store, "a", tarball)
    assert template.ensure_tree(store, "a") == tree
    os.utime(tarball, (1, 1))
    assert template._current(template.tree_dir(store), "a", tarball) is None


@pytest.mark.parametrize("text", ["", "1 2 3", "\xff\0", "1 2 3 4 5 ../../etc"])
def test_broken_stamp(store, text):
    tarball = cache(store, "a.tar")
    with open(template._stamp(template.tree_dir(store), "a"), "w", encoding="latin-1") as file:
        file.write(text)
    assert template._current(template.tree_dir(store), "a", tarball) is None


def test_a_tree_in_use_is_never_removed(store, tmp_path):
    tarball = cache(store, "a.tar")
    tree = made_tree(store, "a", tarball)
    private = area(tmp_path, 101)
    template.record_tree(private, tree)
    assert template.tree_of(private) == tree
    os.unlink(tarball)
    assert template.gc(store) == []
    moved = private + ".moved"
    os.rename(private, moved)
    assert template.gc(store, [moved]) == [] and os.path.isdir(tree)
    os.rename(moved, private)
    template.release_tree(private)
    os.unlink(os.path.join(private, "tree"))
    assert template.gc(store) == [tree]
    assert not os.path.exists(tree)


def test_what_the_cache_gives_now_stays(store):
    tree = made_tree(store, "a", cache(store, "a.tar"))
    assert template.gc(store) == []
    cache(store, "a.tar", "newer")
    assert template.gc(store) == [tree]


def test_an_area_whose_disk_is_away_counts(store, tmp_path):
    tarball = cache(store, "a.tar")
    tree = made_tree(store, "a", tarball)
    private = area(tmp_path, 101)
    template.record_tree(private, tree)
    os.unlink(tarball)
    os.rename(os.path.dirname(private), os.path.dirname(private) + ".away")
    assert template.gc(store) == []


def test_an_area_that_was_deleted_does_not_count(store, tmp_path):
    tarball = cache(store, "a.tar")
    tree = made_tree(store, "a", tarball)
    private, _ = area(tmp_path, 101), area(tmp_path, 102)
    template.record_tree(private, tree)
    os.unlink(tarball)
    os.unlink(os.path.join(private, "tree"))
    os.rmdir(private)
    assert template.gc(store) == [tree]


def test_an_area_that_moved_to_another_tree(store, tmp_path):
    old = made_tree(store, "a", cache(store, "a.tar"))
    private = area(tmp_path, 101)
    template.record_tree(private, old)
    new = made_tree(store, "a", cache(store, "a.tar", "newer"))
    template.record_tree(private, new)
    assert template.tree_of(private) == new
    assert template.gc(store) == [old]


def test_a_tree_that_went_is_not_recorded(store, tmp_path):
    with pytest.raises(VzError) as error:
        template.record_tree(area(tmp_path, 101), os.path.join(store, "tree", "a@0"))
    assert error.value.code == 47


def test_a_tree_that_is_gone(store, tmp_path):
    private = area(tmp_path, 101)
    with pytest.raises(VzError) as error:
        template.tree_of(private)
    assert error.value.code == 47
    os.symlink(os.path.join(store, "tree", "a@0"), os.path.join(private, "tree"))
    with pytest.raises(VzError, match="is gone") as error:
        template.tree_of(private)
    assert "the cache tarball" in error.value.hint


def test_release_is_idempotent(tmp_path):
    template.release_tree(str(tmp_path / "nothing"))


def test_the_stores_recipe_wins(store):
    ours = recipe.find(store, "busybox-x86_64")
    assert ours and ours.endswith("templates/recipes/busybox-x86_64.yaml")
    os.mkdir(os.path.join(store, "recipes"))
    own = os.path.join(store, "recipes", "busybox-x86_64.yaml")
    os.symlink(ours, own)
    assert recipe.find(store, "busybox-x86_64") == own
    assert recipe.names(store).count("busybox-x86_64") == 1
