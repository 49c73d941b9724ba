"""Beancounters of real VPSs: each limit is driven into, by programs inside, and told."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import stores

import tools
from vzpy import cgroupread, cgroups
from vzpy.errors import Exit, VzError
from vzpy.eventd import counters
from vzpy.story import oomorder

MB = 1 << 20
PAGE = 4096
# Programs that hold something until they are killed: busybox has them.
SLEEPERS = "n=0; while [ $n -lt {} ]; do sleep 1000 & n=$((n+1)); done"
# `find -exec` goes on when a fork fails, and says so.
FORKS = "find /tmp -name 'f?' -exec /bin/sleep 0 \\;"


@pytest.fixture
def pair(node):
    """A VPS and its neighbour, running, 64M of RAM each."""
    made = []
    for ctid in (101, 102):
        vps = node.create(ctid)
        vps.set(ram="64M", swap="0", numproc=60)
        vps.start()
        made.append(vps)
    return made


def counter(vps, name):
    return next(row for row in vps.beancounters() if row.name == name)


def failures(vps):
    return {row.name: row.failcnt for row in vps.beancounters() if row.failcnt}


def knob(vps, name):
    return Path(vps.facts().cgroup, name).read_text().strip()


def holder(vps, line):
    """Start something inside that stays, without waiting for it."""
    tools.sh(vps, f"({line}) >/dev/null 2>&1 </dev/null &")


# --- everywhere ------------------------------------------------------------------------------


def test_every_row_is_told_in_every_way(vps, cli, vzctl):
    """The library, /proc/user_beancounters text, table, JSON and vzlist agree."""
    vps.start()
    assert vzctl("set", 101, "--kmemsize", "10M:11M", "--numproc", "90:100", "--save").code == 0
    rows = {row.name: row for row in vps.beancounters()}
    assert (rows["kmemsize"].barrier, rows["kmemsize"].limit) == (10 * MB, 11 * MB)
    assert rows["numproc"].held >= 1 and rows["numproc"].maxheld >= rows["numproc"].held

    raw = cli("vzubc", "--raw", 101).stdout.split("\n")
    assert raw[0] == "Version: 2.5"
    assert raw[2][:24] == "      101:  kmemsize    "
    assert raw[2].split()[4:] == [str(10 * MB), str(11 * MB), "0"]
    assert len(raw) == 2 + 24 + 1
    text = vps.node.user_beancounters().split("\n")
    assert text[:2] == raw[:2] and [x[:24] for x in text] == [x[:24] for x in raw]
    assert [x.split()[-3:] for x in text[2:]] == [x.split()[-3:] for x in raw[2:]]
    assert [x.split()[-6] for x in vps.node.resources().split("\n")[2:-1]] == list(rows)

    told = json.loads(cli("vzubc", "--json").stdout)
    assert [one["ctid"] for one in told] == [101]
    assert {row["name"]: row["limit"] for row in told[0]["beancounters"]} == {
        name: row.limit for name, row in rows.items()
    }
    listed = cli("vzlist", "-Ho", "numproc.b,numproc.l,kmemsize.l").stdout.split()
    assert listed == ["90", "100", str(11 * MB)]
    assert "  numproc|" in cli("vzubc", 101).stdout
    assert "numproc: " in cli("vzubc", "--explain", 101).stdout


def test_what_was_not_saved_is_shown_while_it_holds(vps, vzctl, cli):
    vps.start()
    assert "UB limits were set" in vzctl("set", 101, "--avnumproc", "7").stdout
    vps.set(kmemsize=5000000)
    text = Path(vps.conf_path).read_text().replace("5000000", "6000000")
    Path(vps.conf_path).write_text(text)
    vps.reload()
    assert counter(vps, "kmemsize").limit == 5000000  # until it is started anew
    assert vzctl("set", 101, "--reset_ub").code == 0
    assert counter(vps, "kmemsize").limit == 6000000


def test_a_look_of_the_daemon_keeps_maxima(node, vps):
    """What went up and down between two questions was seen by a look in between."""
    tools.plant(vps, "/sbin/init", tools.IDLE, 0o755)
    vps.start()
    before = counter(vps, "numfile").held
    holder(vps, f"{SLEEPERS.format(10)}; wait")
    # All are what killall looks for: ten, and init.
    tools.wait_for(lambda: len(tools.sh(vps, "pidof sleep").split()) == 11)
    tools.wait_for(lambda: counters.look(node.paths) and peak(vps, "numfile") >= before + 15)
    tools.sh(vps, "killall sleep")
    tools.wait_for(lambda: counter(vps, "numfile").held <= before + 3)
    assert counter(vps, "numfile").maxheld >= before + 15
    vps.stop(fast=True)
    assert counters.look(node.paths) == 0


def peak(vps, name):
    """As it was noted, without a look of our own."""
    return cgroupread.kept(vps.facts().cgroup).peaks.get(name, 0)


def test_stopped(vps, cli, vzctl):
    with pytest.raises(VzError) as err:
        vps.beancounters()
    assert err.value.code == Exit.VE_NOT_RUNNING
    assert cli("vzubc", 101).stdout == ""
    ran = vzctl("set", 101, "--numproc", "50")
    assert ran.code == 31 and ran.stderr.startswith("Unable to apply UBC parameters")


# --- processes -------------------------------------------------------------------------------


@pytest.mark.needs("pids controller")
def test_numproc_is_counted_exactly(pair):
    vps, neighbour = pair
    tools.sh(vps, "cd /tmp; touch f1 f2 f3 f4 f5")
    # Two places are left: for the shell of the attempt and its find.
    holder(vps, f"{SLEEPERS.format(57 - counter(vps, 'numproc').held)}; wait")
    tools.wait_for(lambda: counter(vps, "numproc").held == 58, what="sleepers")
    before = counter(vps, "numproc").failcnt
    done = vps.exec(["/bin/sh", "-c", f"{FORKS}; true"])
    refused = done.stderr.count(b"Resource temporarily unavailable")
    row = counter(vps, "numproc")
    assert refused == 5 == row.failcnt - before, done
    assert row.maxheld == row.limit == 60
    assert "numproc" not in failures(neighbour)
    tools.sh(neighbour, "true")
    # An exec from outside that finds no place is a failure of that VPS, too, and comes in.
    vps.set(numproc=58)
    tools.sh(vps, "true")
    assert counter(vps, "numproc").failcnt == row.failcnt + 1


PERL = """
for (1..20) { my $pid = fork; $failed++ unless defined $pid; push @all, $pid if $pid;
              if (defined $pid && !$pid) { sleep 1000; exit } }
kill 9, @all; 1 while wait > 0; print $failed; """


@pytest.mark.slow  # a boot of systemd under emulation
@pytest.mark.needs("pids controller", "debian template")
def test_refusals_in_a_leaf_that_went(make_node):
    """Under systemd a leaf of exec counts for itself; it goes with the command, its count stays."""
    vps = make_node(stores.debian_store()).create(101, ostemplate=stores.DEBIAN)
    vps.start(wait=True)
    vps.set(numproc=counter(vps, "numproc").held + 5)
    before = counter(vps, "numproc").failcnt
    refused = int(tools.sh(vps, f"perl -e '{PERL}'"))
    assert refused >= 15
    assert list(Path(vps.facts().cgroup, "ve").glob(".vz-*")) == []
    assert counter(vps, "numproc").failcnt == before + refused
    assert int(tools.sh(vps, f"perl -e '{PERL}'")) == refused
    assert counter(vps, "numproc").failcnt == before + 2 * refused


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.needs("memory controller")
def test_physpages(pair):
    """More than RAM without swap: slowed, then killed, inside that VPS."""
    vps, neighbour = pair
    done = vps.exec(["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1"], timeout=300)
    assert done.returncode == -9, done
    rows = {row.name: row for row in vps.beancounters()}
    assert rows["physpages"].failcnt >= 1 and rows["oomguarpages"].failcnt == 1
    assert rows["physpages"].maxheld <= rows["physpages"].limit == 64 * MB // PAGE
    assert rows["physpages"].maxheld > 0.9 * rows["physpages"].limit
    assert failures(neighbour) == {} and vps.status.running
    tools.sh(vps, "true")


@pytest.mark.needs("memory controller", "zram swap")
def test_swappages(pair):
    vps, neighbour = pair
    vps.set(swap="16M")
    line = "dd if=/dev/zero of=/dev/null bs=120M count=1"
    with tools.zram_swap(64):
        done = vps.exec(["/bin/sh", "-c", line], timeout=300)
    assert done.returncode == -9, done
    row = counter(vps, "swappages")
    assert row.failcnt >= 1 and row.limit == 16 * MB // PAGE
    assert row.maxheld <= row.limit
    assert knob(neighbour, "memory.swap.current") == "0"
    assert failures(neighbour) == {}


@pytest.mark.needs("memory controller")
def test_less_memory_than_is_used(pair, vzctl):
    """Cache is reclaimed; what cannot be is an error that tells used and asked, all else as
    before."""
    vps, _ = pair
    tools.sh(vps, "dd if=/dev/zero of=/tmp/file bs=1M count=40 && sync")
    assert counter(vps, "physpages").held * PAGE > 36 * MB
    ran = vzctl("set", 101, "--ram", "24M", "--swap", "0", "--save")
    assert (ran.code, ran.stderr) == (0, "")
    assert knob(vps, "memory.max") == str(24 * MB)
    assert int(knob(vps, "memory.high")) < 24 * MB

    assert vzctl("set", 101, "--ram", "64M", "--swap", "0", "--save").code == 0
    tools.sh(vps, "mount -t tmpfs none /mnt; dd if=/dev/zero of=/mnt/f bs=1M count=30")
    before = Path(vps.conf_path).read_text(), knob(vps, "memory.high")
    ran = vzctl("set", 101, "--ram", "16M", "--swap", "0", "--numproc", "77", "--save")
    assert ran.code == Exit.SETUBC
    assert f"unable to lower physpages to {16 * MB // PAGE} pages: " in ran.stderr
    assert "pages are in use\n" in ran.stderr
    assert (Path(vps.conf_path).read_text(), knob(vps, "memory.high")) == before
    assert (knob(vps, "memory.max"), knob(vps, "pids.max")) == (str(64 * MB), "60")


@pytest.mark.needs("memory controller", "pids controller")
def test_a_sample_on_a_running_vps(pair, vzctl):
    vps, _ = pair
    ran = vzctl("set", 101, "--applyconfig", "vswap-512m", "--save")
    assert ran.code == 0 and "UB limits were set successfully\n" in ran.stdout, ran
    assert "Setting CPU units: 1000\n" in ran.stdout
    assert knob(vps, "memory.max") == str(512 * MB)
    assert knob(vps, "pids.max") == str(counter(vps, "numproc").limit) != "60"
    # And back to classic beancounters: memory is then only counted.
    ran = vzctl("set", 101, "--applyconfig", "basic", "--save")
    assert ran.code == 0 and "kmemsize" in ran.stderr, ran
    assert (knob(vps, "memory.max"), knob(vps, "memory.high")) == ("max", "max")
    assert (knob(vps, "pids.max"), knob(vps, "memory.low")) == ("240", str(33792 * PAGE))
    assert counter(vps, "physpages").verdict == "A"


@pytest.mark.needs("memory controller")
def test_guarantees(node, pair, vzctl):
    vps, _ = pair
    # Of RAM no more than the VPS has.
    assert vzctl("set", 101, "--vmguarpages", "32M", "--oomguarpages", "1T", "--save").code == 0
    assert (knob(vps, "memory.low"), knob(vps, "memory.min")) == (str(32 * MB), str(64 * MB))
    shared = Path(vps.facts().cgroup).parent
    assert (shared / "memory.low").read_text().strip() == str(32 * MB)
    assert (shared / "memory.min").read_text().strip() == str(64 * MB)
    greedy = node.create(103)
    greedy.set(ram="100T", swap="0", vmguarpages="100T")
    ran = vzctl("start", 103)
    assert ran.code == Exit.OVERCOMMIT and "vmguarpages" in ran.stderr
    assert not greedy.status.running and not greedy.status.mounted
    vps.stop(fast=True)
    assert (shared / "memory.low").read_text().strip() == "0"


def test_who_has_more_than_is_guaranteed_is_killed_first(vps):
    """By the order that the kernel keeps, back again, and of its own processes alone."""
    vps.start()
    holder(vps, "sleep 1000")
    cgroup = vps.facts().cgroup

    def scores():
        pids = cgroups.tasks(cgroup, "cgroup.procs")
        return {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids}

    assert scores() == {0}
    for first, score in ((True, oomorder.STEP), (True, oomorder.STEP), (False, 0), (False, 0)):
        oomorder.put(cgroup, first)
        assert scores() == {score}
    assert Path("/proc/self/oom_score_adj").read_text() == "0\n"


@pytest.mark.needs("memory controller")
def test_the_daemon_looks_who_has_more(node, pair):
    vps, neighbour = pair
    vps.set(oomguarpages="4M")
    neighbour.set(oomguarpages="60M")
    holder(vps, "exec awk 'BEGIN { for (n = 0; n < 200000; n++) a[n] = n; system(\"sleep 999\") }'")

    def score(vps):
        return Path(f"/proc/{vps.facts().pid}/oom_score_adj").read_text().strip()

    tools.wait_for(lambda: counter(vps, "oomguarpages").held > 1024, what="more than 4 MiB")
    counters.look(node.paths)
    assert (score(vps), score(neighbour)) == (str(oomorder.STEP), "0")
    vps.set(oomguarpages="60M")
    counters.look(node.paths)
    assert score(vps) == "0"


# --- CPUs ------------------------------------------------------------------------------------


def used(vps) -> int:
    """Microseconds of CPU time."""
    return int(knob(vps, "cpu.stat").split()[1])


def measured(vpss, seconds: float) -> list[float]:
    """Seconds of CPU time of each, over a time in which all of them want all they can get."""
    time.sleep(1)
    before = [used(vps) for vps in vpss]
    time.sleep(seconds)
    return [(used(vps) - start) / 1e6 for vps, start in zip(vpss, before)]


SPIN = "while :; do :; done"


def shares(vpss, expected) -> None:
    """Of CPU time, in terms of the first one's, within 5 %."""
    # A busy machine steals time of the virtual one, from whoever runs there at that moment: longer.
    had = [0.0] * len(vpss)
    for seconds in (10, 10, 20):
        had = [before + more for before, more in zip(had, measured(vpss, seconds))]
        ratios = [one / had[0] for one in had]
        print("seconds of CPU time:", *(f"{one:.2f}" for one in had))
        if ratios == pytest.approx(expected, rel=0.05):
            break
    assert ratios == pytest.approx(expected, rel=0.05)


@pytest.mark.needs("cpu controller", "cpuset controller")
def test_cpuunits_share_a_cpu(node, vzctl):
    """1:2:4 on one CPU that all three want, and, changed while they do, 4:2:1."""
    vpss = [node.create(101 + i) for i in range(3)]
    for vps, units in zip(vpss, (1000, 2000, 4000)):
        vps.set(cpuunits=units, cpumask="0")
        vps.start()
        holder(vps, SPIN)
    shared = Path(vpss[0].facts().cgroup).parent
    assert (shared / "cpu.weight").read_text().strip() == "700"
    shares(vpss, (1, 2, 4))
    for vps, units in zip(vpss, (4000, 2000, 1000)):
        ran = vzctl("set", vps.ctid, "--cpuunits", units)
        assert ran.code == 0 and ran.stdout.startswith(f"Setting CPU units: {units}\n")
    shares(vpss, (1, 1 / 2, 1 / 4))


@pytest.mark.needs("cpu controller")
def test_cpulimit(vps, vzctl):
    """Changed while it is busy: 25 % within two points."""
    vps.start()
    holder(vps, SPIN)
    holder(vps, SPIN)
    ran = vzctl("set", 101, "--cpulimit", "25")
    assert (ran.code, ran.stdout.split("\n")[0]) == (0, "Setting CPU limit: 25")
    (seconds,) = measured([vps], 10)
    print(f"cpulimit 25 had {seconds * 10:.1f} %")
    assert seconds * 10 == pytest.approx(25, abs=2)
    assert vzctl("set", 101, "--cpulimit", "0").stdout.startswith("Setting CPU limit: 0\n")
    assert knob(vps, "cpu.max").startswith("max")


@pytest.mark.needs("cpuset controller")
def test_cpus_and_cpumask(node, vzctl):
    """nproc inside agrees; two VPSs of one CPU each have different ones."""
    vpss = [node.create(101 + i) for i in range(2)]
    for vps in vpss:
        vps.set(cpus=1)
        vps.start()
        assert tools.sh(vps, "nproc").strip() == "1"
    assert {knob(vps, "cpuset.cpus") for vps in vpss} == {"0", "1"}
    assert vzctl("set", 101, "--cpumask", "all", "--cpus", "0", "--save").stdout == (
        "Setting CPUs: 0\n"
        "Setting CPU mask: all\n"
        f"CT configuration saved to {vpss[0].conf_path}\n"
    )
    assert tools.sh(vpss[0], "nproc").strip() == str(os.cpu_count())
    before = Path(vpss[0].conf_path).read_text()
    ran = vzctl("set", 101, "--cpumask", "999", "--save")
    assert ran.code == Exit.SETFSHD and "--cpumask is online" in ran.stderr
    assert Path(vpss[0].conf_path).read_text() == before
    assert knob(vpss[0], "cpuset.cpus.effective") == knob(vpss[0], "../cpuset.cpus.effective")
    ran = vzctl("set", 101, "--cpumask", "auto", "--nodemask", "0")
    assert "Setting NUMA node mask: 0" in ran.stdout and knob(vpss[0], "cpuset.mems") == "0"


@contextmanager
def lxcfs():
    where = "/var/lib/lxcfs"
    os.makedirs(where, exist_ok=True)
    with open("/proc/self/mountinfo") as f:
        options = next(x.split()[-1] for x in f if " - cgroup2 " in x)
    out = subprocess.DEVNULL
    daemon = subprocess.Popen(["lxcfs", "-f", where], stdout=out, stderr=out)
    try:
        tools.wait_for(lambda: os.path.exists(f"{where}/proc/meminfo"), what="lxcfs")
        yield
    finally:
        daemon.terminate()
        daemon.wait()
        subprocess.run(["umount", "-l", where], stderr=out)
        # It mounts cgroup2 for itself, without the options that hold for all mounts of it.
        command = ["mount", "-o", f"remount,{options}", cgroups.mountpoint()]
        subprocess.run(command, check=True)


@pytest.mark.needs("memory controller", "cpuset controller", "lxcfs")
def test_what_is_shown_inside_agrees(node):
    """/proc/meminfo and /proc/cpuinfo are those of the limits, where lxcfs runs."""
    vps = node.create(101)
    vps.set(ram="64M", swap="0", cpus=1)

    def shown() -> list[str]:
        line = "grep MemTotal /proc/meminfo; grep SwapTotal /proc/meminfo;" \
            " grep -c ^processor /proc/cpuinfo; nproc"
        return tools.sh(vps, line).replace("kB", "").split()

    with lxcfs():
        vps.start()
        assert shown() == ["MemTotal:", "65536", "SwapTotal:", "0", "1", "1"]
        vps.set(ram="96M", cpus=0)
        count = str(os.cpu_count())
        assert shown() == ["MemTotal:", "98304", "SwapTotal:", "0", count, count]
        vps.stop(fast=True)


@pytest.mark.needs("memory controller", "cpuset controller", "lxcfs", "debian template")
def test_free_and_nproc_agree(make_node):
    """Those of Debian, of which free(1) reads /proc/meminfo; busybox asks the kernel."""
    vps = make_node(stores.debian_store()).create(101, ostemplate=stores.DEBIAN)
    tools.plant(vps, "/usr/sbin/init", tools.IDLE, 0o755)
    vps.set(ram="64M", swap="0", cpus=1)

    def shown() -> list[str]:
        return tools.sh(vps, "free -k | awk '/:/ { print $2 }'; nproc").split()

    with lxcfs():
        vps.start()
        assert shown() == ["65536", "0", "1"]
        vps.set(ram="96M", cpus=0)
        assert shown() == ["98304", "0", str(os.cpu_count())]
        vps.stop(fast=True)


# --- disks -----------------------------------------------------------------------------------


@pytest.mark.needs("io controller")
def test_iolimit(vps, vzctl):
    """Direct writes of 4 MB at 1 MB/s take their time; without the limit they do not."""
    vps.start()
    ran = vzctl("set", 101, "--iolimit", "1", "--iopslimit", "1000", "--save")
    assert ran.stdout.split("\n")[:2] == [
        "Setting iolimit: 1048576 bytes/sec", "Setting iopslimit: 1000 iops",
    ]
    from vzpy import disks

    words = f"rbps={MB} wbps={MB} riops=1000 wiops=1000"
    assert knob(vps, "io.max").split("\n") == [f"{d} {words}" for d in disks.under(vps.private)]
    line = "dd if=/dev/zero of=/tmp/file bs=512k count=8 oflag=direct conv=fsync"
    begun = time.monotonic()
    tools.sh(vps, line)
    assert time.monotonic() - begun > 2.5
    assert vzctl("set", 101, "--iolimit", "0", "--iopslimit", "0").stdout.startswith(
        "Setting iolimit: 0 (unlimited)\nSetting iopslimit: 0 (unlimited)\n"
    )
    assert knob(vps, "io.max") == ""


# --- many ------------------------------------------------------------------------------------


def best_of(count: int, act) -> float:
    """Seconds that the fastest of some rounds took."""
    took = []
    for _ in range(count):
        begun = time.monotonic()
        act()
        took.append(time.monotonic() - begun)
    return min(took)


@pytest.mark.slow
def test_vzubc_of_a_hundred(node, cli):
    """In 0.3 s; on a slower machine in as much more as a bare Python takes longer than 9 ms."""
    vpss = [node.create(101 + i) for i in range(100)]
    for vps in vpss:
        vps.start()
    assert cli("vzubc").stdout.count("\nCT ") == 100
    python = ["/usr/bin/python3", "-IS", "-c", "pass"]
    bare = best_of(10, lambda: subprocess.run(python, check=True))
    best = best_of(5, lambda: cli("vzubc"))
    print(f"vzubc of 100 VPSs: {best:.3f} s, a bare Python {bare:.3f} s")
    assert best < 0.3 * max(1, bare / 0.009)
