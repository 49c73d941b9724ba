"""Beancounters: the table, what follows from a configuration, the texts, what is kept."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import cgroupread, cgroupshare, disks, params, ubc, ubcproc, usage, values
from vzpy.eventd import counters
from vzpy.model import NO_LIMIT, Facts, Limits, NodePaths
from vzpy.story import beancounters
from vzpy.ubc import UNLIMITED
from vzpy.ubcproc import Beancounter

PAGE = ubc.PAGE


class Conf:
    """A configuration of texts as N.conf has them."""

    def __init__(self, **texts):
        self.texts = texts

    def value(self, key):
        text = self.texts.get(key)
        return None if text is None else values.parse(params.BY_KEY[key].kind, text)


def cgroup(path, **files):
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(f"{text}\n")
    return str(path)


# --- the table -------------------------------------------------------------------------------


def test_the_table_has_every_parameter():
    assert {row.key for row in ubc.ROWS} == set(params.UBC_KEYS) - {"AVNUMPROC"}
    units = {"ubc-num": "items", "ubc-page": "pages", "ubc-byte": "bytes"}
    for row in ubc.ROWS:
        assert row.unit == units[params.BY_KEY[row.key].kind], row.name
        assert row.verdict in ubc.VERDICTS and row.why.endswith(".")
        # What is enforced has a knob, what is not has none.
        assert bool(row.knob) == (row.verdict in "EP"), row.name


def test_every_field_of_limits_is_explained():
    fields = set(Limits.__annotations__)
    assert {f for fields in ubc.FIELDS.values() for f in fields} == fields
    assert set(ubc.DEFAULTS.__dict__) == fields and None not in ubc.DEFAULTS.__dict__.values()
    assert len(ubc.explain(sorted(fields), ubc.limits(Conf(
        PHYSPAGES="0:10", SWAPPAGES="0:10", NUMPROC="1", CPUUNITS="8", CPULIMIT="5", IOPRIO="0",
        VMGUARPAGES="5:unlimited", OOMGUARPAGES="5:unlimited",
    )))) == 8


# --- formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "weight"), [
    (8, 1), (1000, 100), (2000, 200), (4000, 400), (100000, 10000), (500000, 10000),
])
def test_weight(units, weight):
    assert ubc.weight(units) == weight


@pytest.mark.parametrize(("limit", "cpus", "quota"), [
    (0, 0, NO_LIMIT), (50, 0, 50000), (0, 2, 200000), (300, 2, 200000), (25, 2, 25000),
    (1, 0, 1000),
])
def test_cpu_max(limit, cpus, quota):
    assert ubc.cpu_max(limit, cpus) == quota


def test_io():
    assert [ubc.io_weight(p) for p in (0, 4, 7)] == [20, 100, 160]
    assert ubc.io_max(1 << 20, 0) == "rbps=1048576 wbps=1048576 riops=max wiops=max"
    assert ubc.io_max(0, 100) == "rbps=max wbps=max riops=100 wiops=100"


def test_vswap_fill_in():
    """vzctl-cli 5: what RAM and swap leave unset."""
    pairs = ubc.pairs(Conf(PHYSPAGES="0:1000", SWAPPAGES="0:500", VM_OVERCOMMIT="1.5"))
    assert pairs["lockedpages"] == (1000, 1000)
    assert pairs["oomguarpages"] == (1000, UNLIMITED)
    assert pairs["vmguarpages"] == (1500, UNLIMITED)
    assert pairs["privvmpages"] == (2250, 2250)
    assert pairs["physpages"] == (0, 1000) and pairs["kmemsize"] == (UNLIMITED, UNLIMITED)
    given_wins = ubc.pairs(Conf(PHYSPAGES="0:1000", SWAPPAGES="0:500", LOCKEDPAGES="7"))
    assert given_wins["lockedpages"] == (7, 7)
    assert given_wins["privvmpages"] == (UNLIMITED, UNLIMITED)


@pytest.mark.parametrize("physpages", [None, "0:unlimited", f"0:{UNLIMITED // 4096}"])
def test_classic_physpages_only_count(physpages):
    conf = Conf(**({"PHYSPAGES": physpages} if physpages else {}), SWAPPAGES="0:5", NUMPROC="9")
    limits = ubc.limits(conf)
    assert limits.memory_max == limits.memory_high == limits.swap_max == NO_LIMIT
    assert limits.pids_max == 9 and not ubc.is_vswap(conf)
    assert ubc.pairs(conf)["vmguarpages"] == (0, UNLIMITED)


def test_memory():
    limits = ubc.limits(Conf(PHYSPAGES="0:1000", SWAPPAGES="0:0", VMGUARPAGES="600:unlimited",
                             OOMGUARPAGES="5000:unlimited"))
    assert limits.memory_max == 1000 * PAGE and limits.memory_high == 970 * PAGE
    assert limits.swap_max == 0
    # No more is guaranteed than there may be, and only to who asked for it.
    assert (limits.memory_low, limits.memory_min) == (600 * PAGE, 1000 * PAGE)
    limits = ubc.limits(Conf(PHYSPAGES="0:1000", SWAPPAGES="0:0", VMGUARPAGES="unlimited"))
    assert (limits.memory_low, limits.memory_min) == (0, 0)


def test_what_nobody_enforces():
    conf = Conf(KMEMSIZE="1M", NUMPROC="5", NUMFILE="unlimited", DCACHESIZE="5:unlimited")
    assert ubc.unenforced(conf, {"numproc"}) == ["kmemsize", "dcachesize"]


# --- /proc/user_beancounters -----------------------------------------------------------------


def rows(**numbers):
    return [Beancounter(row.name, *numbers.get(row.name, (0, 0, UNLIMITED, UNLIMITED, 0)))
            for row in ubc.ROWS]


def test_user_beancounters():
    """Byte for byte as beancounters.md 3 has it."""
    text = ubcproc.user_beancounters({
        101: rows(kmemsize=(2301952, 2666496, 14372700, 14790164, 0),
                  lockedpages=(0, 0, 2048, 2048, 0))
    })
    lines = text.split("\n")
    assert lines[:4] == [
        "Version: 2.5",
        "       uid  resource                     held              maxheld              barrier"
        "                limit              failcnt",
        "      101:  kmemsize                  2301952              2666496             14372700"
        "             14790164                    0",
        "            lockedpages                     0                    0                 2048"
        "                 2048                    0",
    ]
    assert [line.split()[-6] for line in lines[2:-1]] == (
        "kmemsize lockedpages privvmpages shmpages dummy numproc physpages vmguarpages oomguarpages"
        " numtcpsock numflock numpty numsiginfo tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf"
        " numothersock dcachesize numfile dummy dummy dummy numiptent"
    ).split()
    assert text.endswith("\n")


def test_resources_have_swap_and_no_dummies():
    lines = ubcproc.resources({5: rows(), 123456789: rows()}).split("\n")
    assert len(lines) == 2 + 2 * 21 + 1 and "dummy" not in str(lines)
    assert lines[22].startswith("            swappages   ")
    assert lines[23].startswith("123456789:  kmemsize    ")


_NUMBERS = st.integers(0, UNLIMITED)


@given(st.dictionaries(st.integers(0, 2**31 - 1), st.lists(_NUMBERS, min_size=5, max_size=5),
                       max_size=4))
def test_text_and_back(numbers):
    all_of = {ctid: [Beancounter(row.name, *five, verdict=row.verdict) for row in ubc.ROWS]
              for ctid, five in numbers.items()}
    assert ubcproc.parse(ubcproc.resources(all_of)) == all_of


def test_parse_one_block_alone():
    found = ubcproc.parse("            numproc  1 2 3 4 5\n")
    assert found == {0: [Beancounter("numproc", 1, 2, 3, 4, 5, "E")]}


@pytest.mark.parametrize(("text", "says"), [
    ("Version: 2.4\n", "unknown version: 2.4"),
    ("Version: 2.5\n 101: numproc 1 2 3\n", "line 2: not a name and five numbers: 101:"),
    ("x1: numproc 1 2 3 4 5\n", "line 1: x1: is no container's number"),
    ("1: numproc 1 2 -3 4 5\n", "line 1"),
])
def test_parse_refuses(text, says):
    with pytest.raises(ValueError) as err:
        ubcproc.parse(text)
    assert str(err.value).startswith(says)


@given(st.text(max_size=200))
def test_parse_of_anything(text):
    try:
        ubcproc.parse(text)
    except ValueError:
        pass


# --- what is kept ----------------------------------------------------------------------------


_LOOKS = st.lists(st.dictionaries(st.integers(1, 6), st.integers(1, 50), max_size=4), max_size=12)


@given(_LOOKS)
def test_refusals_never_go_back(looks):
    """Whatever cgroups come and go; one that is there only counts up."""
    kept, greatest = cgroupread.Kept(0, {}, {}), 0
    counts: dict[int, int] = {}
    for look in looks:
        # An inode number is never given again: those that went are gone for good.
        counts = {inode: counts.get(inode, 0) + more for inode, more in look.items()
                  if inode in counts or inode > max(counts, default=0)}
        kept = cgroupread._merged(kept, counts, {})
        shown = kept.lost + sum(counts.values())
        assert shown >= greatest
        greatest = shown


def test_kept_on_a_cgroup(tmp_path, monkeypatch):
    attributes = {}

    def setxattr(fd, name, value):
        attributes[name] = value

    def getxattr(path, name):
        if name not in attributes:
            raise OSError(61, "no")
        return attributes[name]

    monkeypatch.setattr(os, "setxattr", setxattr)
    monkeypatch.setattr(os, "getxattr", getxattr)
    vps = str(tmp_path)
    assert cgroupread.keep(vps, {7: 3, 8: 1}, {"kmemsize": 50}).peaks == {"kmemsize": 50}
    assert cgroupread.keep(vps, {7: 4}, {"kmemsize": 20}) == cgroupread.Kept(
        1, {7: 4}, {"kmemsize": 50}
    )
    leaf = tmp_path / "leaf"
    leaf.mkdir()
    (leaf / "pids.events").write_text("max 5\n")
    cgroupread.note_leaf(vps, str(leaf))
    assert cgroupread.keep(vps, {7: 4}, {}).lost == 6
    cgroupread.write_applied(vps, {"NUMPROC": "5:6", "CPUMASK": "0-1,3"})
    assert cgroupread.applied(vps) == {"NUMPROC": "5:6", "CPUMASK": "0-1,3"}


def test_fork_refusals(tmp_path):
    """The whole subtree before Linux 6.11, one number since."""
    assert cgroupread.fork_refusals(str(tmp_path)) is None
    for path, count in (("", 0), ("ve", 2), ("ve/a", 3), ("ve/b", 0)):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "pids.events").write_text(f"max {count}\n")
    inode = {name: (tmp_path / name).stat().st_ino for name in ("ve", "ve/a")}
    assert cgroupread.fork_refusals(str(tmp_path)) == {inode["ve"]: 2, inode["ve/a"]: 3}
    (tmp_path / "pids.events.local").write_text("max 4\n")
    assert cgroupread.fork_refusals(str(tmp_path)) == {0: 4}
    (tmp_path / "ve/pids.events.local").write_text("max 2\n")
    (tmp_path / "ve/a/pids.events.local").write_text("max 9\n")  # a limit of the guest's own
    assert cgroupread.fork_refusals(str(tmp_path)) == {0: 6}


# --- a look at a cgroup ----------------------------------------------------------------------


def look_at(path):
    facts = Facts(
        ctid=1, pid=os.getpid(), starttime=0, boot_id="", layout="simfs", private="", root="",
        base=1 << 20, count=65536, cgroup=str(path), init="busybox", daemon=False, started=0.0,
    )  # fmt: skip
    return beancounters.Look(facts, beancounters.Shared())


def test_where_the_numbers_come_from(tmp_path):
    vps = cgroup(
        tmp_path / "1", pids_current=7, pids_peak=9, pids_max=100, cgroup_procs="",
        memory_current=10 * PAGE, memory_peak=20 * PAGE, memory_max=0, memory_low=0,
        memory_stat=f"anon {3 * PAGE}\nkernel 4000\nshmem {2 * PAGE}\n"
        f"slab_reclaimable 1500\nunevictable {PAGE}",
        memory_events="max 99\nhigh 99\noom_kill 2", memory_swap_current=5 * PAGE,
        memory_swap_events="high 0\nmax 8\nfail 9", memory_swap_max=0, pids_events="max 6",
    )
    (tmp_path / "1/memory.events.local").write_text("high 4\nmax 3\noom_kill 0\n")
    look = look_at(vps)
    assert look.count("numproc") == (7, 9, 6)
    # What the limit of the VPS refused; services' own limits are not its failures.
    assert look.count("physpages") == (10, 20, 7)
    assert look.count("swappages") == (5, 5, 8)
    assert look.count("oomguarpages") == (8, 8, 2)
    assert look.count("kmemsize") == (4000, 4000, 0)
    assert [look.count(name)[0] for name in ("lockedpages", "shmpages", "dcachesize")] == [
        1, 2, 1500
    ]
    assert look.count("vmguarpages") == (0, 0, 0)
    verdicts = {row.name: row.verdict for row in look.rows(Conf(PHYSPAGES="0:9", SWAPPAGES="0:9"))}
    assert [verdicts[n] for n in ("numproc", "physpages", "oomguarpages", "kmemsize")] == list(
        "EENA"
    )
    assert {row.name: row.verdict for row in look_at(vps).rows(Conf())}["physpages"] == "A"


def test_a_cgroup_that_is_gone(tmp_path):
    assert look_at(tmp_path / "gone").count("numproc") == (None, None, None)
    assert look_at(tmp_path / "gone").count("physpages") == (None, None, None)


def test_what_processes_hold():
    """Of ourselves, against what we know of ourselves."""
    with open("/dev/null") as one, open("/dev/null") as two:
        found = usage.of_processes([os.getpid(), 2**22 - 1])
        assert found["numfile"] >= 5 and one != two
    assert found["privvmpages"] * PAGE > 1 << 20
    before = usage.of_sockets(os.getpid())
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.sendto(b"x" * 500, udp.getsockname())
        after = usage.of_sockets(os.getpid())
        assert after["numtcpsock"] > before["numtcpsock"]
        assert after["dgramrcvbuf"] >= before["dgramrcvbuf"] + 500
    held = usage.locks().get(os.getpid(), 0)
    with open("/dev/null") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert usage.locks()[os.getpid()] == held + 1


# --- what VPSs share -------------------------------------------------------------------------


def test_the_node_has_the_sum(tmp_path):
    node = cgroup(tmp_path / "vz", cpu_weight=100, memory_low=0)
    cgroup(tmp_path / "vz/1", cpu_weight=100, memory_low=5)
    cgroup(tmp_path / "vz/2", cpu_weight=250, memory_low=7)
    cgroup(tmp_path / "vz/daemon", cpu_weight=999, memory_low=9)
    cgroupshare.share(node, str(tmp_path / "vz/1"))
    assert (tmp_path / "vz/cpu.weight").read_text().strip() == "350"
    assert (tmp_path / "vz/memory.low").read_text().strip() == "12"
    assert cgroupshare.guaranteed(node, str(tmp_path / "vz/2")) == (5, 0)
    (tmp_path / "vz/1/memory.low").write_text("0\n")  # one has gone, or has none any more
    (tmp_path / "vz/1/cpu.weight").write_text("90000\n")
    cgroup(tmp_path / "vz", cpu_weight=1, memory_low=9)  # plain files are not cut short by a write
    cgroupshare.share(node)
    assert (tmp_path / "vz/memory.low").read_text().strip() == "7"
    assert (tmp_path / "vz/cpu.weight").read_text().strip() == "10000"
    cgroupshare.share(str(tmp_path / "nowhere"))


def test_least_loaded(tmp_path):
    cgroup(tmp_path / "vz")
    cgroup(tmp_path / "vz/1", cpuset_cpus="0-1")
    cgroup(tmp_path / "vz/2", cpuset_cpus="1")
    mine = cgroup(tmp_path / "vz/3", cpuset_cpus="")
    assert cgroupshare.least_loaded(mine, 1, [0, 1, 2, 3]) == [2]
    assert cgroupshare.least_loaded(mine, 3, [0, 1, 2, 3]) == [0, 2, 3]
    assert cgroupshare.least_loaded(mine, 1, [0, 1]) == [0]
    cgroup(tmp_path / "vz/3", cpuset_cpus="1")
    assert cgroupshare.least_loaded(mine, 1, [0, 1, 2, 3]) == [1]  # it has that one already


# --- disks -----------------------------------------------------------------------------------


def test_disks_under_a_partition_dm_md_and_loop(tmp_path, monkeypatch):
    """An image on LVM on RAID 1 of partitions of two disks."""
    sys, devices = tmp_path / "sys", tmp_path / "sys/devices"
    block = sys / "dev/block"
    block.mkdir(parents=True)

    def device(path, number, slaves=(), **files):
        where = devices / path
        where.mkdir(parents=True)
        (where / "dev").write_text(f"{number}\n")
        (block / number).symlink_to(where)
        for name, text in files.items():
            (where / name).write_text(f"{text}\n")
        (where / "slaves").mkdir()
        for slave in slaves:
            (where / "slaves" / slave.rpartition("/")[2]).symlink_to(devices / slave)
        return where

    for disk, number in (("sda", 8), ("sdb", 9)):
        device(disk, f"{number}:0")
        device(f"{disk}/{disk}1", f"{number}:1", partition=1)
    device("md0", "10:0", ["sda/sda1", "sdb/sdb1"])
    device("dm-0", "11:0", ["md0"])
    loop = device("loop0", "7:0")
    (loop / "loop").mkdir()
    (loop / "loop/backing_file").write_text("/images/root.img\n")

    numbers = {"/in/image": (7, 0), "/images": (11, 0), "/plain": (8, 0), "/part": (9, 1)}

    class Status:
        def __init__(self, device):
            self.st_dev = os.makedev(*device)

    real = os.stat
    monkeypatch.setattr(os, "stat", lambda p, *a, **k: (
        Status(numbers[p]) if p in numbers else real(p, *a, **k)
    ))
    assert disks.under("/in/image", str(sys)) == ["8:0", "9:0"]
    assert disks.under("/plain", str(sys)) == ["8:0"]
    assert disks.under("/part", str(sys)) == ["9:0"]
    assert disks.under("/nowhere", str(sys)) == []


def test_weights_have_an_effect_where_somebody_looks_at_them(tmp_path):
    queue = tmp_path / "dev/block/8:0/queue"
    queue.mkdir(parents=True)
    (queue / "scheduler").write_text("[none] mq-deadline bfq\n")
    assert not disks.weighs("8:0", str(tmp_path), str(tmp_path))
    qos = tmp_path / "io.cost.qos"
    qos.write_text("8:16 enable=1 ctrl=auto\n8:0 enable=0 ctrl=auto\n")
    assert not disks.weighs("8:0", str(tmp_path), str(tmp_path))
    qos.write_text("8:0 enable=1 ctrl=auto\n")
    assert disks.weighs("8:0", str(tmp_path), str(tmp_path))
    qos.unlink()
    (queue / "scheduler").write_text("none mq-deadline [bfq]\n")
    assert disks.weighs("8:0", str(tmp_path), str(tmp_path))


def test_no_disk_under_proc():
    assert disks.under("/proc") == []


# --- the daemon's looks ----------------------------------------------------------------------


class Daemon:
    """As much of a daemon as Counters wants."""

    def __init__(self, run):
        self.paths = NodePaths.of(str(run), str(run))
        self.loop = self.births = self
        self.errands, self.running, self.calls = set(), 1, []

    def count(self):
        return self.running

    def after(self, seconds, call):
        self.calls.append((seconds, call))


def test_the_daemon_looks_while_something_runs(tmp_path):
    daemon = Daemon(tmp_path)
    looks = counters.Counters(daemon)
    looks.begin()
    looks.begin()
    assert [seconds for seconds, _ in daemon.calls] == [counters.PERIOD]
    daemon.calls.pop()[1]()
    (child,) = daemon.errands
    assert os.waitpid(child, 0)[1] == 0
    daemon.calls.pop()[1]()  # the last look is not over, as far as the daemon knows
    assert daemon.errands == {child}
    daemon.errands.clear()
    daemon.calls.pop()[1]()
    (second,) = daemon.errands
    assert second != child and os.waitpid(second, 0)[1] == 0
    daemon.running = 0
    daemon.calls.pop()[1]()
    assert daemon.calls == []
