"""The serial line is taken apart however the bytes happen to be cut; no machine is booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from .boot import Console

LINE = b"SeaBIOS\r\n[ 0.1] linux\r\n@m begin\nfirst @m en\r\nsecond\n@m end\n[ 9.9] off\r\n"
OURS = b"first @m en\nsecond\n"


def console(tmp_path: Path) -> tuple[Console, bytearray]:
    out = bytearray()
    return Console(tmp_path / "console.log", "@m", out.extend), out


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 1000])
def test_only_the_commands_output_is_passed_on(tmp_path: Path, size: int) -> None:
    line, out = console(tmp_path)
    for start in range(0, len(LINE), size):
        line.feed(LINE[start : start + size])
    line.close()
    assert line.began and line.ended
    assert bytes(out).replace(b"\r", b"") == OURS
    assert (tmp_path / "console.log").read_bytes() == LINE


def test_dots_are_not_held_back(tmp_path: Path) -> None:
    line, out = console(tmp_path)
    line.feed(b"@m begin\n..")
    assert out == b".."
    line.feed(b".@")
    assert out == b"..."
    line.feed(b"!")
    assert out == b"...@!"


def test_a_panic_is_shown_from_its_first_line(tmp_path: Path) -> None:
    line, _ = console(tmp_path)
    line.feed(b"before\r\n[ 1.0] Kernel panic - not syncing: no reason\r\n")
    line.feed(b"".join(b"[ 1.0] trace %d\r\n" % number for number in range(99)))
    assert line.tail().startswith("[ 1.0] Kernel panic - not syncing: no reason\n")
    assert line.tail().endswith("trace 98")
