"""Does a configuration hold together (beancounters.md 4)? Rules in the order they are told."""

from __future__ import annotations

from vzpy.model import UNLIMITED
from vzpy.planning import PAGE
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.model import Host

ERROR, WARNING, ADVICE = "Error", "Warning", "Recommendation"


@record
class Finding:
    """One rule that is broken. Taking up `pair` for `key` repairs it; key "" cannot be repaired."""

    level: str
    text: str
    key: str = ""
    pair: tuple[int, int] = (0, 0)
    remedy: str = ""  # the pair as it is suggested: A:B, or the one number that changes

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"

    @property
    def is_invalid(self) -> bool:
        return self.level != ADVICE


# Without these nothing else can be said.
REQUIRED = (
    "numproc", "numtcpsock", "numothersock", "oomguarpages", "vmguarpages", "kmemsize",
    "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf", "privvmpages", "numfile",
    "dcachesize", "physpages", "numpty",
)  # fmt: skip
_EQUAL, _ORDERED, _GUARANTEE, _COUNTED = "equal", "ordered", "guarantee", "counted"
_SHAPES = (
    ("numproc", _EQUAL), ("numtcpsock", _EQUAL), ("numothersock", _EQUAL),
    ("vmguarpages", _GUARANTEE),
    ("kmemsize", _ORDERED), ("tcpsndbuf", _ORDERED), ("tcprcvbuf", _ORDERED),
    ("othersockbuf", _ORDERED), ("dgramrcvbuf", _ORDERED), ("oomguarpages", _GUARANTEE),
    ("privvmpages", _ORDERED), ("lockedpages", _ORDERED), ("shmpages", _EQUAL),
    ("physpages", _COUNTED), ("numfile", _EQUAL), ("numflock", _ORDERED), ("numpty", _EQUAL),
    ("numsiginfo", _EQUAL), ("dcachesize", _ORDERED), ("numiptent", _EQUAL),
)  # fmt: skip
_DISK = (("diskspace", _ORDERED), ("diskinodes", _ORDERED))
# Room between barrier and limit that every socket of a kind needs: 2.5 KiB.
_GAPS = (
    (ERROR, "tcpsndbuf", "numtcpsock"),
    (ERROR, "othersockbuf", "numothersock"),
    (WARNING, "tcprcvbuf", "numtcpsock"),
)
_KIB = 1024
_TCP_MIN, _DGRAM_MIN, _DGRAM_GOOD = 64 * _KIB, 32 * _KIB, 129 * _KIB


class Rules:
    """The pairs of one configuration under examination, by their names in lower case.

    Each check is a generator: what is taken up while it waits holds for the rules that follow."""

    def __init__(self, pairs: dict[str, tuple[int, int]]) -> None:
        self.pairs = pairs

    def bar(self, name: str) -> int:
        return self.pairs[name.upper()][0]

    def lim(self, name: str) -> int:
        return self.pairs[name.upper()][1]

    def classic(self, with_disk: bool) -> Iterator[Finding]:
        """The rules of a configuration without VSwap; with_disk: it has a disk quota."""
        missing = [name for name in REQUIRED if name.upper() not in self.pairs]
        yield from map(_missing, missing)
        if missing:
            return
        for name, shape in _SHAPES + (_DISK if with_disk else ()):
            yield from self._shape(name, shape)
        yield from self._formulas()

    def vswap(self, host: Host) -> Iterator[Finding]:
        for name, top in (("physpages", host.ram // PAGE), ("swappages", host.swap // PAGE)):
            if name.upper() not in self.pairs:
                yield _missing(name)
                continue
            if bar := self.bar(name):
                yield self._one(ERROR, f"{name}.bar should be = 0", bar, name, bar=0)
            if (lim := self.lim(name)) > top:
                yield self._one(WARNING, f"{name}.lim should be <= {top}", lim, name, lim=top)

    def _shape(self, name: str, shape: str) -> Iterator[Finding]:
        if name.upper() not in self.pairs:
            yield _missing(name)
            return
        bar, lim = self.bar(name), self.lim(name)
        if shape == _EQUAL and bar != lim:
            text = "barrier should be equal to limit"
            yield self._both(ERROR, text, name, (max(bar, lim),) * 2)
        if shape == _ORDERED and bar > lim:
            yield self._both(ERROR, "barrier should be <= limit", name, (bar, bar))
        if shape == _COUNTED and bar:
            yield self._one(ERROR, f"barrier should be = 0 for {name}", bar, name, bar=0)
        if shape in (_COUNTED, _GUARANTEE) and lim != UNLIMITED:
            text = f"limit should be = {UNLIMITED} for {name}"
            yield self._one(ERROR, text, lim, name, lim=UNLIMITED)

    def _formulas(self) -> Iterator[Finding]:
        expected = self.pairs.get("AVNUMPROC")
        processes = expected[0] if expected else self.bar("numproc") // 2
        least = _top(384 * self.bar("numfile"))
        if (lim := self.lim("dcachesize")) < least:
            text = f"dcachesize.lim should be > {least}"
            yield self._one(WARNING, text, lim, "dcachesize", lim=least)
        least = _top(40 * _KIB * processes + self.lim("dcachesize"))
        yield from self._at_least(ERROR, "kmemsize", least)
        least = self.bar("vmguarpages")
        if (bar := self.bar("privvmpages")) < least:
            text = f"privvmpages.bar should be > {least}"
            yield self._one(WARNING, text, bar, "privvmpages", bar=least)
        for level, name, sockets in _GAPS:
            yield from self._gap(level, name, _top(self.bar(sockets) * 5 * _KIB // 2))
        yield from self._at_least(WARNING, "tcprcvbuf", _TCP_MIN)
        yield from self._at_least(WARNING, "tcpsndbuf", _TCP_MIN)
        for name in ("dgramrcvbuf", "othersockbuf"):
            if self.bar(name) < _DGRAM_MIN:
                yield from self._at_least(WARNING, name, _DGRAM_MIN)
            else:
                yield from self._at_least(ADVICE, name, _DGRAM_GOOD)
        sockets_and_ptys = self.bar("numtcpsock") + self.bar("numothersock") + self.bar("numpty")
        least = _top(max(32 * processes, sockets_and_ptys))
        yield from self._at_least(WARNING, "numfile", least, what="numfile")

    def _at_least(self, level: str, name: str, least: int, what: str = "") -> Iterator[Finding]:
        """A barrier that is too low is raised, its limit by as much."""
        if (bar := self.bar(name)) < least:
            pair = least, _top(self.lim(name) + least - bar)
            text = f"{what or f'{name}.bar'} should be > {least} (currently, {bar})"
            yield Finding(level, text, name.upper(), pair, _pair(pair))

    def _gap(self, level: str, name: str, least: int) -> Iterator[Finding]:
        """No room is missing below a limit that is none."""
        bar, lim = self.bar(name), self.lim(name)
        if lim != UNLIMITED and lim - bar < least:
            pair = bar, _top(bar + least)
            text = f"{name}.lim-{name}.bar should be > {least} (currently, {lim}-{bar}={lim - bar})"
            yield Finding(level, text, name.upper(), pair, _pair(pair))

    def _both(self, level: str, text: str, name: str, pair: tuple[int, int]) -> Finding:
        now = _pair((self.bar(name), self.lim(name)))
        return Finding(level, f"{text} for {name} (currently, {now})", name.upper(), pair,
                       _pair(pair))

    def _one(
        self, level: str, text: str, now: int, name: str, bar: int = -1, lim: int = -1
    ) -> Finding:
        """Only the barrier or only the limit is wrong; a limit never stays below its barrier."""
        new = bar if bar >= 0 else self.bar(name)
        pair = new, max(self.lim(name), new) if lim < 0 else lim
        value = bar if bar >= 0 else lim
        return Finding(level, f"{text} (currently, {now})", name.upper(), pair, str(value))


def _missing(name: str) -> Finding:
    return Finding(ERROR, f"parameter {name} not found")


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]}:{pair[1]}"


def _top(value: int) -> int:
    return min(value, UNLIMITED)
