"""RATE: how fast a VPS may send and be sent to."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from wire import V4

import tools
from vzpy import config

SIZE = 1_000_000  # bytes
NODE4 = "192.0.2.1"
RATE = "*:1:8000"  # a megabyte a second


@pytest.fixture
def node(lan, make_node):
    made = make_node()
    config.save(f"{made.paths.etc}/vz.conf", {"SKIP_ARPDETECT": "yes"})
    return made


def seconds(vps, upwards: bool) -> float:
    """How long a VPS takes to send SIZE bytes to the node, or to get them."""
    with socket.create_server((NODE4, 0)) as server:
        server.settimeout(20)
        got = []

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                if upwards:
                    while data := peer.recv(1 << 16):
                        got.append(len(data))
                else:
                    peer.sendall(bytes(SIZE))

        thread = threading.Thread(target=serve)
        thread.start()
        port, begin = server.getsockname()[1], time.monotonic()
        end = f"nc {NODE4} {port}"
        line = f"head -c {SIZE} /dev/zero | {end}" if upwards else f"{end} </dev/null | wc -c"
        said = tools.sh(vps, line, timeout=30)
        thread.join()
        assert sum(got) == SIZE if upwards else int(said) == SIZE
        return time.monotonic() - begin


def slow(vps) -> tuple[bool, bool]:
    """Upwards, downwards."""
    return seconds(vps, True) > 0.6, seconds(vps, False) > 0.6


@pytest.mark.slow
def test_both_directions_at_start_live_and_away(lan, vps, vzctl):
    vps.set(ipadd=[V4], rate=[RATE])
    vps.start()
    assert slow(vps) == (True, True)
    assert vzctl("set", 101, "--rate", "*:1:0").code == 0
    assert slow(vps) == (False, False)
    assert "vzi" not in lan.node.ip("-br link")
    assert vzctl("set", 101, "--rate", "eth0:1:4000", "--rate", "eth1:1:4000").code == 0
    assert slow(vps) == (True, True)
    assert vzctl("set", 101, "--ipdel", "all").code == 0
    vps.stop(fast=True)
    assert "vzi" not in lan.node.ip("-br link")


def test_a_rate_that_is_none(vps, vzctl):
    for text in ("8000", "eth0:1", "eth0:1:fast", "eth0:99:1", "a/b:1:1", "*:1:-1"):
        ran = vzctl("set", 101, "--rate", text, "--save")
        assert (ran.code, ran.stderr.count(text)) == (21, 1), ran
