"""Bars of long work, seen on a terminal, and nothing of them elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
from pathlib import Path

import pytest

import tools
from vzpy.backup import Job

SIZE = 48 << 20


def on_terminal(node, words) -> tuple[int, str]:
    """Exit code of a tool whose standard error is a terminal, and all that appeared there."""
    ours, theirs = pty.openpty()
    seen = bytearray()
    with tools.start_tool(node, words, stderr=theirs, env={"TERM": "xterm"}) as tool:
        os.close(theirs)
        while True:
            ready = select.select([ours, tool.stdout], [], [], 120)[0]
            assert ready, bytes(seen)
            if tool.stdout in ready and not os.read(tool.stdout.fileno(), 1 << 16):
                break
            if ours in ready:
                try:
                    seen += os.read(ours, 1 << 16)
                except OSError:
                    break  # nobody has it open any more
        code = tool.wait(60)
    while select.select([ours], [], [], 0)[0]:
        try:
            seen += os.read(ours, 1 << 16)
        except OSError:
            break
    os.close(ours)
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


def filled(node, ctid: int, **params):
    vps = node.create(ctid, **params)
    folder = {"overlay": "upper/", "simfs": ""}[vps.layout]
    path = Path(vps.private, f"{folder}data")
    path.write_bytes(os.urandom(SIZE))
    os.chown(path, vps.ids.base, vps.ids.base)
    return vps


def check(node, words, title: str) -> str:
    """A tool draws its bar on a terminal: title and per cent. What it drew."""
    code, seen = on_terminal(node, words)
    assert code == 0, seen
    assert re.search(rf"{title}\s.*\d+%", seen), seen
    return seen


def test_create(node):
    check(node, ("vzctl", "create", 101, "--layout", "simfs"), "Unpacking the OS template")


def test_convert(node):
    filled(node, 101, layout="simfs")
    check(node, ("vzctl", "convert", 101, "--layout", "overlay"), "Copying")


@pytest.mark.parametrize("running", [False, True])
def test_snapshot(node, running):
    vps = filled(node, 101, layout="simfs" if not running else "overlay")
    if running:
        vps.start()
    check(node, ("vzctl", "snapshot", 101, "--skip-suspend"), "Copying")


def test_clone(node):
    filled(node, 101, layout="simfs")
    check(node, ("vz", "clone", 101, 202), "Copying")


def test_dump_and_restore(node, tmp_path):
    filled(node, 101)
    words = ("vzdump", "--bwlimit", 48 << 10, "--dumpdir", tmp_path, 101)
    seen = check(node, words, "Dumping")
    assert len(set(re.findall(r"(\d+)%", seen))) > 2, seen  # it moves
    (archive,) = tmp_path.glob("*.tar")
    check(node, ("vzrestore", archive, 202), "Restoring")


def test_nothing_elsewhere(node, cli, tmp_path):
    """No bar where standard error is no terminal, nor with --quiet."""
    filled(node, 101, layout="simfs")
    for words in (("vzctl", "create", 102, "--layout", "simfs"),
                  ("vzctl", "convert", 101, "--layout", "overlay"),
                  ("vzdump", "--dumpdir", tmp_path, 101)):  # fmt: skip
        ran = cli(*words)
        assert ran.code == 0 and "%" not in ran.stderr and "\x1b" not in ran.stderr, ran
    path = node.vps(101).dump(Job(dumpdir=str(tmp_path), suffix=".tgz"))
    code, seen = on_terminal(node, ("vzrestore", "--quiet", path, 202))
    assert code == 0 and "Restoring" not in seen, seen
