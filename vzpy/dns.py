"""DNS inside a VPS: written where its distribution keeps it, told to what runs there.

Who owns /etc/resolv.conf is seen by where it leads: to systemd-resolved, to resolvconf, or it is a
plain file. Like all of dist.py this works on the guest's root through openat2(2)."""

from __future__ import annotations

import os

from vzpy import dist
from vzpy.kernel.mount import openat2
from vzpy.kernel.proc import slurp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import IdRange

INHERIT = "inherit"
# The host's own, best first: a VPS cannot ask a resolver that listens on the host's loopback.
HOST_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")

RESOLVED = "etc/systemd/resolved.conf.d/vz.conf"  # resolved.conf(5)
RESOLVCONF = "etc/resolvconf/resolv.conf.d/base"  # resolvconf(8) of Debian
OPENRESOLV = "etc/resolvconf.conf"  # resolvconf.conf(5)
PLAIN = "etc/resolv.conf"  # resolv.conf(5)

# What makes a change known to what runs inside; absence of the program is no error.
TOLD_BY = {
    RESOLVED: ("systemctl", "try-restart", "systemd-resolved.service"),
    RESOLVCONF: ("resolvconf", "-u"),
    OPENRESOLV: ("resolvconf", "-u"),
}


def inherited(words: list[str], keyword: str) -> list[str]:
    """The words of NAMESERVER or SEARCHDOMAIN with `inherit` replaced by what the host has.

    keyword  nameserver or search, of the host's resolv.conf"""
    if INHERIT not in words:
        return words
    found: list[str] = []
    for path in HOST_FILES:
        try:
            text = slurp(path).decode(errors="surrogateescape")
        except OSError:
            continue
        rows = [line.split() for line in text.splitlines()]
        found = [word for row in rows if row and row[0] == keyword for word in row[1:]]
        if keyword == "nameserver":
            found = [a for a in found if not a.startswith("127.") and a != "::1"]
        if found:
            break
    return list(dict.fromkeys(
        word for each in words for word in (found if each == INHERIT else [each])
    ))


def configure(
    root: int, servers: list[str] | None, domains: list[str] | None, ids: IdRange
) -> tuple[str, ...]:
    """Write the servers and search domains; None leaves what the guest has.

    root  descriptor of the guest's root
    Returns the command that a running VPS needs to know of it, () for none. Raises VzError 3."""
    path = owner_of(root)
    text = dist.text_of(root, path)
    if text is None and not (path == PLAIN and _link(root, path)):
        return ()  # something else than a file: the guest's own arrangement
    text = text or ""  # a link that leads nowhere gives way
    if path == RESOLVED:
        dist.make_folder(root, os.path.dirname(path), ids.base)
        lines = assigned(text or "[Resolve]", {"DNS": servers, "Domains": domains})
    elif path == OPENRESOLV:
        lines = assigned(text, {"name_servers": servers, "search_domains": domains}, '"')
    else:
        lines = resolv_conf(text, servers, domains)
    if lines != text.split("\n")[:-1]:
        dist.write_lines(root, path, lines, ids.base)
    return TOLD_BY.get(path, ())


def owner_of(root: int) -> str:
    """The file of the guest that its DNS is to be written into."""
    target = _link(root, PLAIN)
    if "systemd/resolve" in target:
        return RESOLVED
    if "resolvconf" in target and dist.exists(root, os.path.dirname(RESOLVCONF)):
        return RESOLVCONF
    return OPENRESOLV if dist.exists(root, OPENRESOLV) else PLAIN


def resolv_conf(text: str, servers: list[str] | None, domains: list[str] | None) -> list[str]:
    """resolv.conf(5) with its nameserver and search lines replaced, the rest as it was."""
    gone = {"nameserver": servers, "search": domains, "domain": domains}
    kept = [
        line for line in text.splitlines()
        if gone.get(next(iter(line.split()), "")) is None
    ]
    search = [f"search {' '.join(domains)}"] if domains else []
    return [*search, *kept, *(f"nameserver {server}" for server in servers or [])]


def assigned(text: str, settings: dict[str, list[str] | None], quote: str = "") -> list[str]:
    """NAME=value lines with those of the settings renewed; one that is None stays as it was."""
    new = {name: words for name, words in settings.items() if words is not None}
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in new]
    return [*kept, *(f"{name}={quote}{' '.join(words)}{quote}" for name, words in new.items())]


def _link(root: int, path: str) -> str:
    """Where a symbolic link of the guest leads, "" when it is none."""
    folder, name = os.path.split(path)
    try:
        fd = openat2(root, folder, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return ""
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:
        return ""
    finally:
        os.close(fd)
