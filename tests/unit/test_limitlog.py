"""Limits that were run into: the log, the kernel's words, what is told and when."""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import limitlog
from vzpy.eventd import limitwatch
from vzpy.kernel import inotify
from vzpy.kernel.kmsg import KernelLog, OomKill, oom_kill
from vzpy.limitlog import Hit

KILLED = (
    "Memory cgroup out of memory: Killed process 1234 (sh) total-vm:9000kB, anon-rss:1000kB,"
    " file-rss:24kB, shmem-rss:0kB, UID:1879048192 pgtables:60kB oom_score_adj:0"
)


def hit(number: int = 1, **given) -> Hit:
    return Hit(1764000000.5, 101, "numproc", number, number, 20, 77, **given)


def test_a_hit_comes_back_as_it_was_written(tmp_path):
    path = limitlog.path_of(str(tmp_path / "state"))
    assert list(limitlog.read(path)) == []
    kill = Hit(1.0, 7, "oom_kill", pid=3, comm='a"\n\x00é', rss=4096)
    for one in (hit(), kill):
        limitlog.append(path, one)
    assert list(limitlog.read(path)) == [hit(), kill]
    first = json.loads(open(path).readline())
    assert first == {"time": 1764000000.5, "ctid": 101, "what": "numproc", "count": 1, "total": 1,
                     "limit": 20, "start": 77}
    assert os.stat(path).st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (hit(), "numproc: refused 1 time at the limit of 20, 1 since the start"),
        (Hit(0, 1, "physpages", 3, 9), "physpages: refused 3 times, 9 since the start"),
        (Hit(0, 1, "oom_kill", 2), "OOM killed 2 processes"),
        (Hit(0, 1, "oom_kill", 1, pid=5, comm="sh", rss=2048), "OOM killed process 5 (sh), 2 KiB"),
        (Hit(0, 1, "rescue", text="all well"), "rescue: all well"),
    ],
)
def test_text(one, text):
    assert one.message == text
    assert str(one).endswith(f" CT {one.ctid} : {text}") and str(one)[4] == "-"


def test_the_file_is_bounded_and_followed_over_its_renaming(tmp_path, monkeypatch):
    monkeypatch.setattr(limitlog, "_SIZE_MAX", 1000)
    path = str(tmp_path / "limits.log")
    tail = limitlog.Tail(path)
    seen = []
    for number in range(1, 60):
        limitlog.append(path, hit(number))
        if number % 3 == 0:
            seen += [one.total for one in tail.more()]
    assert seen == list(range(1, 58))
    assert sum(os.path.getsize(p) for p in (path, f"{path}.old")) < 2100
    kept = [one.total for one in limitlog.read(path)]
    assert kept == list(range(kept[0], 60))


@given(st.lists(st.binary()))
def test_foreign_lines_are_passed_over(lines):
    data = b"".join(line + b"\n" for line in lines) + hit().as_json().encode() + b"\n"
    assert list(limitlog._hits(data))[-1:] == [hit()]


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"time":"x","ctid":1,"what":"a"}', "null", "[" * 9999,
             '{"time":1e999,"ctid":1,"what":"a"}', '{"time":1,"ctid":1}']
)
def test_lines_that_are_no_hits(line):
    assert list(limitlog._hits(line.encode())) == []


# The kernel's log


def test_an_oom_kill_is_understood():
    expected = OomKill(1234, 1879048192, "sh", 1024 << 10)
    assert oom_kill(KILLED) == expected
    assert oom_kill(KILLED.replace("Memory cgroup out", "Out")).pid == 1234


@pytest.mark.parametrize("comm", ["a) total-vm:", ") UID:1", "(x", "\\x0a", "Killed process"])
def test_a_process_name_cannot_pretend(comm):
    found = oom_kill(KILLED.replace("(sh)", f"({comm})"))
    assert (found.comm, found.uid, found.pid) == (comm, 1879048192, 1234)


@given(st.text() | st.text().map(lambda text: f"Out of memory: Killed process {text}"))
def test_any_line(line):
    oom_kill(line)


def test_a_line_of_somebody_else():
    assert oom_kill(f"bash[1]: {KILLED[30:]}") is None


def test_the_kernels_log_is_read_from_now_on():
    try:
        log = KernelLog()
    except OSError as err:
        pytest.skip(f"needs /dev/kmsg: {err}")
    assert log.read() == []
    log.close()


# What is told, and when


def test_a_limit_that_is_hit_on_and_on_is_told_ever_more_rarely():
    counter = limitwatch.Counter(5)
    assert counter.news(5, 1000) == 0
    assert counter.news(7, 1000) == 2
    assert counter.news(9, 1000.5) == 0
    told = []
    for second in range(1001, 1401):
        if counter.news(second, second):
            told.append(second)
    pauses = [b - a for a, b in zip(told, told[1:])]
    assert pauses == sorted(pauses) and pauses[-1] == 60 and len(told) < 15
    assert counter.news(9999, 3000) == 9999 - told[-1]
    assert counter.news(10000, 3001.1) == 1  # after a rest it is quick again
    assert counter.news(10001, 3001.2) == 0 and counter.news(10001, 3001.2, True) == 1


def test_what_was_told_last_counts():
    hits = [hit(3), Hit(0, 101, "oom_kill", 1, 2, start=77), hit(9), Hit(0, 7, "numproc", 1, 1)]
    assert limitwatch._told(hits) == {
        (101, 77): {"numproc": 9, "oom_kill": 2}, (7, 0): {"numproc": 1}
    }


def test_inotify_tells_of_new_directories(tmp_path):
    fd = inotify.inotify_init()
    wd = inotify.add_watch(fd, str(tmp_path), inotify.IN_CREATE)
    assert inotify.read(fd) == []
    (tmp_path / "ü").mkdir()
    (tmp_path / "file").touch()
    assert inotify.read(fd) == [(wd, inotify.IN_CREATE | inotify.IN_ISDIR, "ü"),
                                (wd, inotify.IN_CREATE, "file")]
    inotify.rm_watch(fd, wd)
    assert [mask for _, mask, _ in inotify.read(fd)] == [inotify.IN_IGNORED]
    with pytest.raises(FileNotFoundError):
        inotify.add_watch(fd, str(tmp_path / "none"), inotify.IN_CREATE)
    os.close(fd)


def test_times_are_those_of_the_place(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert str(hit()) == (
        "2025-11-24T16:00:00+0000 CT 101 : numproc: refused 1 time at the limit of 20,"
        " 1 since the start"
    )
