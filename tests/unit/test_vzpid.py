"""vzpid: header, rows, what is skipped, exit codes."""

from __future__ import annotations

import io
import os

import pytest

from vzpy import pids
from vzpy.cli import main


@pytest.mark.parametrize(
    ("text", "ctid"),
    [
        ("0::/vz/101/ve/init.scope\n", 101),
        ("4:pids:/\n0::/vz/101\n", 101),
        ("0::/machine.slice/vz/7/ve\n", 7),
        ("0::/vz-0badcafe/101/ve\n", 0),  # another node
        ("0::/user.slice/vz/x\n", 0),
        ("0::/\n", 0),
        ("3:cpu:/vz/101\n", 0),
        ("", 0),
    ],
)
def test_ctid_by_cgroup(text, ctid):
    assert pids._ctid(text, "vz") == ctid


def test_host_processes_and_nobodies(capsys):
    assert main("vzpid", [str(os.getpid()), "4194304000", "rubbish", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Pid\tCTID\tName"
    assert [line.split("\t")[:2] for line in lines[1:]] == [[str(os.getpid()), "0"], ["1", "0"]]


def test_inner_pids_and_stdin(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f" {os.getpid()}\n\n1 "))
    assert main("vzpid", ["-p", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Pid\tCT/Pid\tCTID\tName"
    assert lines[1].startswith(f"{os.getpid()}\t{os.getpid()}\t0\t")
    assert len(lines) == 3


def test_usage(capsys):
    assert main("vzpid", []) == 1
    assert capsys.readouterr().err == "Usage: vzpid [-p] pid ... | -\n"
    assert main("vzpid", ["--nonsense", "1"]) == 1
    assert capsys.readouterr().err.startswith("vzpid: unrecognized option '--nonsense'\n")
    assert main("vzpid", ["-h"]) == 0
    assert capsys.readouterr().out.startswith("Usage:")
