"""/proc/user_beancounters and /proc/bc/resources, Version 2.5 (beancounters.md 3): the text that
scripts read, made and parsed."""

from __future__ import annotations

from vzpy.record import record
from vzpy.ubc import BY_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = "2.5"
_HEAD = f"Version: {VERSION}\n"
_ROW = "%10s  %-12s %20s %20s %20s %20s %20s\n"
_COLUMNS = ("uid", "resource", "held", "maxheld", "barrier", "limit", "failcnt")
DUMMY = "dummy"
# The rows of /proc/user_beancounters; `dummy` stands where older kernels had something.
_ORDER = (
    "kmemsize lockedpages privvmpages shmpages dummy numproc physpages vmguarpages oomguarpages"
    " numtcpsock numflock numpty numsiginfo tcpsndbuf tcprcvbuf othersockbuf dgramrcvbuf"
    " numothersock dcachesize numfile dummy dummy dummy numiptent"
).split()


@record
class Beancounter:
    """One row of one VPS, in the unit of ubc.ROWS. None: this node does not count it.

    verdict  of its limit on this node: E, P, A, N (see ubc.VERDICTS)"""

    name: str
    held: int | None
    maxheld: int | None
    barrier: int
    limit: int
    failcnt: int | None
    verdict: str = ""


def user_beancounters(all_of: Mapping[int, Iterable[Beancounter]]) -> str:
    """The text of /proc/user_beancounters for VPSs by their numbers."""
    lines = [_HEAD, _ROW % _COLUMNS]
    for ctid, rows in all_of.items():
        by_name = {row.name: row for row in rows}
        lines += _block(ctid, [(name, by_name.get(name)) for name in _ORDER])
    return "".join(lines)


def resources(all_of: Mapping[int, Iterable[Beancounter]]) -> str:
    """That of /proc/bc/resources: without dummies, with swappages."""
    lines = [_HEAD, _ROW % _COLUMNS]
    for ctid, rows in all_of.items():
        lines += _block(ctid, [(row.name, row) for row in rows])
    return "".join(lines)


def _block(ctid: int, rows: list[tuple[str, Beancounter | None]]) -> list[str]:
    uids = [f"{ctid}:"] + [""] * (len(rows) - 1)
    return [_ROW % (uid, name, *_numbers(row)) for uid, (name, row) in zip(uids, rows)]


def _numbers(row: Beancounter | None) -> tuple[int, ...]:
    if row is None:
        return (0, 0, 0, 0, 0)
    return (row.held or 0, row.maxheld or 0, row.barrier, row.limit, row.failcnt or 0)


def parse(text: str) -> dict[int, list[Beancounter]]:
    """Either text back, without dummies; the block of one VPS alone (/proc/bc/N/resources) is
    that of number 0.

    Raises ValueError, with what is wrong and in which line."""
    found: dict[int, list[Beancounter]] = {}
    ctid = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0] == "uid":
            continue
        if words[0] == "Version:":
            if words[1:] != [VERSION]:
                raise ValueError(f"unknown version: {' '.join(words[1:])}")
            continue
        if words[0].endswith(":"):
            if not (words[0][:-1].isascii() and words[0][:-1].isdigit()):
                raise ValueError(f"line {number}: {words[0]} is no container's number")
            ctid = int(words.pop(0)[:-1])
        if len(words) != 6 or not all(w.isascii() and w.isdigit() for w in words[1:]):
            raise ValueError(f"line {number}: not a name and five numbers: {line.strip()}")
        if words[0] != DUMMY:
            verdict = BY_NAME[words[0]].verdict if words[0] in BY_NAME else ""
            held, maxheld, barrier, limit, failcnt = map(int, words[1:])
            rows = found.setdefault(ctid, [])
            rows.append(Beancounter(words[0], held, maxheld, barrier, limit, failcnt, verdict))
    return found
