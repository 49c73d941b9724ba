"""Which parameters this version applies. The others are kept in N.conf and told of, once a
command (DESIGN 3, "start without a room")."""

from __future__ import annotations

from vzpy.params import BY_KEY, CORE, PARAMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.config import Config

SERVED = frozenset((
    "PHYSPAGES", "SWAPPAGES", "NUMPROC", "AVNUMPROC", "VM_OVERCOMMIT", "MEMINFO",
    "CPUUNITS", "CPULIMIT", "CPUS", "HOSTNAME", "NAME", "CAPABILITY", "VE_ROOT", "VE_PRIVATE",
))


def unserved(keys: Iterable[str]) -> list[str]:
    """The options of those keys that no room of ours applies."""
    found = [BY_KEY[key] for key in keys if key in BY_KEY]
    return [p.option or p.key.lower() for p in found if p.room != CORE and p.key not in SERVED]


def unserved_of(config: Config) -> list[str]:
    """The same for what an N.conf asks for."""
    return unserved(param.key for param in PARAMS if config.own(param.key) is not None)
