"""The values that rooms hand to each other: frozen, plain, in bytes and seconds."""

from __future__ import annotations

import os

from vzpy.record import record

ETC, RUN, STATE = "/etc/vz", "/run/vz", "/var/lib/vzctl"
CTID_MAX = 2147483644
RANGE = 65536
NO_LIMIT = -1
UNLIMITED = 2**63 - 1  # LONG_MAX: what the word `unlimited` stands for in a beancounter


@record
class IdRange:
    """`count` host ids from `base`: 0..count-1 inside a VPS are base..base+count-1 on the host."""

    base: int
    count: int = RANGE

    def map_text(self) -> bytes:
        """One line of /proc/PID/uid_map (user_namespaces(7))."""
        return b"0 %d %d\n" % (self.base, self.count)

    def holds(self, host_id: int) -> bool:
        return self.base <= host_id < self.base + self.count


@record
class Limits:
    """What is written into a VPS's cgroup before its first process; None = left alone,
    NO_LIMIT = none.

    memory and swap in bytes, pids in tasks, weights as cpu.weight and io.weight have them."""

    memory_high: int | None = None
    memory_max: int | None = None
    swap_max: int | None = None
    memory_low: int | None = None
    memory_min: int | None = None
    pids_max: int | None = None
    cpu_weight: int | None = None
    cpu_max: int | None = None  # microseconds per 100 ms
    io_weight: int | None = None


@record
class NodePaths:
    """Where one node keeps its things (DESIGN: a node = VZ_ETC + VZ_RUN)."""

    etc: str
    run: str
    state: str  # what lasts over a boot: vzreboot list, counters, id hints
    cgroup: str  # name of the node's cgroup below the cgroup2 mount: vz, or vz-<hash>

    @classmethod
    def of(cls, etc: str | None = None, run: str | None = None) -> NodePaths:
        """The node of two folders, by default those of VZ_ETC and VZ_RUN.

        Nodes beside the default one have lasting state and a cgroup of their own."""
        etc = os.path.abspath(etc or os.getenv("VZ_ETC") or ETC)
        run = os.path.abspath(run or os.getenv("VZ_RUN") or RUN)
        if etc == ETC:
            return cls(etc, run, STATE, "vz")
        from binascii import crc32

        digest = crc32(os.fsencode(os.path.realpath(etc)))
        return cls(etc, run, f"{etc}/var", f"vz-{digest:08x}")

    @property
    def conf(self) -> str:
        return f"{self.etc}/conf"

    @property
    def names(self) -> str:
        return f"{self.etc}/names"

    @property
    def socket(self) -> str:
        return f"{self.run}/vzeventd.sock"

    @property
    def vzquota(self) -> str:
        """Folder of the quota files, quota.N each."""
        return "/var/vzquota" if self.etc == ETC else f"{self.state}/vzquota"

    def quota_file(self, ctid: int) -> str:
        return f"{self.vzquota}/quota.{ctid}"


def layout_name(text: str) -> str:
    """The layout that a VE_LAYOUT names: `ploop` is the old name of image, modes follow a colon."""
    name = text.partition(":")[0]
    return "image" if name == "ploop" else name


@record
class Mounted:
    """How a VPS's root was mounted: what umount undoes, whatever N.conf says by then."""

    layout: str  # overlay, simfs
    private: str
    root: str


@record
class Facts:
    """/run/vz/N/start.json: the facts of a start that stop undoes (DESIGN 2)."""

    ctid: int
    pid: int  # of init, seen from the host
    starttime: int  # field 22 of /proc/PID/stat, ticks since boot
    boot_id: str
    layout: str
    private: str
    root: str
    base: int
    count: int
    cgroup: str  # absolute path of vz/N
    init: str  # kind: systemd, busybox, sysvinit, openrc, runit, s6, unknown
    daemon: bool  # vzeventd is init's parent
    started: float  # time.time()
    netfilter: str = ""  # level in force (netfilter.py); none was asked for
    broker: str = ""  # socket of who answers its quotactl; none without a second level of quota


@record
class Host:
    """What planning wants to know of a machine; memory in bytes."""

    ram: int
    swap: int
    low: int  # what the kernel addresses directly: LowTotal on 32 bits, else all of the RAM
    threads: int  # kernel.threads-max
    bogomips: float  # of all CPUs together
