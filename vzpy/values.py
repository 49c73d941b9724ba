"""Value classes: what a parameter or option of each kind reads and stores (vzctl-cli 5).

`parse` raises Invalid, never anything else; `text` gives the form that is stored, and
parse(text(value)) == value."""

from __future__ import annotations

from vzpy import amounts, words
from vzpy.amounts import UNLIMITED, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["KINDS", "UNLIMITED", "Invalid", "Kind", "parse", "text"]


class Kind:
    """One value class. repeat: how a key or an option that comes twice is understood: the
    "first" counts, the "last" counts, or both are one "list"."""

    __slots__ = ("parse", "text", "repeat")

    def __init__(
        self,
        parse: Callable[[str], Any],
        text: Callable[[Any], str] = str,
        repeat: str = "first",
    ) -> None:
        self.parse = parse
        self.text = text
        self.repeat = repeat


KINDS: dict[str, Kind] = {
    "ubc-num": Kind(amounts.pair_of(0), amounts.ubc_text, "last"),
    "ubc-page": Kind(amounts.pair_of(amounts.PAGE), amounts.ubc_text, "last"),
    "ubc-byte": Kind(amounts.pair_of(1), amounts.ubc_text, "last"),
    "vswap": Kind(amounts.vswap, amounts.ubc_text, "last"),
    "disk-space": Kind(amounts.pair_of(1024, unlimited=False), amounts.disk_text),
    "disk-inodes": Kind(amounts.pair_of(1, unlimited=False), amounts.disk_text),
    "number": Kind(amounts.count),
    "integer": Kind(amounts.integer),
    "ranges": Kind(amounts.within(1, 4094)),
    "range-base": Kind(amounts.within(65536, 2**32 - 65537)),
    "cpuunits": Kind(amounts.within(8, 500000)),
    "cpulimit": Kind(amounts.cpulimit),
    "cpulist": Kind(amounts.cpulist),
    "cpumask": Kind(lambda text: amounts.cpulist(text, "auto")),
    "float": Kind(amounts.positive_float, lambda value: f"{value:g}"),
    "ioprio": Kind(amounts.within(0, 7)),
    "iolimit": Kind(amounts.iolimit(1)),
    "iolimit-mb": Kind(amounts.iolimit(1 << 20)),
    "iopslimit": Kind(amounts.iopslimit),
    "meminfo": Kind(amounts.meminfo),
    "yesno": Kind(words.yesno, words.yesno_text),
    "on-off": Kind(words.choice("on", "off")),
    "setmode": Kind(words.choice("restart", "ignore")),
    "map": Kind(words.choice("name")),
    "netfilter": Kind(words.choice("disabled", "stateless", "stateful", "full")),
    "layout": Kind(words.layout),
    "text": Kind(words.line),
    "name": Kind(words.second_name),
    "hostname": Kind(words.hostname),
    "filename": Kind(words.filename),
    "path": Kind(words.absolute),
    "words": Kind(words.words, " ".join, "list"),
    "uuid": Kind(words.uuid),
    "hex": Kind(words.hexadecimal, hex),
    "userpasswd": Kind(words.userpasswd, str, "list"),
    "capability": Kind(words.capability, words.switches_text, "list"),
    "features": Kind(words.features, words.switches_text, "list"),
    "addresses": Kind(words.addresses, " ".join, "list"),
    "addresses-or-all": Kind(words.addresses_or_all, " ".join, "list"),
    "nameserver": Kind(words.nameserver, " ".join, "list"),
    "netdevs": Kind(words.netdevs, " ".join, "list"),
    "netif": Kind(words.netif, words.netif_text),
    "netif-add": Kind(words.netif_add, words.netif_text, "list"),
    "ifname": Kind(words.ifname, str, "list"),
    "one-ifname": Kind(words.ifname),
    "mac": Kind(words.mac),
    "devices": Kind(words.devices, " ".join, "list"),
    "devnodes": Kind(words.devnodes, " ".join, "list"),
    "devnodes-here": Kind(words.devnodes_here, " ".join, "list"),
    "rate": Kind(words.rate, " ".join, "list"),
    "pci": Kind(words.pci, " ".join, "list"),
}


def parse(kind: str, text: str) -> Any:
    """The value of `text`; raises Invalid."""
    return KINDS[kind].parse(text)


def text(kind: str, value: Any) -> str:
    """The form of `value` that is stored."""
    return KINDS[kind].text(value)
