"""What holds for a running VPS of the limits' rooms: what its start and every `set` since then
wrote down, whatever N.conf says by now."""

from __future__ import annotations

from vzpy import cgroupread
from vzpy.params import BY_KEY, CPU, IO, UBC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType
    from typing import Any

    from vzpy.model import Facts
    from vzpy.ubc import Values

# Modules of story/ that count and enforce beancounters by other means than the files of a cgroup,
# and which. Each has
#   apply(asked, cgroup, facts, ids) -> the options that it cannot apply; `asked` has value(KEY).
#       Before birth there are no facts, but ids
#   read(facts) -> KEY -> held, maxheld, failcnt, of what it counts
OTHERS: dict[str, tuple[str, ...]] = {
    "counted": ("NUMTCPSOCK", "NUMOTHERSOCK", "NUMFILE", "NUMFLOCK", "NUMIPTENT"),
    "bounds": (
        "LOCKEDPAGES", "PRIVVMPAGES", "NUMSIGINFO", "NUMPTY", "SHMPAGES",
        "TCPSNDBUF", "TCPRCVBUF", "OTHERSOCKBUF", "DGRAMRCVBUF",
    ),
}  # fmt: skip
KEYS = tuple(key for key, row in BY_KEY.rows.items() if row[0][2:3] in ((UBC,), (CPU,), (IO,)))


class Applied:
    """Parameters by their texts, with the `value` of a configuration."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def value(self, key: str) -> Any:
        from vzpy import values

        text = self.texts.get(key)
        return None if text is None else values.parse(BY_KEY[key].kind, text)

    def changed(self, config: Values, keys: Iterable[str]) -> Applied:
        """The same with some parameters as another configuration has them."""
        from vzpy import values

        texts = dict(self.texts)
        for key in keys:
            texts.pop(key, None)
            if (value := config.value(key)) is not None:
                texts[key] = values.text(BY_KEY[key].kind, value)
        return Applied(texts)

    def write(self, cgroup: str) -> None:
        cgroupread.write_applied(cgroup, self.texts)


def of_config(config: Values) -> Applied:
    return Applied({}).changed(config, KEYS)


def of_running(facts: Facts, config: Values) -> Applied:
    """What was written down, else what N.conf says."""
    texts = cgroupread.applied(facts.cgroup)
    return of_config(config) if texts is None else Applied(texts)


def other(name: str) -> ModuleType:
    """A module of OTHERS."""
    found: ModuleType = __import__(f"vzpy.story.{name}", fromlist=["apply"])
    return found
