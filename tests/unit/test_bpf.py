"""The assembler, against instructions written down by hand, and against the kernel's own rules for
what a program may look like."""

from __future__ import annotations

import struct

import pytest

from vzpy import countmap, socketcount
from vzpy.kernel.bpf import R0, R1, R2, R3, R6, R10, Code

INSTRUCTION = struct.Struct("=BBhi")


def assembled(*steps) -> str:
    code = Code()
    for name, *args in steps:
        getattr(code, name)(*args)
    return code.assemble().hex(" ", 8)


@pytest.mark.parametrize(("step", "expected"), [
    # from the instruction set document: opcode, dst and src, offset, immediate; little endian
    (("set", R1, "=", 7), "b701000007000000"),
    (("set", R1, "+", -1), "07010000ffffffff"),
    (("set_to", R6, "=", R1), "bf16000000000000"),
    (("load", R2, R6, 4, 4), "6162040000000000"),
    (("load", R3, R10, -8), "79a3f8ff00000000"),
    (("store", R0, 0, R2, 4), "6320000000000000"),
    (("fetch_add", R6, 16, R1), "db16100001000000"),
    (("compare_exchange", R6, 8, R2), "db260800f1000000"),
    (("call", 187), "85000000bb000000"),
    (("map", R1, 9), "1811000009000000 0000000000000000"),
    (("map_value", R1, 9), "1821000009000000 0000000000000000"),
    (("exit", 1), "b700000001000000 9500000000000000"),
    (("exit",), "9500000000000000"),
])
def test_instructions(step, expected):
    assert assembled(step) == expected


def test_jumps_count_from_the_next_instruction():
    """A map takes two places."""
    got = assembled(
        ("label", "top"), ("jump_if", "end", R1, "s>", 3), ("map", R1, 1),
        ("jump_if_to", "top", R2, "!=", R3), ("label", "end"), ("jump", "top"),
    )
    assert got.split()[0] == "6501030003000000"
    assert got.split()[3] == "5d32fcff00000000"
    assert got.split()[4] == "0500fbff00000000"


def test_a_label_that_is_nowhere():
    code = Code()
    code.jump("nowhere")
    with pytest.raises(KeyError, match="nowhere"):
        code.assemble()


@pytest.mark.parametrize("program", [
    socketcount.create_program(3, 4, 5), socketcount.release_program(3, 5),
])
def test_programs_end_and_stay_within(program):
    """Every jump leads to an instruction, none into the middle of a wide one; the last is exit."""
    code = list(INSTRUCTION.iter_unpack(program))
    wide = {at + 1 for at, (op, *_) in enumerate(code) if op == 0x18}
    for at, (op, _, offset, _) in enumerate(code):
        if op & 7 in (5, 6) and op not in (0x85, 0x95):
            assert 0 <= at + 1 + offset < len(code) and at + 1 + offset not in wide
    assert code[-1][0] == 0x95


def test_limits_are_written_in_the_order_of_the_kinds():
    """Less what was there before."""
    packed = socketcount._MAPS._packed({"NUMOTHERSOCK": 9}, {"NUMOTHERSOCK": 4})
    assert struct.unpack("=4q", packed) == (countmap.NO_LIMIT, 0, 5, 4)
