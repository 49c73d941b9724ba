"""What a start says of the addresses it is about to give."""

from __future__ import annotations

from vzpy.events import AddingIp, Warned
from vzpy.kernel.proc import slurp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.vps import VPS

_FORWARDING = (("net/ipv4/ip_forward", False), ("net/ipv6/conf/all/forwarding", True))


def tell(vps: VPS, report: Report) -> None:
    """Of all addresses of a VPS: the contract wants it before the limits."""
    if given := addresses(vps.config, report):
        report(AddingIp(addresses=" ".join(text.partition("/")[0] for text in given)))
        tell_forwarding(given, report)


def addresses(config: Config, report: Report) -> list[str]:
    """IP_ADDRESS, canonical, `ADDR[/prefix]` each; without those of IPv6 where that is off."""
    found: list[str] = config.value("IP_ADDRESS") or []
    if config.value("IPV6") is not False:
        return found
    kept = [text for text in found if ":" not in text]
    if len(kept) < len(found):
        report(Warned(text="WARNING: IPv6 support is disabled"))
    return kept


def tell_forwarding(given: Sequence[str], report: Report) -> None:
    """The host's own switch is the administrator's: it is told of, not turned."""
    for path, is_ipv6 in _FORWARDING:
        if any((":" in text) == is_ipv6 for text in given) and not _switched_on(path):
            name = path.replace("/", ".")
            report(Warned(text=f"Warning: {name} is off: the container reaches only this node"))


def _switched_on(path: str) -> bool:
    try:
        return slurp(f"/proc/sys/{path}") != b"0\n"
    except OSError:
        return False
