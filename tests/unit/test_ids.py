"""Id ranges: disjoint whatever happens, free only when nothing carries them any more."""

import multiprocessing
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import ids
from vzpy.errors import ValueInvalid, VzError
from vzpy.ids import Owner, RangeTaken, Registry
from vzpy.model import RANGE, IdRange


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    monkeypatch.setattr(ids, "_mapped", list)


@pytest.fixture(autouse=True)
def no_subordinate_ids(monkeypatch):
    monkeypatch.setattr(ids, "SUBORDINATE", ())


@pytest.fixture
def forgotten(monkeypatch):
    """The process that took a range is no more."""
    monkeypatch.setattr(ids, "_alive", lambda holder: False)


class Node:
    def __init__(self, tmp):
        self.etc = str(tmp / "etc")
        os.makedirs(f"{self.etc}/conf")
        self.registry = Registry(str(tmp / "lib" / "ids"))

    def owner(self, ctid):
        return Owner(self.etc, ctid, f"{self.etc}/private/{ctid}")

    def conf(self, ctid):
        return f"{self.etc}/conf/{ctid}.conf"

    def configure(self, ctid):
        open(self.conf(ctid), "w").close()


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_ranges_come_from_the_pool_in_order(node):
    first, second = (node.registry.allocate(node.owner(n)) for n in (101, 102))
    assert first == IdRange(ids.POOL_FIRST, RANGE)
    assert second == IdRange(ids.POOL_FIRST + RANGE, RANGE)


def test_several_ranges_are_contiguous_and_fill_the_first_gap_that_fits(node, forgotten):
    for n in (101, 102, 103, 104):
        node.configure(n)
        node.registry.allocate(node.owner(n))
    for n in (101, 102):
        os.unlink(node.conf(n))
    big = node.registry.allocate(node.owner(201), 3 * RANGE)
    assert big == IdRange(ids.POOL_FIRST + 4 * RANGE, 3 * RANGE)
    assert node.registry.allocate(node.owner(202), 2 * RANGE).base == ids.POOL_FIRST


@pytest.mark.parametrize("left", ["conf", "creating", "private", "tmp", "tombstone"])
def test_a_range_stays_taken_while_anything_of_its_vps_is_left(node, forgotten, tmp_path, left):
    owner = node.owner(101)
    tombstone = str(tmp_path / "tombstone")
    thing = {
        "conf": node.conf(101),
        "creating": node.conf(101) + ".creating",
        "private": owner.private,
        "tmp": owner.private + ".tmp",
        "tombstone": tombstone,
    }[left]
    taken = node.registry.allocate(owner)
    node.registry.bury(owner, tombstone)
    os.makedirs(thing)
    assert node.registry.allocate(node.owner(102)) != taken
    os.rmdir(thing)
    assert node.registry.allocate(node.owner(103)) == taken


def test_a_range_stays_taken_while_its_taker_lives(node):
    taken = node.registry.allocate(node.owner(101))
    assert node.registry.allocate(node.owner(102)) != taken


def test_a_number_used_again_does_not_keep_the_old_range(node, forgotten, tmp_path):
    owner, tombstone = node.owner(101), tmp_path / "tombstone"
    tombstone.mkdir()
    old = node.registry.allocate(owner)
    node.registry.bury(owner, str(tombstone))
    new = node.registry.allocate(owner)
    node.configure(101)
    assert new != old
    tombstone.rmdir()
    assert node.registry.allocate(node.owner(102)) == old


def test_a_destroy_that_was_cut_short_keeps_the_range(node, forgotten):
    """Buried, but never moved: N.conf and private area are still there."""
    owner = node.owner(101)
    os.makedirs(owner.private)
    taken = node.registry.allocate(owner)
    node.registry.bury(owner, "/nonexistent/tombstone")
    assert node.registry.allocate(node.owner(102)) != taken
    node.registry.claim(owner, taken)
    assert [e.tombstone for e in node.registry.entries() if e.owner.ctid == 101] == [""]


def test_claim_of_an_imported_range(node):
    wanted = IdRange(100000, RANGE)
    node.configure(101)
    node.registry.claim(node.owner(101), wanted)
    node.registry.claim(node.owner(101), wanted)
    with pytest.raises(RangeTaken, match=r"LOCAL_UID=120000.*held by container 101") as info:
        node.registry.claim(node.owner(102), IdRange(120000, RANGE))
    assert info.value.code == 21
    assert [e.ids for e in node.registry.entries()] == [wanted]


def test_claim_of_its_own_range_writes_nothing(node):
    node.configure(101)
    mine = node.registry.allocate(node.owner(101))
    before = os.stat(node.registry.path).st_ino
    node.registry.claim(node.owner(101), mine)
    assert os.stat(node.registry.path).st_ino == before


def test_claim_of_another_range_gives_the_first_one_back(node):
    node.configure(101)
    first = node.registry.allocate(node.owner(101))
    node.registry.claim(node.owner(101), IdRange(200000, RANGE))
    assert node.registry.allocate(node.owner(102)) == first


def test_subordinate_ids_of_host_users_are_left_alone(node, tmp_path, monkeypatch):
    subuid = tmp_path / "subuid"
    subuid.write_text(f"ann:{ids.POOL_FIRST + 5}:65536\nbad line\nbob:100000:65536\ncyd:7:x\n")
    monkeypatch.setattr(ids, "SUBORDINATE", (str(subuid), str(tmp_path / "none")))
    assert node.registry.allocate(node.owner(101)).base == ids.POOL_FIRST + 2 * RANGE
    with pytest.raises(RangeTaken, match=r"subuid gives this id range to bob"):
        node.registry.claim(node.owner(102), IdRange(100000, RANGE))


def test_pool_exhausted(node, monkeypatch):
    monkeypatch.setattr(ids, "POOL_LAST", ids.POOL_FIRST + 2 * RANGE - 1)
    for n in (101, 102):
        node.registry.allocate(node.owner(n))
    with pytest.raises(VzError, match="No free id range for container 103") as info:
        node.registry.allocate(node.owner(103))
    assert info.value.code == 6
    assert len(node.registry.entries()) == 2


def test_free(node):
    taken = node.registry.allocate(node.owner(101))
    node.registry.free(node.owner(101))
    assert node.registry.entries() == []
    assert node.registry.allocate(node.owner(102)) == taken


def test_nodes_side_by_side_share_the_registry(tmp_path):
    one, two = Node(tmp_path / "one"), Node(tmp_path / "two")
    two.registry = one.registry
    assert one.registry.allocate(one.owner(101)) != two.registry.allocate(two.owner(101))


def _fifty(etc, path, number, queue):
    registry = Registry(path)
    owners = [Owner(etc, number * 1000 + n, f"{etc}/private/{number}.{n}") for n in range(50)]
    queue.put([registry.allocate(owner).base for owner in owners])


def test_eight_processes_get_disjoint_ranges(node):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    args = [(node.etc, node.registry.path, n, queue) for n in range(8)]
    workers = [context.Process(target=_fifty, args=a) for a in args]
    for worker in workers:
        worker.start()
    # The ranges of a process that ended are free again: a configuration file keeps them.
    for number in range(8):
        for n in range(50):
            node.configure(number * 1000 + n)
    bases = [base for _ in workers for base in queue.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(set(bases)) == 8 * 50 == len(node.registry.entries())


def test_eight_threads_get_disjoint_ranges(node):
    got = []

    def work(number):
        for n in range(20):
            got.append(node.registry.allocate(node.owner(number * 1000 + n)).base)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 8 * 20


@pytest.mark.parametrize(
    "given_, wanted",
    [
        ((None, None, None), None),
        (("", "", "2"), None),
        (("100000", None, None), IdRange(100000, RANGE)),
        (("100000", "100000", "3"), IdRange(100000, 3 * RANGE)),
    ],
)
def test_range_of_config(given_, wanted):
    assert ids.range_of(*given_) == wanted


@pytest.mark.parametrize(
    "given_, text",
    [
        (("0", "0", None), "LOCAL_UID=0: privileged"),
        (("0", None, None), "LOCAL_UID=0: privileged"),
        (("100000", "200000", None), "LOCAL_GID=200000: must be the same"),
        ((None, "200000", None), "LOCAL_GID=200000: LOCAL_UID is not set"),
        (("-1", None, None), "a number is needed"),
        (("1e5", None, None), "a number is needed"),
        (("65535", None, None), "must be from 65536"),
        (("4294967295", None, None), "must be from"),
        (("100000", None, "0"), "LOCAL_IDS=0"),
        (("100000", None, "x"), "LOCAL_IDS=x"),
        (("100000", None, "4095"), "LOCAL_IDS=4095"),
    ],
)
def test_bad_range_of_config(given_, text):
    with pytest.raises(ValueInvalid, match=text) as info:
        ids.range_of(*given_)
    assert info.value.code == 21


def test_a_damaged_line_is_named_and_stops_allocation(node):
    node.registry.allocate(node.owner(101))
    with open(node.registry.path, "a") as file:
        file.write("rubbish\n")
    before = open(node.registry.path).read()
    with pytest.raises(VzError, match=r"ids:3: line 3 is damaged"):
        node.registry.allocate(node.owner(102))
    assert open(node.registry.path).read() == before


@given(st.text(st.characters(codec=None, exclude_characters="\0"), min_size=1))
def test_any_path_survives_the_file(path):
    entry = ids.Entry(IdRange(100000), Owner(path, 101, path), path, "1:2")
    line = entry.line()
    assert line.isascii() and line.splitlines() == [line[:-1]]
    assert Registry()._parse(1, line[:-1]) == entry


@given(st.text())
def test_any_file_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("ids") / "ids"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        Registry(str(path)).entries()
    except VzError as err:
        assert str(path) in err.message


def test_what_is_claimed_is_held_before_there_is_anything_on_the_disk(tmp_path):
    registry = Registry(str(tmp_path / "ids"))
    wanted = IdRange(200000000, 65536)
    registry.claim(Owner(str(tmp_path / "one"), 101, str(tmp_path / "private")), wanted)
    with pytest.raises(VzError, match="held by container 101"):
        registry.claim(Owner(str(tmp_path / "other"), 102, str(tmp_path / "elsewhere")), wanted)
