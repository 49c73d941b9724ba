"""`vz doctor`: every ability that a VPS uses, tried for real in throw-away children.

A probe is a function that returns a detail worth telling ("" mostly), or raises Failed (or
OSError) when the ability is not there. Nothing is concluded from version numbers."""

from __future__ import annotations

from vzpy.doctor.probe import Failed
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.model import NodePaths


@record
class Finding:
    """What a probe found. `needed`: without it no VPS starts on this node."""

    name: str
    works: bool
    needed: bool
    why: str = ""  # of a failure; else a detail worth telling
    todo: str = ""

    def line(self) -> str:
        """One line for a person: name, works / why not / what to do."""
        if self.works:
            return f"{self.name:<32} works" + (f" ({self.why})" if self.why else "")
        verdict = "NOT AVAILABLE" if self.needed else "not available"
        return f"{self.name:<32} {verdict}: {self.why}" + (f". {self.todo}" if self.todo else "")


def examine(paths: NodePaths, count: int = 100) -> Iterator[Finding]:
    """Try everything, one finding at a time; needs root.

    paths  the node, whose file systems are tried
    count  the number of VPSs that the kernel's limits are compared with"""
    from vzpy.doctor import cgroup, host, namespaces, network, programs, storage

    place = storage.Place(paths)
    for name, needed, probe in (
        *host.identity(paths),
        *namespaces.PROBES,
        *cgroup.probes(),
        *programs.probes(),
        *storage.probes(place),
        *network.probes(),
        *host.probes(count),
    ):
        try:
            yield Finding(name, True, needed, probe())
        except Failed as no:
            yield Finding(name, False, needed, no.why, no.todo)
        except OSError as err:
            yield Finding(name, False, needed, err.strerror or str(err))


def can_start(findings: list[Finding]) -> bool:
    """Whether a VPS can start on a node with these findings."""
    return all(f.works for f in findings if f.needed)
