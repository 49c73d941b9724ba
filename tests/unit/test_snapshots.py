"""Snapshots.xml, its tree, and what vzctl snapshot-list makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vzpy import snapshots
from vzpy.errors import VzError
from vzpy.snapshots import Snapshot, Tree


def guid_of(number: int) -> str:
    return "{" + f"{number:08x}-0000-0000-0000-000000000000" + "}"


GUIDS = [guid_of(number) for number in range(6)]
# As libvzctl writes it: empty elements, a guid in braces, one nested in the other.
PARALLELS = b"""<?xml version="1.0"?>
<ParallelsSavedStates>
  <SavedStateItem guid="{00000000-0000-0000-0000-000000000001}">
    <Name>a &amp; b</Name>
    <DateTime>2014-01-02 03:04:05</DateTime>
    <Creator></Creator>
    <ScreenShot></ScreenShot>
    <Description/>
    <SavedStateItem guid="{ABCDEF00-0000-0000-0000-000000000002}" current="yes">
      <Name></Name>
    </SavedStateItem>
  </SavedStateItem>
</ParallelsSavedStates>
"""


def test_of_another_program():
    first, second = snapshots.parse(PARALLELS).all
    assert (first.name, first.date, first.parent) == ("a & b", "2014-01-02 03:04:05", "")
    assert second.guid == "{abcdef00-0000-0000-0000-000000000002}"
    assert second.parent == first.guid and second.current and second.layers == ()


def test_a_container_without_guid():
    text = PARALLELS.replace(b' guid="{00000000-0000-0000-0000-000000000001}"', b' guid=""')
    (only,) = snapshots.parse(text).all
    assert only.parent == ""


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@st.composite
def trees(draw):
    tree = Tree()
    for guid in GUIDS[: draw(st.integers(0, 6))]:
        layers = tuple(draw(st.lists(st.sampled_from(["0a", "1b", "2c"]), unique=True)))
        tree = tree.added(
            Snapshot(guid, name=draw(words), description=draw(words), layers=layers,
                     running=draw(st.booleans()))
        )  # fmt: skip
        if draw(st.booleans()):
            tree = tree.switched(draw(st.sampled_from([one.guid for one in tree.all])))
    return tree


def plain(value: str) -> str:
    """What XML can hold, without blanks at the ends."""
    kept = "".join(c if c in "\t\n" or c >= " " and c not in "\ufffe\uffff" else "?" for c in value)
    return kept.strip()


@settings(deadline=None)
@given(trees())
def test_written_and_read(tree):
    found = snapshots.parse(snapshots.text(tree).encode())
    assert {one.guid: (one.parent, one.current, one.layers, one.running) for one in found.all} == {
        one.guid: (one.parent, one.current, one.layers, one.running) for one in tree.all
    }
    for one in tree.all:
        again = found.find(one.guid)
        assert again and again.name == plain(one.name)
        assert again.description == plain(one.description)


@settings(deadline=None)
@given(trees(), st.sampled_from(GUIDS))
def test_removed(tree, guid):
    """What stood on it stands on its parent; at most one is current, and none is lost."""
    left = tree.removed(guid)
    assert {one.guid for one in left.all} == {one.guid for one in tree.all} - {guid}
    known = {one.guid for one in left.all} | {""}
    assert all(one.parent in known for one in left.all)
    assert sum(one.current for one in left.all) <= 1
    gone = tree.find(guid)
    if gone and gone.current and gone.parent:
        assert left.current and left.current.guid == gone.parent


@settings(deadline=None)
@given(st.binary(max_size=200) | st.builds(
    lambda a, b, c: PARALLELS[:a] + b + PARALLELS[c:],
    st.integers(0, len(PARALLELS)), st.binary(max_size=20), st.integers(0, len(PARALLELS)),
))  # fmt: skip
def test_whatever_it_is(data):
    """A tree, or a ValueError."""
    try:
        tree = snapshots.parse(data)
    except ValueError:
        return
    snapshots.parse(snapshots.text(tree).encode())


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "not XML"),
        (b"<a/>", "not <ParallelsSavedStates>"),
        (b"<!DOCTYPE a><a/>", "document type"),
        (b"x" * (5 << 20), "too large"),
        (PARALLELS.replace(b"{ABCDEF00-0000-0000-0000-000000000002}", b"{1}"), "no guid"),
        (PARALLELS.replace(b"ABCDEF00-0000-0000-0000-000000000002",
                           b"00000000-0000-0000-0000-000000000001"), "twice"),
        (PARALLELS.replace(b"<Name></Name>", b"<Layers>../etc</Layers>"), "no layer"),
        (PARALLELS.replace(b"<Name>a", b"<Name>\x00"), "not XML"),
    ],
)  # fmt: skip
def test_broken(data, why, tmp_path):
    path = tmp_path / "Snapshots.xml"
    path.write_bytes(data)
    with pytest.raises(VzError) as caught:
        snapshots.load(str(path))
    assert why in str(caught.value) and str(path) in str(caught.value)


def test_deep_nesting():
    """A thousand on each other, as somebody who makes one an hour has."""
    tree = Tree()
    for number in range(1000):
        tree = tree.added(Snapshot(guid_of(number)))
    found = snapshots.parse(snapshots.text(tree).encode())
    assert len(found.chain(tree.all[-1].guid)) == 1000


def test_guids():
    made = {snapshots.new_guid() for _ in range(100)}
    assert len(made) == 100
    for guid in made:
        assert snapshots.parse(
            PARALLELS.replace(b"{ABCDEF00-0000-0000-0000-000000000002}", guid.encode())
        ).find(guid)
        assert guid[15] == "4" and guid[20] in "89ab"
