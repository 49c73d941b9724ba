"""A node: one set of VPSs with its configuration, state and cgroup."""

from __future__ import annotations

import os

from vzpy import config, names
from vzpy.events import silent
from vzpy.log import Log
from vzpy.model import CTID_MAX, NodePaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.limitlog import Hit
    from vzpy.template import Progress
    from vzpy.ubcproc import Beancounter
    from vzpy.vps import VPS


class Node:
    """What `vzctl` works on. Many nodes may live side by side on one machine.

    etc       folder of vz.conf, conf/ and names/; default VZ_ETC, else /etc/vz
    run       folder of state and sockets; default VZ_RUN, else /run/vz
    skiplock  take no locks (vzctl --skiplock)

    Raises ConfigError (10) when there is no readable vz.conf."""

    def __init__(
        self,
        *,
        etc: str | None = None,
        run: str | None = None,
        skiplock: bool = False,
        program: str = "vzctl",
    ) -> None:
        self.paths = NodePaths.of(etc, run)
        self.skiplock = skiplock
        self.config: Config = config.load_global(self.paths.etc)
        self.log = Log(
            self.config.raw("LOGFILE") if self.config.raw("LOGGING") != "no" else None,
            self.config.value("LOG_LEVEL") or 0,
            program,
        )

    def vps(self, ctid: int | str) -> VPS:
        """The VPS of a number or name; it need not exist yet.

        Raises VzError 21."""
        from vzpy.vps import VPS

        return VPS(self, names.resolve(self.paths, str(ctid)))

    def create(
        self,
        ctid: int | str,
        *,
        report: Report = silent,
        progress: Progress | None = None,
        **params: object,
    ) -> VPS:
        """Make a VPS: parameters by the names of the options of `vzctl create` and `set`
        (ostemplate, config, layout, hostname, ipadd ...).

        progress  called with (done, total) while a template is built or unpacked
        Raises VzError with the contract's code (vzctl-cli 4)."""
        vps = self.vps(ctid)
        vps.create(report=report, progress=progress, **params)
        return vps

    def clone(
        self,
        ctid: int | str,
        new: int,
        *,
        hostname: str = "",
        name: str = "",
        report: Report = silent,
        progress: Progress | None = None,
    ) -> VPS:
        """Copy a stopped VPS to a new number. Its addresses and interfaces, its name and what else
        may be there only once are left out.

        progress  called with (bytes copied, total)
        Raises VzError: 32 running, 41 mounted, 44, 82 and more as create."""
        from vzpy.story.clone import clone

        source, copy = self.vps(ctid), self.vps(new)
        with copy.locked(report), source.locked(report):
            clone(source, copy, hostname, name, report, progress)
        copy.reload()
        return copy

    def restore(
        self,
        archive: str,
        ctid: int | str,
        *,
        force: bool = False,
        trust: bool = False,
        report: Report = silent,
        progress: Progress | None = None,
    ) -> VPS:
        """Make a VPS of an archive of VPS.dump() (vzrestore).

        force  a stopped VPS of that number is destroyed first
        trust  its host scripts, devices and capabilities are taken too
        Raises VzError: 44, 46, 47 and what create() raises."""
        from vzpy.story.restore import restore

        vps = self.vps(ctid)
        with vps.locked(report):
            restore(self, archive, vps.ctid, report, force=force, trust=trust, progress=progress)
        vps.reload()
        return vps

    def ids(self) -> list[int]:
        """Numbers of all VPSs with a configuration, ascending; 0, the host, is none."""
        try:
            found = os.listdir(self.paths.conf)
        except OSError:
            return []
        numbers = (n.removesuffix(".conf") for n in found if n.endswith(".conf"))
        return sorted(int(n) for n in numbers if n.isdigit() and 0 < int(n) <= CTID_MAX)

    def vzquota(self) -> str:
        """What OpenVZ's /proc/vz/vzquota showed: the quotas that are on."""
        from vzpy.story import disk

        return disk.proc_vzquota(self.paths)

    def __iter__(self) -> Iterator[VPS]:
        return (self.vps(ctid) for ctid in self.ids())

    def beancounters(self) -> dict[int, list[Beancounter]]:
        """Those of all VPSs that run, by number."""
        from vzpy import state
        from vzpy.story.beancounters import read_all

        return read_all(self.vps(ctid) for ctid in state.running_ids(self.paths))

    def user_beancounters(self) -> str:
        """What OpenVZ's /proc/user_beancounters showed of them, Version 2.5."""
        from vzpy.ubcproc import user_beancounters

        return user_beancounters(self.beancounters())

    def resources(self) -> str:
        """What OpenVZ's /proc/bc/resources showed: without dummies, with swappages."""
        from vzpy.ubcproc import resources

        return resources(self.beancounters())

    def events(self, ctid: int = 0, *, follow: bool = False) -> Iterator[Hit]:
        """The limits that VPSs ran into, the oldest first; of one VPS, or of all (0).

        follow  go on with what comes, without an end
        Raises VzError (3) when the file of them cannot be read."""
        from vzpy.story.hits import hits

        return hits(self.paths, ctid, follow)
