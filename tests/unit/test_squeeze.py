"""A filter of system calls as ranges says what the long one says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy.squeeze import answer, squeeze

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
LOAD, JEQ, JGT, JGE, RETURN = 0x20, 0x15, 0x25, 0x35, 0x06


def packed(*code):
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def code(program):
    return list(struct.iter_unpack("=HBBI", program))


def long_filter(tables):
    """One instruction a call, as libseccomp writes it."""
    made = []
    for arch, calls in tables.items():
        rules = [one for nr, said in calls.items()
                 for one in ((JEQ, 0, 1, nr), (RETURN, 0, 0, said))]
        body = [(LOAD, 0, 0, 0), *rules, (RETURN, 0, 0, ENOSYS)]
        made += [(LOAD, 0, 0, 4), (JEQ, 1, 0, arch), (0x05, 0, 0, len(body)), *body]
    return packed(*made, (RETURN, 0, 0, ENOSYS))


CALLS = st.dictionaries(st.integers(0, 500) | st.just(2**32 - 1), st.sampled_from([ALLOW, EPERM]))


@given(CALLS, CALLS, st.integers(0, 2**32 - 1))
def test_the_same_answers(native, other, any_number):
    program = long_filter({X86_64: native, I386: other})
    short = code(squeeze(program))
    numbers = {n for c in (*native, *other) for n in (c - 1, c, c + 1) if 0 <= n < 2**32}
    for arch in (X86_64, I386, AARCH64):
        for number in (*numbers, 0, 600, 0x40000000, 2**32 - 1, any_number):
            assert answer(short, arch, number) == answer(code(program), arch, number)


def test_what_is_known_in_a_row_is_one_range():
    program = long_filter({X86_64: dict.fromkeys(range(400), ALLOW)})
    assert len(squeeze(program)) * 20 < len(program)
    assert squeeze(squeeze(program)) == squeeze(program)


def test_more_ranges_than_a_jump_is_long():
    table = dict.fromkeys(range(0, 2000, 2), ALLOW)
    short = code(squeeze(long_filter({AARCH64: table})))
    assert all(answer(short, AARCH64, n) == (ALLOW if n in table else ENOSYS) for n in range(2001))


def test_above_and_not_below():
    program = packed((LOAD, 0, 0, 0), (JGT, 0, 1, 7), (RETURN, 0, 0, EPERM), (JGE, 0, 1, 7),
                     (RETURN, 0, 0, ENOSYS), (RETURN, 0, 0, ALLOW))
    assert [answer(code(squeeze(program)), X86_64, n) for n in (6, 7, 8)] == [ALLOW, ENOSYS, EPERM]


def test_arguments_cannot_be_squeezed():
    with pytest.raises(ValueError, match="0x10"):
        squeeze(packed((LOAD, 0, 0, 16), (RETURN, 0, 0, ALLOW)))
