"""Devices: what configurations ask for, what changes make of it, what the fence's program says."""

from __future__ import annotations

import struct

import pytest

from vzpy import devices, edits
from vzpy.option import Option
from vzpy.story import devices as story


class Conf:
    def __init__(self, **values) -> None:
        self.values = values

    def value(self, key):
        return self.values.get(key)

    raw = value


def test_what_a_configuration_asks_for():
    conf = Conf(DEVICES=["c:10:200:rw", "b:8:all:r"], DEVNODES=["net/tun:rw", "fuse:none"],
                FEATURES={"ppp": True, "nfs": False})
    granted = story.of_config(conf)
    assert granted.numbers == {"c:10:200": "rw", "b:8:all": "r"}
    assert granted.nodes == {"net/tun": "rw", "fuse": "none", "ppp": "rw"}
    assert granted.names() == ["net/tun", "ppp"]


def test_a_change_adds_to_what_holds():
    """What was set without --save stays, what a configuration loses goes."""
    holds = story.Granted({"c:1:1": "r", "c:2:2": "rw"}, {"fuse": "rw"})
    before = story.Granted({"c:2:2": "rw"}, {})
    after = story.Granted({"c:3:3": "none"}, {"net/tun": "rw"})
    merged = story._merged(holds, before, after)
    assert merged.numbers == {"c:1:1": "r", "c:3:3": "none"}
    assert merged.nodes == {"fuse": "rw", "net/tun": "rw"}
    assert story._merged(merged, after, before).numbers == {"c:1:1": "r", "c:2:2": "rw"}


def test_a_device_given_again():
    option = {"devices": Option("devices", key="DEVICES")}
    conf = Conf(DEVICES=["c:1:1:rw", "c:2:2:r"])
    changed = edits.changes({"devices": ["c:1:1:none", "c:3:3:q"]}, option, conf, 101)
    assert changed == {"DEVICES": "c:1:1:none c:2:2:r c:3:3:q"}


@pytest.mark.parametrize("name", ["loop0", "null/x", "nosuch", "shm", ""])
def test_what_is_no_device_or_given_to_nobody(name):
    asked = story.Granted({}, {name: "rw", "null": "rw"})
    granted, missing = story._available(asked)
    assert granted.nodes == {"null": "rw"} and missing == [f"devnodes {name}"]


MKNOD, READ, WRITE = 1, 2, 4
RULES = (
    *devices.DEFAULT,
    devices.rule_of_number("c:10:200", "r"),
    devices.rule_of_number("b:8:all", "rwq"),
    devices.rule_of_number("b:8:3", "none"),
    devices.rule_of_number("c:1:5", "r"),
)


@pytest.mark.parametrize(("kind", "major", "minor", "access", "allowed"), [
    ("c", 1, 3, READ | WRITE, True),  # null
    ("b", 1, 3, READ, False),  # a ram disk has the same numbers
    ("c", 1, 4, READ, False),
    ("c", 136, 0, READ | WRITE, True), ("c", 143, 70, WRITE, True),  # ptys
    ("c", 135, 0, READ, False), ("c", 144, 0, READ, False),
    ("c", 10, 200, READ, True), ("c", 10, 200, READ | WRITE, False), ("c", 10, 201, READ, False),
    ("b", 8, 0, READ | WRITE, True), ("b", 8, 1 << 19, WRITE, True),
    ("b", 8, 3, READ, False), ("b", 8, 3, MKNOD, False), ("b", 8, 4, MKNOD, True),
    ("c", 1, 5, READ, True), ("c", 1, 5, WRITE, False),  # the last rule counts
    ("c", 5, 2, 0, True),
])
def test_the_fence(kind, major, minor, access, allowed):
    context = (access << 16 | {"b": 1, "c": 2}[kind], major, minor)
    assert run(devices.fence_program(RULES), context) == allowed


def run(program: bytes, context: tuple[int, ...]) -> int:
    """The few instructions of that program, done by hand."""
    code = list(struct.iter_unpack("=BBhi", program))
    r = [0] * 11
    at = 0
    while True:
        op, registers, offset, imm = code[at]
        dst, src = registers & 15, registers >> 4
        at += 1
        if op == 0x95:
            return r[0]
        if op == 0x61:
            r[dst] = context[offset // 4]
        elif op == 0xBF:
            r[dst] = r[src]
        elif op == 0xB7:
            r[dst] = imm
        elif op == 0x57:
            r[dst] &= imm
        elif op == 0x77:
            r[dst] >>= imm
        elif op in (0x55, 0xA5, 0x25):
            holds = {0x55: r[dst] != imm, 0xA5: r[dst] < imm, 0x25: r[dst] > imm}[op]
            at += offset * holds
        else:
            raise AssertionError(hex(op))
