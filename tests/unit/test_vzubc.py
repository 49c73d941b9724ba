"""vzubc: its table, what it shows and hides, what it remembers, its errors."""

from __future__ import annotations

import io
import json

import pytest

from vzpy.commands import vzubc
from vzpy.commands.vzubc_table import human

FILE = """\
Version: 2.5
       uid  resource                     held              maxheld              barrier                limit              failcnt
      101:  kmemsize                  2301952              2666496             14372700             14790164                    0
            lockedpages                     0                    0                 2048                 2048                    0
            dummy                           0                    0                    0                    0                    0
            numproc                       100                  200                  240                  240                    3
            physpages                   10000                60000                    0                65536                    0
            numfile                        50                   60  9223372036854775807  9223372036854775807                    0
      102:  kmemsize                        5                    6                  100                  100                    0
"""  # noqa: E501
HEAD = """\
-------------------------------------------------------------------
CT 101       | HELD  Bar%  Lim%| MAXH  Bar%  Lim%| BAR | LIM | FAIL
-------------+-----------------+-----------------+-----+-----+-----
"""
RULE = HEAD.split("\n")[0] + "\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text(FILE)
    return path


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VZ_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("VZ_RUN", str(tmp_path / "run"))

    def call(*words):
        code = vzubc.main([*map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_table(run, file):
    assert run("-f", file, "101") == (0, HEAD + """\
     kmemsize| 2.2M   16%   15%|2.54M   18%   18%|13.7M|14.1M|    - 
  lockedpages|   -     -     - |   -     -     - |   8M|   8M|    - 
      numproc| 100    41%   41%| 200    83%   83%| 240 | 240 |    3 
    physpages|39.1M    -    15%| 234M    -    91%|   - | 256M|    - 
""" + RULE, "")  # noqa: W291
    _, out, _ = run("-f", file)
    assert "\n\n---" in out and "CT 102  " in out
    assert run("-f", file, "7") == (0, "", "")


def test_what_is_quiet_and_what_is_verbose(run, file):
    def names(*words):
        return [line.split("|")[0].strip() for line in run("-f", file, "101", *words)[1].split("\n")
                if "|" in line][1:]

    assert names() == ["kmemsize", "lockedpages", "numproc", "physpages"]
    assert names("-v")[-1] == "numfile"
    assert names("-q") == ["numproc", "physpages"]  # one failed, one was near its limit
    assert names("-q", "-qh", "0.1", "-qm", "1") == ["kmemsize", "numproc", "physpages"]
    assert names("-q", "-qh", "10") == ["kmemsize", "numproc", "physpages"]  # per cent
    assert names("-q", "-qm", "95") == ["numproc"]


def test_colours(run, file):
    lines = run("-c", "-f", file, "101")[1].split("\n")
    assert lines[0].startswith("\033[1;32m") and lines[2].endswith("\033[0;39m")
    assert [line[:7] for line in lines[3:7]] == [
        "\033[0;39m", "\033[0;39m", "\033[1;31m", "\033[1;33m"
    ]
    assert all(line.endswith("\033[0;39m") for line in lines[3:7])


def test_since_the_last_time(run, file, tmp_path):
    where = tmp_path / "remembered"
    words = ("-r", "-i", "-rd", where, "-f", file, "101")
    first = run(*words)[1]
    assert "|+FAIL\n" in first and "HELD  +/-    Bar%" in first and "|    3 \n" in first
    file.write_text(FILE.replace("100                  200", " 90                  210"))
    changed = [line for line in run(*words)[1].split("\n") if "numproc" in line]
    assert changed == [
        "      numproc|  90    -10    37%   37%| 210    87%   87%| 240 | 240 |    - "
    ]
    # A change is shown whatever else is hidden, and what was not asked for is kept.
    file.write_text(FILE.replace("     50 ", "     70 "))
    assert "  numfile|  70    +20 " in run("-i", *words[2:])[1]
    assert len((where / "held").read_text().split("\n")) == 5 + 1
    run("-rc", "-ic", "-rd", where, "-f", file)
    assert list(where.iterdir()) == []


def test_raw_json_and_stdin(run, file, monkeypatch):
    raw = run("--raw", "-f", file, "102")[1]
    assert raw.startswith("Version: 2.5\n") and raw.split("\n")[2].split()[:3] == [
        "102:", "kmemsize", "5"
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO(FILE))
    (one,) = json.loads(run("--json", "-f", "-", "102")[1])
    assert one["ctid"] == 102 and one["beancounters"] == [{
        "name": "kmemsize", "unit": "bytes", "held": 5, "maxheld": 6, "barrier": 100,
        "limit": 100, "failcnt": 0, "verdict": "A",
    }]  # fmt: skip


@pytest.mark.parametrize(("words", "says"), [
    (("-z",), "Unrecognized option: -z\nUsage: vzubc"),
    (("--nothing",), "Unrecognized option: --nothing\nUsage: vzubc"),
    (("-q", "-v"), "Error: options --quiet and --verbose can't be used together\n"),
    (("-w", "--color"), "Error: can't use --watch and --color together\n"),
    (("-qh", "1"), "Error: -qh and -qm only make sense with --quiet or --color\n"),
    (("-q", "-qm"), "Error: option -qm requires an argument\n"),
    (("-q", "-qm", "many"), "Error: option --quiet-maxheld requires a number: many\n"),
    (("-f", "/nowhere"), "Error: cannot read: /nowhere: No such file or directory\n"),
])
def test_errors(run, words, says):
    code, out, err = run(*words)
    assert (code, out) == (1, "") and err.startswith(says)


def test_a_version_that_it_does_not_know(run, file):
    file.write_text("Version: 2.4\n")
    assert run("-f", file) == (1, "", "Error: unknown version: 2.4\n")


@pytest.mark.parametrize(("name", "value", "text"), [
    ("numproc", 0, "- "), ("numproc", 17, "17 "), ("numproc", 1023, "1023 "),
    ("kmemsize", 1536, "1.5K"), ("physpages", 256, "1M"), ("numproc", 2**63 - 1, "- "),
    ("numproc", 2**31 - 1, "- "), ("kmemsize", 123 << 30, "123G"),
])
def test_human(name, value, text):
    assert human(name, value) == text
