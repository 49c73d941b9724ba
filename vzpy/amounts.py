"""Numbers as vzctl read them: amounts with suffixes, pairs, limits, lists (vzctl-cli 5).

Every function takes a text and gives a value, or raises Invalid."""

from __future__ import annotations

import os

from vzpy.model import UNLIMITED as UNLIMITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
IOLIMIT_MAX = 2**31 - 1
CPUS_MAX = 4096
_SCALE = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "P": PAGE, "B": 1}


class Invalid(ValueError):
    """A value that cannot be read.

    detail   what exactly is wrong, when there is more to say than the value itself
    rest     what a configuration file may still mean by it (None: nothing, skip it)
    progress the contract wants the detail on standard output"""

    def __init__(self, detail: str = "", rest: Any = None, progress: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.rest = rest
        self.progress = progress


def is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def count(text: str, top: int = UNLIMITED) -> int:
    """A plain decimal number 0..top."""
    if not is_digits(text):
        raise Invalid
    if len(text) > 30 or int(text) > top:
        raise Invalid(rest=top)
    return int(text)


def integer(text: str) -> int:
    return -count(text[1:]) if text.startswith("-") else count(text)


def within(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not is_digits(text) or len(text) > 30 or not low <= int(text) <= high:
            raise Invalid
        return int(text)

    return parse


def amount(text: str, unit: int) -> int:
    """`N[.M][TGMKPB]` or `unlimited`, counted in `unit` bytes; unit 0 allows no suffix.

    Rounded down. Too large is Invalid with rest=UNLIMITED."""
    if text == "unlimited":
        return UNLIMITED
    scale = _SCALE.get(text[-1:].upper()) if unit else None
    whole, dot, part = (text[:-1] if scale else text).partition(".")
    if not is_digits(whole + part):
        raise Invalid
    if len(whole) > 30:
        raise Invalid(rest=UNLIMITED)
    if scale is None:
        value = int(whole or "0")
    else:
        part = part[:30]
        value = int(whole + part) * scale // (10 ** len(part) * unit)
    if value > UNLIMITED:
        raise Invalid(rest=UNLIMITED)
    return value


def pair_of(unit: int, unlimited: bool = True) -> Callable[[str], tuple[int, int]]:
    """`v[:v]`; one number stands for both."""

    def parse(text: str) -> tuple[int, int]:
        first, colon, second = text.partition(":")
        found, large = [], False
        for word in (first, second) if colon else (first, first):
            if word == "unlimited" and not unlimited:
                raise Invalid
            try:
                found.append(amount(word, unit))
            except Invalid as err:
                if err.rest is None:
                    raise
                found.append(err.rest)
                large = True
        pair = (found[0], found[1])
        if large:
            raise Invalid(rest=pair)
        return pair

    return parse


def vswap(text: str) -> tuple[int, int]:
    """--ram, --swap: bare = bytes, rounded up to pages; the barrier is 0."""
    if text == "unlimited":
        return (0, -(-UNLIMITED // PAGE))
    return (0, -(-amount(text, 1) // PAGE))


def count_text(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


def ubc_text(pair: tuple[int, int]) -> str:
    """`bar:lim`, one number when both are equal."""
    barrier, limit = count_text(pair[0]), count_text(pair[1])
    return barrier if barrier == limit else f"{barrier}:{limit}"


def disk_text(pair: tuple[int, int]) -> str:
    return f"{pair[0]}:{pair[1]}"


def positive_float(text: str) -> float:
    """A finite number >= 0, also in the form that %g writes."""
    if len(text) > 30 or text[:1] not in tuple("0123456789.") or set(text) - set("0123456789.e+-"):
        raise Invalid
    try:
        value = float(text)
    except ValueError:
        raise Invalid from None
    if value > UNLIMITED:
        raise Invalid
    return value


def cpulimit(text: str) -> int:
    """Per cent of one CPU; `N%` is per cent of the whole node."""
    if text.endswith("%"):
        return within(0, 100)(text[:-1]) * (os.cpu_count() or 1)
    return count(text, 2**31 - 1)


def iolimit(bare: int) -> Callable[[str], int]:
    """Bytes a second, at most IOLIMIT_MAX; 0 and `unlimited` are no limit."""

    def parse(text: str) -> int:
        if text == "unlimited":
            return 0
        value = amount(text, 1) * (1 if text[-1:].isalpha() else bare)
        if value > IOLIMIT_MAX:
            raise Invalid(rest=IOLIMIT_MAX)
        return value

    return parse


def iopslimit(text: str) -> int:
    return 0 if text == "unlimited" else count(text, IOLIMIT_MAX)


def cpulist(text: str, *words: str) -> str:
    """`0-2,7` in its shortest form, `all`, or one of `words`."""
    if text == "all" or text in words:
        return text
    numbers: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.partition("-")
        one = within(0, CPUS_MAX - 1)
        low = one(first)
        high = one(last) if dash else low
        if high < low:
            raise Invalid
        numbers.update(range(low, high + 1))
    return "all" if len(numbers) == CPUS_MAX else _ranges_text(sorted(numbers))


def _ranges_text(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def meminfo(text: str) -> str:
    mode, colon, number = text.partition(":")
    if text == "none":
        return text
    if mode not in ("pages", "privvmpages") or count(number) == 0:
        raise Invalid
    return f"{mode}:{int(number)}"
