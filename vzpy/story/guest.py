"""What a VPS is called and whom it asks for names: written into its files before it is born, and
while it runs made known to what runs inside."""

from __future__ import annotations

import os

from vzpy import dist
from vzpy.errors import Exit, VzError
from vzpy.kernel import process
from vzpy.model import IdRange
from vzpy.story import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.live import Change

_PATIENCE = 10  # seconds that a resolver inside may take to hear of a change


def before_birth(root: int, config: Config, ids: IdRange) -> None:
    """What a start writes into the files of a VPS; what N.conf does not say is left alone.

    root  descriptor of its root. Raises VzError 70, 3."""
    if hostname := config.value("HOSTNAME"):
        dist.set_hostname(root, hostname, ids, first_address(config))
    set_dns(root, config, ids)


def first_address(config: Config) -> str:
    """Without mask; "" when it has none."""
    addresses = config.value("IP_ADDRESS") or [""]
    return str(addresses[0].partition("/")[0])


def set_dns(root: int, config: Config, ids: IdRange) -> tuple[str, ...]:
    """Returns the command by which a running VPS takes notice, () for none."""
    servers, domains = config.value("NAMESERVER"), config.value("SEARCHDOMAIN")
    if not servers and not domains:
        return ()
    from vzpy import dns

    return dns.configure(
        root,
        dns.inherited(servers, "nameserver") if servers else None,
        dns.inherited(domains, "search") if domains else None,
        ids,
    )


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 18, 70, 3."""
    facts, ids = change.facts, IdRange(change.facts.base, change.facts.count)
    with within.root_of(facts) as root:
        if "HOSTNAME" in change.keys and (hostname := change.after.value("HOSTNAME")):
            dist.set_hostname(root, hostname, ids, first_address(change.after))
            name_namespace(facts, hostname)
        if "NAMESERVER" in change.keys or "SEARCHDOMAIN" in change.keys:
            command = set_dns(root, change.after, ids)
            if command:
                _tell(change, command)
    return []


def _tell(change: Change, command: tuple[str, ...]) -> None:
    """Best effort: the files are right, and hold from the next start of that program."""
    from vzpy.story import enter, pump

    what = enter.program([os.fsencode(word) for word in command])
    cache = change.vps.node.paths.state
    try:
        pump.run(change.facts, what, timeout=_PATIENCE, filter_cache=cache)
    except (OSError, VzError):
        pass


def name_namespace(facts: Facts, hostname: str) -> None:
    """sethostname(2) in the UTS namespace of a VPS. Raises VzError 18."""
    try:
        within.as_root(
            facts.pid, process.CLONE_NEWUTS, lambda: process.sethostname(os.fsencode(hostname))
        )
    except OSError as err:
        raise VzError(f"Unable to set host name {hostname}", Exit.SETLUID) from err
