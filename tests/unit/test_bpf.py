"""The assembler, against instructions written down by hand, and against the kernel's own rules for
what a program may look like."""

from __future__ import annotations

import struct

import pytest

from vzpy import (
    countmap,
    devices,
    filecount,
    knobs,
    lockcount,
    othersockets,
    socketcount,
    tablelimit,
)
from vzpy.kernel import btf
from vzpy.kernel.bpf import R0, R1, R2, R3, R6, R10, Code
from vzpy.model import IdRange

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


KERNEL = dict.fromkeys(countmap._MEMBERS, 8)
LOCKS = {**KERNEL, **dict.fromkeys(("link", "file", lockcount._LIST, lockcount._LISTED), 8)}


@pytest.mark.parametrize("program", [
    socketcount.create_program(3, 4, 5), socketcount.release_program(3, 5),
    othersockets.create_program(3, 4), othersockets.mark_program(KERNEL, 3, 5),
    othersockets.free_program(KERNEL, 3, 5),
    filecount.alloc_program(KERNEL, IdRange(1 << 30), 3, 4, 6),
    filecount.free_program(KERNEL, IdRange(1 << 30), 3),
    lockcount.lock_program(LOCKS, IdRange(1 << 30), 3, 4).assemble(),
    tablelimit.program(3, 4),
    knobs.sysctl_program(("kernel/shmall", "net/ipv4/tcp_wmem")), knobs.sysctl_program(()),
    knobs.sockopt_program((1, 2), (3, 4)), devices.fence_program(devices.DEFAULT),
])
def test_programs_end_and_stay_within(program):
    """Every jump leads to an instruction, none into the middle of a wide one; the last is exit."""
    code = list(INSTRUCTION.iter_unpack(program))
    wide = {at + 1 for at, (op, *_) in enumerate(code) if op == 0x18}
    for at, (op, _, offset, _) in enumerate(code):
        if op & 7 in (5, 6) and op not in (0x85, 0x95):
            assert 0 <= at + 1 + offset < len(code) and at + 1 + offset not in wide
    assert code[-1][0] == 0x95


def test_a_function_is_found_where_it_begins():
    code = lockcount.lock_program(LOCKS, IdRange(1 << 30), 3, 4)
    rows = list(INSTRUCTION.iter_unpack(code.assemble()))
    (at,) = [n for n, (op, registers, *_) in enumerate(rows) if op == 0x18 and registers >> 4 == 4]
    assert code.functions() == (at + 1 + rows[at][3],)
    assert rows[code.functions()[0] - 1][0] == 0x95  # what is before it has ended


def test_limits_are_written_in_the_order_of_the_kinds():
    """Less what was there before."""
    packed = socketcount._MAPS._packed({"NUMOTHERSOCK": 9}, {"NUMOTHERSOCK": 4})
    assert struct.unpack("=4q", packed) == (countmap.NO_LIMIT, 0, 5, 4)


def described(tmp_path, *types: tuple[int, ...]) -> str:
    """A description of types, each given by its words; names are their places in NAMES."""
    body = b"".join(struct.pack(f"={len(words)}I", *words) for words in types)
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(NAMES))
    path = tmp_path / "vmlinux"
    path.write_bytes(head + body + NAMES)
    return str(path)


NAMES = b"\0int\0cred\0usage\0uid\0hook\0"
INT, CRED, USAGE, UID, HOOK = (NAMES.index(x) for x in (b"int", b"cred", b"usage", b"uid", b"hook"))
TYPES = (
    (INT, 1 << 24, 4, 32),
    (0, 13 << 24 | 1, 1, 0, 1),  # int (int)
    (CRED, 4 << 24 | 2, 8, USAGE, 1, 0, UID, 1, 32),
    (0, 2 << 24, 3),  # a pointer
    (HOOK, 12 << 24, 2),
)


def test_what_the_kernel_says_of_itself(tmp_path):
    path = described(tmp_path, *TYPES)
    assert btf.look(["hook"], ["cred.uid", "cred.usage"], path) == {
        "hook": 5, "cred.uid": 4, "cred.usage": 0
    }
    with pytest.raises(OSError, match=r"The kernel has no cred.nosuch, other"):
        btf.look(["other"], ["cred.uid", "cred.nosuch"], path)
    with pytest.raises(OSError, match="No such file"):
        btf.look([], [], str(tmp_path / "none"))
