"""User beancounters: what each is, and from the parameters of N.conf to what a cgroup takes.
Pure (beancounters.md 2, 6, 7)."""

from __future__ import annotations

import os

from vzpy.model import NO_LIMIT, Limits
from vzpy.params import UBC_KEYS
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Values(Protocol):
        """A configuration: value(KEY) as the parameter table parses it, None when unset."""

        def value(self, key: str) -> Any: ...

    Pair = tuple[int, int]


UNLIMITED = 2**63 - 1
# Beyond this a count of pages is as good as none: LONG_MAX pages do not fit into bytes.
_NO_LIMIT_PAGES = UNLIMITED // 4096
PAGE = os.sysconf("SC_PAGE_SIZE")
DEFAULT_CPUUNITS = 1000
DEFAULT_IOPRIO = 4


# --- the table -------------------------------------------------------------------------------


@record
class Row:
    """One beancounter.

    rank     primary, secondary, auxiliary: what follows from what (beancounters.md 1)
    unit     of held, maxheld, barrier and limit: items, pages, bytes
    verdict  what a stock kernel makes of its limit: E enforced, P partly, A only accounted,
             N neither
    why      one sentence on the verdict
    knob     what enforces the limit, "" for nothing
    held     where the use comes from
    failcnt  where the count of refusals comes from, "" when there is none: 0 is shown"""

    name: str
    rank: str
    unit: str
    counts: str
    verdict: str
    why: str
    knob: str = ""
    held: str = ""
    failcnt: str = ""

    @property
    def key(self) -> str:
        """Its parameter in N.conf."""
        return self.name.upper()


E, P, A, N = "EPAN"
VERDICTS = {E: "enforced", P: "partly enforced", A: "accounted, not enforced", N: "not possible"}
_PRIMARY, _SECONDARY, _AUXILIARY = "primary", "secondary", "auxiliary"
_ITEMS, _PAGES, _BYTES = "items", "pages", "bytes"
_QUEUES = "queues in /proc/PID/net, without overhead"

# In the order of /proc/bc/resources: that of /proc/user_beancounters, then swappages.
ROWS: tuple[Row, ...] = (
    Row("kmemsize", _SECONDARY, _BYTES, "kernel memory that cannot be swapped", A,
        "cgroup v2 has no limit of its own for kernel memory; it counts toward physpages, and"
        " numproc and numfile bound it.",
        held="memory.stat kernel (slab, kernel_stack and pagetables before Linux 5.18)"),
    Row("lockedpages", _AUXILIARY, _PAGES, "memory locked by mlock(2) or SHM_LOCK", P,
        "RLIMIT_MEMLOCK bounds each process, not their sum.",
        "RLIMIT_MEMLOCK of init", "memory.stat unevictable"),
    Row("privvmpages", _SECONDARY, _PAGES, "private memory allocated, touched or not", P,
        "RLIMIT_DATA refuses each process what is beyond the barrier, with ENOMEM; a stock kernel"
        " has no limit on their sum. With VSwap physpages and swappages take its place. The kernel"
        " does not count refusals.",
        "RLIMIT_DATA of init","data and stack of all processes, /proc/PID/statm"),
    Row("shmpages", _AUXILIARY, _PAGES, "System V and shared anonymous memory, tmpfs", P,
        "System V memory stops at kernel.shmall of the VPS, tmpfs at its size; the rest counts"
        " toward physpages.",
        "kernel.shmall, size= of /dev/shm", "memory.stat shmem"),
    Row("numproc", _PRIMARY, _ITEMS, "processes and threads", E,
        "a fork beyond it fails with EAGAIN. Before Linux 6.11 the kernel counts refusals where"
        " the forking task is: failures at limits that the VPS set for its own services are in"
        " the count, those in a cgroup that it removed before anybody looked are not.",
        "pids.max", "pids.current, pids.peak", "pids.events"),
    Row("physpages", _AUXILIARY, _PAGES, "memory in use, page cache included", E,
        "the VPS is slowed near the limit and reclaims its own pages at it; failures are normal"
        " and mean that this happened. Without VSwap it is only accounted, as ever.",
        "memory.max, memory.high", "memory.current, memory.peak",
        "memory.events.local max and high"),
    Row("vmguarpages", _PRIMARY, _PAGES, "memory whose allocation is guaranteed", P,
        "a start, or a set, is refused when the guarantees do not fit into RAM and swap, and the"
        " kernel reclaims from the VPS last; nothing is reserved.",
        "memory.low, admission at start"),
    Row("oomguarpages", _SECONDARY, _PAGES, "memory and swap safe from the OOM killer", P,
        "so many pages are never reclaimed for others, and when the host is out of memory those are"
        " killed first who have more; a VPS is killed for its own limit all the same.",
        "memory.min, oom_score_adj by vzeventd", "memory.stat anon, memory.swap.current",
        "memory.events oom_kill"),
    Row("numtcpsock", _PRIMARY, _ITEMS, "TCP sockets", P,
        "one more fails with ENOBUFS; connections that a listening socket accepts are"
        " not refused.",
        "BPF program on socket creation", "BPF map, else /proc/PID/net/sockstat", "BPF map"),
    Row("numflock", _AUXILIARY, _ITEMS, "file locks", P,
        "refused with ENOLCK where the kernel has BPF LSM switched on and CONFIG_KALLSYMS_ALL, else"
        " only accounted. The kernel tells of requests, not of ends of locks, so those that are"
        " held are counted anew when the limit may have been reached; processes that wait for one"
        " may go beyond it.",
        "BPF LSM program", "/proc/locks", "BPF map"),
    Row("numpty", _AUXILIARY, _ITEMS, "pseudo-terminals", P,
        "its /dev/pts gives no more; a root who mounts another devpts is stopped by"
        " kernel.pty.max alone. The kernel does not count refusals.",
        "max= of its devpts", "entries of its devpts"),
    Row("numsiginfo", _AUXILIARY, _ITEMS, "queued signals", E,
        "the user namespace of the VPS has the limit; while it runs a new value holds as far as it"
        " is not above that of the start. The kernel does not count refusals.",
        "RLIMIT_SIGPENDING of the user namespace", "SigQ in /proc/PID/status"),
    Row("tcpsndbuf", _SECONDARY, _BYTES, "TCP send buffers", P,
        "each socket's buffer is clamped, not their sum.",
        "net.ipv4.tcp_wmem of the VPS", _QUEUES),
    Row("tcprcvbuf", _SECONDARY, _BYTES, "TCP receive buffers", P,
        "each socket's buffer is clamped, not their sum.",
        "net.ipv4.tcp_rmem of the VPS", _QUEUES),
    Row("othersockbuf", _SECONDARY, _BYTES, "send buffers of other sockets", P,
        "what a program may ask for is clamped socket by socket.",
        "BPF program on setsockopt(2)", _QUEUES),
    Row("dgramrcvbuf", _SECONDARY, _BYTES, "receive buffers of datagram sockets", P,
        "what a program may ask for is clamped socket by socket.",
        "BPF program on setsockopt(2)", _QUEUES),
    Row("numothersock", _PRIMARY, _ITEMS, "sockets other than TCP", P,
        "UDP and raw sockets beyond it fail with ENOBUFS; UNIX, netlink and packet sockets count"
        " with them where the kernel has BPF LSM switched on.",
        "BPF program on socket creation", "BPF map, else /proc/PID/net/sockstat", "BPF map"),
    Row("dcachesize", _AUXILIARY, _BYTES, "dentry and inode cache", A,
        "the kernel has no such limit; the cache counts toward physpages and is reclaimed with"
        " it.",
        held="memory.stat slab_reclaimable"),
    Row("numfile", _AUXILIARY, _ITEMS, "open files", P,
        "refused with ENFILE where the kernel has BPF LSM switched on, else only accounted. A file"
        " whose last user is none of the VPS (descriptors in a message that the kernel throws away)"
        " stays counted.",
        "BPF LSM program", "BPF map, else descriptors of all processes", "BPF map"),
    Row("numiptent", _AUXILIARY, _ITEMS, "netfilter rules", P,
        "a table of the older iptables that has more entries is refused with ENOMEM. nftables has"
        " no hook that could refuse a rule; their memory counts toward physpages.",
        "BPF program on setsockopt(2)",
        "rules in the network namespace of init, by netlink and IPT_SO_GET_INFO", "BPF map"),
    Row("swappages", _AUXILIARY, _PAGES, "swap in use", E,
        "pages beyond it stay in memory. Without swap on the host it has no effect.",
        "memory.swap.max", "memory.swap.current, memory.swap.peak (Linux 6.5)",
        "memory.swap.events max"),
)  # fmt: skip

BY_NAME = {row.name: row for row in ROWS}


# --- limits ----------------------------------------------------------------------------------


def is_vswap(config: Values) -> bool:
    """PHYSPAGES has a limit: RAM and swap are limited together (beancounters.md 6)."""
    pair = config.value("PHYSPAGES")
    return bool(pair) and pair[1] < _NO_LIMIT_PAGES


def pairs(config: Values) -> dict[str, Pair]:
    """Barrier and limit of every row by its name, as they hold: what is unset follows from RAM and
    swap (vzctl-cli 5, VSwap fill-in), else is no limit, or no guarantee."""
    filled = _fill_in(config) if is_vswap(config) else {"vmguarpages": (0, UNLIMITED)}
    found: dict[str, Pair] = {}
    for row in ROWS:
        own = config.value(row.key)
        found[row.name] = own or filled.get(row.name, (UNLIMITED, UNLIMITED))
    return found


def _fill_in(config: Values) -> dict[str, Pair]:
    ram = config.value("PHYSPAGES")[1]
    swap = (config.value("SWAPPAGES") or (0, 0))[1]
    total = min(ram + swap, UNLIMITED)
    found = {
        "lockedpages": (ram, ram),
        "oomguarpages": (ram, UNLIMITED),
        "vmguarpages": (total, UNLIMITED),
    }
    if overcommit := config.value("VM_OVERCOMMIT"):
        allocated = min(int(total * overcommit), UNLIMITED)
        found["privvmpages"] = (allocated, allocated)
    return found


def limits(config: Values) -> Limits:
    """What a cgroup takes; without VSwap there is no memory limit, since classic physpages only
    counts. Guarantees are those that were asked for, not those that follow from RAM: if all of it
    were guaranteed to somebody, the kernel would have nothing left to choose."""
    vswap = is_vswap(config)
    ram = _bytes(config.value("PHYSPAGES")) if vswap else NO_LIMIT
    return Limits(
        memory_high=NO_LIMIT if ram == NO_LIMIT else high(ram),
        memory_max=ram,
        swap_max=_bytes(config.value("SWAPPAGES")) if vswap else NO_LIMIT,
        memory_low=_guarantee(config.value("VMGUARPAGES"), ram),
        memory_min=_guarantee(config.value("OOMGUARPAGES"), ram),
        pids_max=_count(config.value("NUMPROC")),
        cpu_weight=weight(config.value("CPUUNITS") or DEFAULT_CPUUNITS),
        cpu_max=cpu_max(config.value("CPULIMIT") or 0, config.value("CPUS") or 0),
        io_weight=io_weight(_or(config.value("IOPRIO"), DEFAULT_IOPRIO)),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def high(ram: int) -> int:
    """memory.high before memory.max: tasks are slowed down before one is killed."""
    return max(ram * 97 // 100 // PAGE * PAGE, PAGE)


def guaranteed(config: Values) -> int:
    """Bytes that a VPS wants to be sure of: what admission at start counts."""
    asked = limits(config)
    return max(asked.memory_low or 0, asked.memory_min or 0)


def _guarantee(pair: Pair | None, ram: int) -> int:
    """The barrier in bytes, no more than RAM; 0 for none. `unlimited` guarantees nothing that
    could be kept."""
    if pair is None or pair[0] >= _NO_LIMIT_PAGES:
        return 0
    asked = pair[0] * PAGE
    return asked if ram == NO_LIMIT else min(asked, ram)


def _bytes(pair: Pair | None) -> int:
    return NO_LIMIT if pair is None or pair[1] >= _NO_LIMIT_PAGES else pair[1] * PAGE


def _count(pair: Pair | None) -> int:
    return NO_LIMIT if pair is None or pair[1] == UNLIMITED else pair[1]


def weight(cpuunits: int) -> int:
    """cpu.weight of CPUUNITS: 1000 is 100, the ratios stay."""
    return max(1, min(10000, round(cpuunits / 10)))


def cpu_max(cpulimit: int, cpus: int) -> int:
    """Microseconds per 100 ms: CPULIMIT is per cent of one CPU, CPUS caps at whole ones."""
    percents = [p for p in (cpulimit, cpus * 100) if p]
    return max(1000, min(percents) * 1000) if percents else NO_LIMIT


def io_weight(ioprio: int) -> int:
    """io.weight of IOPRIO 0..7: 4 is the kernel's 100; the ratios are those of CFQ's slices."""
    return 20 * (ioprio + 1)


def io_max(iolimit: int, iopslimit: int) -> str:
    """A device's words in io.max: bytes and operations a second, each direction; 0 is no limit."""
    rate, operations = iolimit or "max", iopslimit or "max"
    return f"rbps={rate} wbps={rate} riops={operations} wiops={operations}"


# Parameter -> the fields of Limits that follow from it.
FIELDS: dict[str, tuple[str, ...]] = {
    "PHYSPAGES": ("memory_high", "memory_max", "swap_max", "memory_low", "memory_min"),
    "SWAPPAGES": ("swap_max",),
    "VMGUARPAGES": ("memory_low",),
    "OOMGUARPAGES": ("memory_min",),
    "NUMPROC": ("pids_max",),
    "CPUUNITS": ("cpu_weight",),
    "CPULIMIT": ("cpu_max",),
    "CPUS": ("cpu_max",),
    "IOPRIO": ("io_weight",),
}
# Field -> what the user calls it, where the field's own parameter is another's, too.
_OPTIONS = {
    "memory_high": "physpages",
    "memory_max": "physpages",
    "swap_max": "swappages",
    "memory_low": "vmguarpages",
    "memory_min": "oomguarpages",
    "pids_max": "numproc",
    "cpu_weight": "cpuunits",
    "cpu_max": "cpulimit",
    "io_weight": "ioprio",
}
# What a new cgroup has: to ask for it is to ask for nothing.
DEFAULTS = Limits(
    memory_high=NO_LIMIT, memory_max=NO_LIMIT, swap_max=NO_LIMIT, memory_low=0, memory_min=0,
    pids_max=NO_LIMIT, cpu_weight=100, cpu_max=NO_LIMIT, io_weight=100,
)  # fmt: skip

# What a configuration without VSwap must say (vzctl-cli 2.2, step 7).
REQUIRED = tuple(key for key in UBC_KEYS if key not in ("AVNUMPROC", "SWAPPAGES"))


def unenforced(config: Values, enforced: set[str]) -> list[str]:
    """Names of beancounters that have a limit which nobody enforces; a guarantee that follows from
    RAM, and a limit that is none, ask for nothing."""
    found = []
    for row in ROWS:
        pair = config.value(row.key)
        if pair and min(pair) < _NO_LIMIT_PAGES and row.name not in enforced:
            found.append(row.name)
    return found


def explain(refused: list[str], wanted: Limits) -> list[str]:
    """The parameters behind fields that could not be written, without those that ask for
    nothing."""
    asked = [field for field in refused if getattr(wanted, field) != getattr(DEFAULTS, field)]
    return list(dict.fromkeys(_OPTIONS[field] for field in asked))
