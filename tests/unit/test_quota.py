"""Quota files, their text, times, project numbers: what needs no file system."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import cli, projects, quota, quotafile, quotaid, quotatext
from vzpy.kernel import quotactl
from vzpy.kernel.quotactl import Dqblk
from vzpy.model import IdRange
from vzpy.quotafile import QuotaError, QuotaFile, Row, Ugid
from vzpy.record import replace

NUMBER = st.integers(0, 2**63)
ROWS = st.builds(Row, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER)
DQBLKS = st.builds(Dqblk, *[NUMBER] * 8)
UGIDS = st.builds(Ugid, st.integers(0, 1), st.integers(0, 65535), DQBLKS)
FILES = st.builds(
    QuotaFile,
    path=st.text(max_size=30).filter(lambda t: t == t.strip()), project=NUMBER,
    space=ROWS, inodes=ROWS, on=st.booleans(), boot=st.sampled_from(("", "a-b-c")),
    dirty=st.booleans(), ugid_on=st.booleans(), ugid_active=st.booleans(), ugid_limit=NUMBER,
    base=NUMBER, count=NUMBER, graces=st.tuples(*[NUMBER] * 4), ugids=st.lists(UGIDS).map(tuple),
)  # fmt: skip


@given(FILES)
def test_a_file_comes_back_as_it_was(quota):
    assert quotafile.decode(quotafile.encode(quota)) == quota


@given(FILES, st.data())
def test_a_changed_byte_is_found_out(quota, data):
    text = bytearray(quotafile.encode(quota))
    at = data.draw(st.integers(0, len(text) - 2))
    text[at] ^= data.draw(st.integers(1, 255))
    try:
        found = quotafile.decode(bytes(text))
    except ValueError:
        return
    assert found == quota  # a hexadecimal digit in another case


@given(st.binary(max_size=400))
def test_rubbish_is_refused(data):
    with pytest.raises(ValueError):
        quotafile.decode(data)


def test_a_broken_file_has_its_code(tmp_path):
    assert quotafile.load(str(tmp_path / "quota.7"), 7) is None
    (tmp_path / "quota.7").write_bytes(b"vzquota 1\ncrc32 00000000\n")
    with pytest.raises(QuotaError) as caught:
        quotafile.load(str(tmp_path / "quota.7"), 7)
    assert caught.value.code == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("12:00", 720), ("1:00:00", 3600), ("20:15:11:00", 1782660), ("2h", 7200),
     ("3D", 259200), ("1w", 604800), ("1m", 2592000), ("1y", 31536000), ("0", 0)],
)  # fmt: skip
def test_times(text, seconds):
    assert quotatext.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1:2:3:4:5", "-1", "1.5", "h", ":", "1s", "٣"])
def test_no_times(text):
    with pytest.raises(ValueError):
        quotatext.seconds(text)


@pytest.mark.parametrize(
    ("left", "text"),
    [(-1, "none"), (0, "none"), (60, "00:01"), (89, "00:01"), (90, "00:02"), (3600, "01:00"),
     (86369, "23:59"), (86370, "1days"), (259200, "3days")],
)  # fmt: skip
def test_durations(left, text):
    assert quotatext.duration(left) == text


QUOTA = QuotaFile(
    "/t", 7, Row(475684 << 10, 2097152, 2306867), Row(22303, 131072, 144179),
    ugid_on=True, ugid_active=True, ugid_limit=100,
    ugids=(Ugid(0, 0, Dqblk(curspace=123456 << 10, curinodes=4567)),),
)  # fmt: skip


def test_tables():
    assert quotatext.table(QUOTA) == (
        "   resource          usage       softlimit      hardlimit    grace\n"
        "  1k-blocks         475684         2097152        2306867         \n"
        "     inodes          22303          131072         144179         "
    )
    assert quotatext.ugid_table(QUOTA) == (
        "\n"
        "User/group quota: on,active\n"
        "Ugids: loaded 1, total 1, limit 100\n"
        "Ugid limit was exceeded: no\n"
        "\n"
        "User/group grace times and quotafile flags:\n"
        " type block_exp_time inode_exp_time  dqi_flags\n"
        " user          7days          7days         0h\n"
        "group          7days          7days         0h\n"
        "\n"
        "User/group objects:\n"
        "ID           type  resource       usage   softlimit   hardlimit    grace status\n"
        "0            user 1k-blocks      123456           0           0          loaded\n"
        "0            user    inodes        4567           0           0          loaded"
    )
    assert quotatext.table(QUOTA, batch=True).splitlines()[0].split() == [
        "475684", "2097152", "2306867", "0", "0"
    ]
    lines = quotatext.ugid_table(QUOTA, batch=True, force=True).splitlines()
    assert lines[:3] == ["-1 1", "1 1 100", "0"]


def test_proc_vzquota(monkeypatch):
    on = replace(QUOTA, on=True, boot=quotaid.boot_id())
    text = quotatext.proc_vzquota({7: on, 8: QUOTA})
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["7:", "/t"],
        ["1k-blocks", "475684", "2097152", "2306867", "0", "0"],
        ["inodes", "22303", "131072", "144179", "0", "0"],
    ]


@given(FILES)
def test_a_dump_is_read_back(quota):
    quota = replace(
        quota, ugid_on=True,
        ugids=tuple({(u.kind, u.number): u for u in sorted(
            quota.ugids, key=lambda u: (u.kind, u.number))}.values()),
    )  # fmt: skip
    try:
        text = quotatext.dump(quota, "GUTF")
        read = quotatext.undump(text, "GUTF", replace(QUOTA, ugids=()))
    except ValueError:
        return  # numbers of more digits than any limit has
    assert quotatext.dump(read, "GUTF") == text


@given(st.text(max_size=100))
def test_rubbish_is_no_dump(text):
    try:
        quotatext.undump(text, "GUTF", QUOTA)
    except ValueError as err:
        assert "line" in str(err) or "cut short" in str(err)


def test_projects_do_not_clash(tmp_path, monkeypatch):
    (tmp_path / "projid").write_text("web:102\n# 103\n")
    monkeypatch.setattr(projects, "RESERVED", (str(tmp_path / "projid"),))
    registry = projects.Registry(str(tmp_path / "projects"))
    used = {104}

    def claim(name, wanted, present=0):
        return registry.claim(str(tmp_path / name), wanted, present, lambda n: n not in used)

    assert claim("a", 101) == 101
    assert claim("a", 101) == 101
    assert claim("b", 101) == 0x80000000  # somebody else's
    assert claim("c", 102) == 0x80000001  # reserved
    assert claim("d", 104) == 0x80000002  # files of nobody are in it
    assert claim("e", 105, present=77) == 77  # what a restored tree carries
    assert claim("f", 106, present=101) == 106
    assert registry.file_of(77) == str(tmp_path / "e")
    registry.release(str(tmp_path / "a"))
    assert claim("g", 101) == 101
    # Of a process that is gone, and no quota file: free again.
    text = (tmp_path / "projects").read_text().replace(f"{os.getpid()}:", "4194304:")
    (tmp_path / "projects").write_text(text)
    assert claim("h", 101) == 101


def test_asked_over_what_there_is():
    had = QuotaFile("/t", 1, Row(5, 10, 20, 99, 60), Row(1, 2, 3, 0, 60))
    new = quotaid.Asked(bhard=30, ids=IdRange(1 << 20)).over(had)
    assert new.space == Row(5, 10, 30, 99, 60) and new.inodes == had.inodes
    assert (new.base, new.count) == (1 << 20, 65536)
    assert quotaid.Asked(bgrace=10).over(had).space.expires == 0


def run(monkeypatch, tmp_path, capsys, *words):
    monkeypatch.setenv("VZ_ETC", str(tmp_path))
    code = cli.main("vzquota", list(map(str, words)))
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "Usage: vzquota"),
        (("-h",), 2, "Usage: vzquota"),
        (("-h", "init"), 2, "Usage: vzquota init"),
        (("nonsense", 7), 2, "Unknown command: 'nonsense'\nUsage: vzquota"),
        (("stat",), 2, "Quota id is missing"),
        (("stat", "x"), 2, "Quota id is missing"),
        (("stat", 7), 6, "vzquota : (error) Quota accounting is off, try vzquota show id\n"),
        (("show", 7), 11, "vzquota : (error) Quota file must exist for show command\n"),
        (("init", 7, "-b", 1), 2, "--path --block-hardlimit"),
        (("setlimit", 7), 2, "No limits are given"),
        (("setlimit", 7, "-b", "1x"), 2, "Bad value of --block-softlimit: 1x"),
        (("setlimit2", 7, "-u", 5, 1, 2), 2, "four limits are needed"),
        (("show", 7, "-c", "/x", "-R"), 2, "-c and -R options can't be set together"),
        (("drop", 7), 11, "Quota file must exist for drop command"),
        (("off", 7), 6, "Quota is not running"),
    ],
)
def test_what_the_tool_says(monkeypatch, tmp_path, capsys, words, code, text):
    found, out, err = run(monkeypatch, tmp_path, capsys, *words)
    assert (found, out) == (code, "") and text in err


def test_version(monkeypatch, tmp_path, capsys):
    code, out, err = run(monkeypatch, tmp_path, capsys, "-V")
    assert code == 0 and out.startswith("Vzquota version ")


@pytest.mark.parametrize(
    "used,slack,expected",
    [(5, 0, (20, 10)), (5, 100, (120, 110)), (15, 100, (120, 115)), (50, 100, (150, 150))],
)
def test_slack_is_above_limits_and_use(monkeypatch, used, slack, expected):
    """No limit stays none; what is above its soft limit keeps its time."""
    seen = []
    found = quotactl.Dqblk(curspace=used << 10, curinodes=used)
    monkeypatch.setattr(quota.qgroup, "is_btrfs", lambda fd: False)
    monkeypatch.setattr(quotactl, "getquota", lambda *_: found)
    monkeypatch.setattr(quotactl, "setquota", lambda *words: seen.append(words[3]))
    quota.limit(3, 7, Row(soft=10, hard=20, expires=99, grace=5), Row(), slack)
    (new,) = seen
    assert (new.bhardlimit, new.bsoftlimit) == expected
    assert (new.ihardlimit, new.isoftlimit, new.itime) == (0, 0, 0)
    assert new.btime == (99 if used > 10 else 0)
