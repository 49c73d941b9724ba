"""A filter of system calls as ranges of their numbers: the same answers by a quarter of the code.

libseccomp names every call in an instruction of its own. The kernel translates a filter and asks it
about each call there is whenever it is loaded: 0.35 ms for a thousand instructions, of a start and
of every exec. Only filters that look at architecture and number alone can be rewritten so."""

from __future__ import annotations

import _struct as struct

_LOAD, _JUMP, _JEQ, _JGT, _JGE, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCH = 0, 4
_LAST = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]


def squeeze(program: bytes) -> bytes:
    """Raises ValueError for a filter that looks at arguments."""
    code = list(struct.iter_unpack("=HBBI", program))
    # An answer can only change where something is compared with.
    edges = {0} | {k for op, _, _, at in code if op in (_JEQ, _JGT, _JGE) for k in (at, at + 1)}
    numbers = sorted(edge for edge in edges if edge <= _LAST)
    made: list[Instruction] = [(_LOAD, 0, 0, _ARCH)]
    for arch in _architectures(code):
        body = _by_number(code, arch, numbers)
        made += [(_JEQ, 1, 0, arch), (_JUMP, 0, 0, len(body)), *body]
    made += _by_number(code, 0, numbers)  # any other
    return b"".join(struct.pack("=HBBI", *one) for one in made)


def answer(code: list[Instruction], arch: int, number: int) -> int:
    """What a filter says to a call (seccomp(2)). Raises ValueError."""
    at = value = 0
    while True:
        op, jt, jf, k = code[at]
        at += 1
        if op == _RETURN:
            return k
        if op == _LOAD and k in (_NUMBER, _ARCH):
            value = arch if k == _ARCH else number
        elif op == _JUMP:
            at += k
        elif op == _JEQ:
            at += jt if value == k else jf
        elif op == _JGT:
            at += jt if value > k else jf
        elif op == _JGE:
            at += jt if value >= k else jf
        else:
            raise ValueError(f"instruction {at - 1} of the filter: {op:#x} {k:#x}")


def _architectures(code: list[Instruction]) -> list[int]:
    """What is compared with the architecture, on whatever way through the filter."""
    found = set()
    ways = {(0, _NUMBER)}  # where, and what is loaded there
    while ways:
        at, loaded = ways.pop()
        op, jt, jf, k = code[at]
        if op == _LOAD:
            ways.add((at + 1, k))
        elif op == _JUMP:
            ways.add((at + 1 + k, loaded))
        elif op != _RETURN:
            ways |= {(at + 1 + jt, loaded), (at + 1 + jf, loaded)}
            if loaded == _ARCH:
                found.add(k)
    return sorted(found, reverse=True)


def _by_number(code: list[Instruction], arch: int, numbers: list[int]) -> list[Instruction]:
    ranges: list[tuple[int, int]] = []  # first number, answer
    for number in numbers:
        said = answer(code, arch, number)
        if not ranges or ranges[-1][1] != said:
            ranges.append((number, said))
    return [(_LOAD, 0, 0, _NUMBER), *_search(ranges)]


def _search(ranges: list[tuple[int, int]]) -> list[Instruction]:
    if len(ranges) == 1:
        return [(_RETURN, 0, 0, ranges[0][1])]
    half = len(ranges) // 2
    lower, upper = _search(ranges[:half]), _search(ranges[half:])
    return [(_JGE, 0, 1, ranges[half][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]
