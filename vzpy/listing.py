"""What vzlist knows of VPSs: one row for each, its values read when a field asks for them.

A panel asks every few seconds about hundreds of VPSs: nothing is read that no field needs
(vzlist.md 6)."""

from __future__ import annotations

import os

from vzpy import config, names, netnotes, state
from vzpy.kernel import proc
from vzpy.model import CTID_MAX, UNLIMITED, layout_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.columns import Field
    from vzpy.config import Config
    from vzpy.model import Facts, NodePaths
    from vzpy.quotafile import Row as QuotaRow
    from vzpy.story.beancounters import Count, Look, Shared

RUNNING, STOPPED, MOUNTED, SUSPENDED = "running", "stopped", "mounted", "suspended"
_INT_MAX = 2**31 - 1
_TICKS = os.sysconf("SC_CLK_TCK")


class Node:
    """What all rows of one listing share; each is read once."""

    def __init__(self, paths: NodePaths, conf: Config) -> None:
        self.paths = paths
        self.config = conf
        self._shared: Shared | None = None
        self._mounts: frozenset[str] | None = None
        self._uptime = 0.0
        self._has_pids = True  # the controller is at hand

    @property
    def shared(self) -> Shared:
        if self._shared is None:
            from vzpy.story.beancounters import Shared

            self._shared = Shared()
        return self._shared

    def is_mounted(self, root: str) -> bool:
        if self._mounts is None:
            self._mounts = frozenset(proc.mount_points())
        return root in self._mounts or os.path.realpath(root) in self._mounts

    def uptime(self) -> float:
        """Seconds since boot."""
        if not self._uptime:
            self._uptime = float(proc.slurp("/proc/uptime").split()[0])
        return self._uptime

    def processes(self, cgroup: str) -> int | None:
        """Processes and threads of a VPS, which every listing shows: alone, without what else a
        look at its beancounters takes."""
        if self._has_pids:
            try:
                return int(proc.slurp(f"{cgroup}/pids.current"))
            except OSError:
                # Only a VPS that ends just now is no sign that others have none either.
                self._has_pids = not os.path.exists(cgroup)
        return _count_threads(f"{cgroup}/ve")


def _count_threads(cgroup: str) -> int | None:
    """Threads in the subtree; None when it is gone."""
    from vzpy.cgroupwalk import below

    found = below(cgroup)
    return sum(_count_lines(f"{where}/cgroup.threads") for where, _ in found) if found else None


def _count_lines(path: str) -> int:
    try:
        return proc.slurp(path).count(b"\n")
    except OSError:
        return 0  # removed meanwhile


class Row:
    """One VPS; its properties are read when they are asked for."""

    def __init__(self, node: Node, ctid: int, facts: Facts | None) -> None:
        self.node = node
        self.ctid = ctid
        self.facts = facts  # of its start, while it runs
        self._config: Config | None = None
        self._pairs: dict[str, tuple[int, int]] = {}
        self._look: Look | None = None
        self._rows: dict[str, QuotaRow] | None = None

    @property
    def config(self) -> Config:
        if self._config is None:
            path = f"{self.node.paths.conf}/{self.ctid}.conf"
            self._config = self.node.config.vps(self.ctid, path)
        return self._config

    @property
    def hidden(self) -> bool:
        """Not running and without a private area: such a VPS is never shown."""
        private = self.config.raw("VE_PRIVATE") if not self.facts else None
        return not self.facts and not (private and os.path.exists(private))

    @property
    def status(self) -> str:
        if self.facts:
            return RUNNING
        root = self.config.raw("VE_ROOT")
        if root and self.node.is_mounted(root):
            return MOUNTED
        dump = f"{self.config.raw('DUMPDIR')}/Dump.{self.ctid}"
        return SUSPENDED if os.path.exists(dump) else STOPPED

    @property
    def name(self) -> str | None:
        """Its second name, when the link of that name is really its own."""
        name = self.config.value("NAME")
        return name if name and names.find(self.node.paths, name) == self.ctid else None

    @property
    def layout(self) -> str | None:
        if self.facts:
            return self.facts.layout
        own = self.config.own("VE_LAYOUT")
        private = self.config.raw("VE_PRIVATE")
        if own or not private or not os.path.isdir(private):
            return layout_name(own) if own else None
        from vzpy import rootfs

        return rootfs.layout_of(private)

    @property
    def addresses(self) -> list[str]:
        """Those that it has; of one that does not run those that it will have."""
        if self.facts:
            notes = netnotes.read(state.directory(self.node.paths, self.ctid))
            return [note[1].partition("/")[0] for note in notes if note[0] == netnotes.ADDRESS]
        found: list[str] = self.config.value("IP_ADDRESS") or []
        return found

    @property
    def uptime(self) -> float | None:
        """Seconds since its init began."""
        if not self.facts:
            return None
        return max(self.node.uptime() - self.facts.starttime / _TICKS, 0.0)

    @property
    def loads(self) -> tuple[float, ...] | None:
        """Load averages of 1, 5 and 15 minutes; the daemon looks at them regularly."""
        if not self.facts:
            return None
        from vzpy import loadavg

        return loadavg.read(self.facts.cgroup)

    @property
    def cpuunits(self) -> int | None:
        found: int | None = self.config.value("CPUUNITS")
        return found or (1000 if self.facts else None)

    @property
    def is_vswap(self) -> bool:
        return self.limits("PHYSPAGES")[1] not in (UNLIMITED, _INT_MAX)

    def limits(self, key: str) -> tuple[int, int]:
        """Barrier and limit of a beancounter: as they hold for a running VPS, else from the
        configuration."""
        if not self.facts:
            return self.config.value(key) or (0, 0)
        if not self._pairs:
            from vzpy import ubc
            from vzpy.story import applied

            self._pairs = ubc.pairs(applied.of_running(self.facts, self.config))
        return self._pairs[key.lower()]

    def held(self, key: str) -> int | None:
        """What a beancounter stands at; None for what is not counted."""
        if key == "NUMPROC" and self.facts and not self._look:
            return self.node.processes(self.facts.cgroup)
        return self.count(key)[0]

    def count(self, key: str) -> Count:
        """Held, maxheld and failcnt of a beancounter; None for what is not counted."""
        if not self.facts:
            return (None, None, None)
        if self._look is None:
            from vzpy.story.beancounters import Look

            self._look = Look(self.facts, self.node.shared)
        return self._look.count(key.lower())

    def disk_limits(self, key: str) -> tuple[int | None, int | None]:
        """Soft and hard limit of a disk quota: those in force, else those of the configuration."""
        if row := self._quota.get(key):
            return row.soft, row.hard
        pair: tuple[int | None, int | None] = self.config.value(key) or (None, None)
        return pair

    def disk_used(self, key: str) -> int | None:
        """KiB or inodes in use, while the quota is on; in an image always."""
        if self.layout == "image":
            return self._used_in_image(key)
        row = self._quota.get(key)
        return None if row is None else row.used if key == "DISKINODES" else -(-row.used >> 10)

    def _used_in_image(self, key: str) -> int | None:
        from vzpy import image

        path = image.path_of(self.config.raw("VE_PRIVATE") or "")
        try:
            used, inodes = image.usage(path, self.config.raw("VE_ROOT") or "")
        except OSError:
            return None
        return inodes if key == "DISKINODES" else -(-used >> 10)

    @property
    def _quota(self) -> dict[str, QuotaRow]:
        """By parameter, as the kernel counts now; nothing while the quota is off."""
        if self._rows is None:
            self._rows = {}
            file = self.node.paths.quota_file(self.ctid)
            if os.path.exists(file):
                from vzpy.quotaid import counted

                if found := counted(self.ctid, file):
                    self._rows = {"DISKSPACE": found.space, "DISKINODES": found.inodes}
        return self._rows


def collect(
    node: Node, *, everything: bool = False, ctids: Iterable[int] | None = None
) -> tuple[list[Row], list[str]]:
    """Rows by ascending CTID, and warnings.

    everything  those that do not run too, else only running ones
    ctids       just these, running or not; what is not there is left out"""
    running = set(state.running_ids(node.paths))
    wanted = set(running)
    warnings: list[str] = []
    if ctids is not None:
        asked = set(ctids)
        conf = node.paths.conf
        wanted = {n for n in asked if n in running or os.path.exists(f"{conf}/{n}.conf")}
        everything = True
    elif everything:
        configured, warnings = _configured(node.paths.conf)
        wanted |= configured
    rows = []
    for ctid in sorted(wanted):
        facts = state.find(node.paths, ctid) if ctid in running else None
        if facts or (everything and os.path.exists(f"{node.paths.conf}/{ctid}.conf")):
            rows.append(Row(node, ctid, facts))
    return rows, warnings


def _configured(folder: str) -> tuple[set[int], list[str]]:
    found, warnings = set(), []
    try:
        files = os.listdir(folder)
    except FileNotFoundError:
        files = []
    for file in sorted(files):
        stem = file.removesuffix(".conf")
        if stem == file or stem == "0":
            continue
        if stem.isascii() and stem.isdigit() and 0 < int(stem) <= CTID_MAX:
            found.add(int(stem))
        else:
            warnings.append(f"Warning: invalid CTID in config file name: {file}, skipping")
    return found, warnings


def sort(rows: list[Row], field: Field, backwards: bool = False) -> list[Row]:
    """Rows by a field; those that are equal stay in their order, backwards all is turned round."""
    rows = sorted(rows, key=field.order)
    return rows[::-1] if backwards else rows


def open_node(paths: NodePaths) -> Node:
    """Raises ConfigError (10) without a vz.conf."""
    return Node(paths, config.load_global(paths.etc))
