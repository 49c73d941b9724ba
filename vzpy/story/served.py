"""Which parameters this version applies. The others are kept in N.conf and told of, once a
command (DESIGN 3, "start without a room")."""

from __future__ import annotations

from vzpy.params import BY_KEY, CORE, UBC_KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.config import Config

SERVED = frozenset((
    *UBC_KEYS, "VM_OVERCOMMIT", "MEMINFO",
    "CPUUNITS", "CPULIMIT", "CPUS", "CPUMASK", "NODEMASK", "IOPRIO", "IOLIMIT", "IOPSLIMIT",
    "HOSTNAME", "NAMESERVER", "SEARCHDOMAIN", "NAME", "CAPABILITY",
    "IP_ADDRESS", "NETIF", "NETDEV", "NETFILTER", "RATE",
    "DEVICES", "DEVNODES", "FEATURES", "VE_ROOT", "VE_PRIVATE",
    "DISK_QUOTA", "DISKSPACE", "DISKINODES", "QUOTATIME", "QUOTAUGIDLIMIT",
))


def unserved(keys: Iterable[str]) -> list[str]:
    """The options of those keys that no room of ours applies."""
    return [
        _option(key)
        for key in keys
        if key in BY_KEY and BY_KEY[key].room != CORE and key not in SERVED
    ]


def _option(key: str) -> str:
    """The name a user knows a parameter by: ipadd for IP_ADDRESS."""
    from vzpy.setoptions import SET

    return next((option.name for option in SET if option.key == key), key.lower())


def unserved_of(config: Config) -> list[str]:
    """The same for what an N.conf asks for."""
    return unserved(key for key in BY_KEY if config.own(key) is not None)
