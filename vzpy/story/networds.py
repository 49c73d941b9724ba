"""What a start says of the addresses it is about to give. Apart from net.py, which gives them: that
is imported while the first task is being born."""

from __future__ import annotations

from vzpy.errors import VzError
from vzpy.events import AddingIp, Warned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.story.net import Prepared
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
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip() != "0"
    except OSError:
        return False


class Meanwhile:
    """net.Prepared, made by load(), which may come again; what failed there is raised by made(),
    when there is a task that can be taken back."""

    def __init__(self, vps: VPS) -> None:
        self.vps = vps
        self._prepared: Prepared | VzError | None = None

    def load(self) -> None:
        from vzpy.story import net

        if self._prepared is None:
            try:
                self._prepared = net.Prepared(self.vps)
            except VzError as err:
                self._prepared = err

    def made(self) -> Prepared:
        """Raises VzError 34."""
        self.load()
        if isinstance(self._prepared, VzError):
            raise self._prepared
        assert self._prepared
        return self._prepared

    def close(self) -> None:
        if self._prepared and not isinstance(self._prepared, VzError):
            self._prepared.close()
