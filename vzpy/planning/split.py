"""The machine in N equal parts: a sample configuration for each (beancounters.md 5.4).

Three levels of plenty are tried, the most generous first; where none fits, the least that a VPS
can live with is given out."""

from __future__ import annotations

from vzpy.model import UNLIMITED
from vzpy.planning import PAGE
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import Host

_RESERVE = 50 << 20  # bytes that the host keeps for itself
_LEAST_MEMORY, _LEAST_LOW = 5542912, 1348608  # bytes a VPS: RAM and swap, low memory
_PIDS = 8000  # of all VPSs; twice that where low memory is above 2 GiB
_LOW_ENOUGH = 2 << 30
_DISK_RESERVE, _INODE_RESERVE = 10 << 20, 100000  # KiB and inodes that the host keeps
DEFAULT_DISK = 225280, 88000  # KiB and inodes a VPS
_SENTENCES = (
    "Free resource distribution. Any parameters may be increased",
    "Normal resource distribution. Secondary parameters may be increased",
    "Partial resource shortage. Auxiliary parameters may be increased",
    "Overall resource shortage. Please, do not change any parameters!",
)
SHORTAGE = len(_SENTENCES) - 1


@record
class _Level:
    """The factors of one level of plenty."""

    low: float  # of low memory
    least_low: int  # bytes
    processes: float
    per_average: int  # most processes for one that is expected
    kernel: int  # bytes of kernel memory a process
    tcp: int  # bytes of TCP buffers, and
    socket: int  # those of one socket
    siginfo: int
    dentry: float  # bytes a file
    private: float  # private pages for one guaranteed
    locked: int


_LEVELS = (
    _Level(1.0, 10485760, 1.0, 8, 81920, 262144, 4096, 1024, 1.5 * 384, 6.0, 10),
    _Level(1.2, 2097152, 1.5, 5, 65536, 131072, 3036, 512, 1.2 * 384, 3.0, 3),
    _Level(1.8, 0, 2.0, 3, 53248, 65536, 2560, 256, 1.0 * 384, 1.5, 1),
)
_LAST_LOW = 2.0  # of low memory where no level fits
_LEAST_PROCESSES, _LEAST_GUARANTEE, _LEAST_LOCKED, _LEAST_PTY, _LEAST_RULES = 30, 1024, 4, 4, 4
_LEAST_TCP, _LEAST_DGRAM, _LEAST_SOCKET = 65536, 32768, 2560  # bytes
_MOST_LOCKS, _MOST_PTY, _MOST_RULES, _RULES = 1000, 512, 200, 2000


class Impossible(Exception):
    """The machine cannot hold so many VPSs. lines: what to tell."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))


@record
class Plan:
    """One part of the machine."""

    count: int
    host: Host
    threads: int
    level: int
    pairs: dict[str, tuple[int, int]]


@record
class _Base:
    """What all other parameters follow from."""

    processes: int
    average: int
    kernel: int  # bytes
    guarantee: int  # pages
    buffers: dict[str, tuple[int, int]]


def check(host: Host, count: int) -> None:
    """Raises Impossible when even the least that a VPS needs is not there `count` times."""
    if host.ram < _RESERVE:
        raise Impossible(
            f"At least {_RESERVE >> 20} Mb of RAM should be installed on Hardware Node"
        )
    lines, allowed = [], count
    both = host.ram + host.swap
    if (both - _RESERVE) // count < _LEAST_MEMORY:
        lines.append(f"On node with {both >> 20} Mb of memory (RAM + swap)"
                     f" {count} containers can not be allocated")  # fmt: skip
        allowed = (both - _RESERVE) // _LEAST_MEMORY
    if (host.low - _RESERVE) < allowed * _LEAST_LOW:
        lines.append(f"On node with {host.low >> 20} Mb of Low Memory"
                     f" {count} containers can not be allocated")  # fmt: skip
        allowed = min(allowed, (host.low - _RESERVE) // _LEAST_LOW)
    if lines:
        raise Impossible(*lines, f"The maximum allowed value is {max(allowed, 0)}")


def plan(host: Host, count: int, disk: tuple[int, int]) -> Plan:
    """The part of one of `count` VPSs; disk: KiB and inodes for each.

    Raises Impossible."""
    threads = min(host.threads, _PIDS * (2 if host.low > _LOW_ENOUGH else 1))
    total = (host.ram + host.swap - _RESERVE) // count
    for number, level in enumerate(_LEVELS):  # noqa: B007
        low = int(host.low * 0.4 * level.low / count)
        base = _fitting(level, total, low, int(level.processes * threads) // count)
        if base:
            break
    else:
        number = SHORTAGE
        low = int(host.low * 0.4 * _LAST_LOW / count)
        base = _least(level, total, low, int(level.processes * threads) // count)
    pairs = _secondary(base, level, host, total, count)
    for key, most in zip(("DISKSPACE", "DISKINODES"), disk):
        pairs[key] = int(most / 1.1), most
    return Plan(count, host, threads, number, pairs)


def _guaranteed(total: int, low: int) -> tuple[int, int]:
    """Guaranteed pages, and the low memory that is left when they are the least there may be."""
    pages = (total - low) // PAGE
    if pages < _LEAST_GUARANTEE:
        return _LEAST_GUARANTEE, total - _LEAST_GUARANTEE * PAGE
    return pages, low


def _fitting(level: _Level, total: int, low: int, processes: int) -> _Base | None:
    """None when a VPS would not get what the level promises."""
    guarantee, low = _guaranteed(total, low)
    kernel = low // 2
    average = kernel // level.kernel
    if low < level.least_low or average < _LEAST_PROCESSES // 2:
        return None
    processes = max(processes, _LEAST_PROCESSES, 2 * average)
    processes = min(processes, average * level.per_average)
    tcp = (low - kernel) // 3
    gap = level.socket * processes
    if tcp < level.tcp + gap:
        return None
    rest = tcp - gap
    buffers = {
        "TCPSNDBUF": (rest, tcp),
        "TCPRCVBUF": (rest, tcp),
        "OTHERSOCKBUF": (rest // 2, rest // 2 + gap),
        "DGRAMRCVBUF": (rest // 2, rest // 2),
    }
    return _Base(processes, average, kernel, guarantee, buffers)


def _least(level: _Level, total: int, low: int, processes: int) -> _Base:
    """The least values. Raises Impossible."""
    guarantee, low = _guaranteed(total, low)
    while True:
        processes = max(processes // 2, _LEAST_PROCESSES)
        average = processes // 2
        gap = _LEAST_SOCKET * processes
        kernel = low - 2 * (_LEAST_DGRAM + _LEAST_TCP + gap)
        rest = kernel - average * level.kernel
        if rest >= 0:
            break
        if processes == _LEAST_PROCESSES:
            raise Impossible(
                "Fatal resource shortage, try to decrease the number of containers"
            )
    buffers = {
        "TCPSNDBUF": (_LEAST_TCP, _LEAST_TCP + gap),
        "TCPRCVBUF": (_LEAST_TCP, _LEAST_TCP + min(rest, gap)),
        "OTHERSOCKBUF": (_LEAST_DGRAM, _LEAST_DGRAM + gap),
        "DGRAMRCVBUF": (_LEAST_DGRAM, _LEAST_DGRAM),
    }
    return _Base(processes, average, kernel + max(rest - gap, 0), guarantee, buffers)


def _secondary(
    base: _Base, level: _Level, host: Host, total: int, count: int
) -> dict[str, tuple[int, int]]:
    files = 32 * base.average
    dentries = int(files * level.dentry)
    locks = min(files // 10, _MOST_LOCKS)
    guarantee, private = base.guarantee, int(base.guarantee * level.private)
    if private > total // PAGE:
        private = guarantee
    most = int(0.6 * host.ram) // PAGE
    if count > 1 and private > most:
        private, guarantee = most, min(guarantee, most)
    rules = min(max(_RULES // count, _LEAST_RULES), _MOST_RULES)
    ptys = min(max(base.processes // 10, _LEAST_PTY), _MOST_PTY)
    locked = max(base.kernel * level.locked // 204800, _LEAST_LOCKED)
    return {
        "NUMPROC": (base.processes, base.processes),
        "AVNUMPROC": (base.average, base.average),
        "NUMTCPSOCK": (base.processes, base.processes),
        "NUMOTHERSOCK": (base.processes, base.processes),
        "VMGUARPAGES": (guarantee, UNLIMITED),
        "KMEMSIZE": (base.kernel, base.kernel * 11 // 10),
        **base.buffers,
        "OOMGUARPAGES": (guarantee, UNLIMITED),
        "PRIVVMPAGES": (private, private * 11 // 10),
        "LOCKEDPAGES": (locked, locked),
        "SHMPAGES": (private // 10, private // 10),
        "PHYSPAGES": (0, UNLIMITED),
        "NUMFILE": (files, files),
        "NUMFLOCK": (locks, locks * 11 // 10),
        "NUMPTY": (ptys, ptys),
        "NUMSIGINFO": (level.siginfo, level.siginfo),
        "DCACHESIZE": (int(dentries / 1.03), dentries),
        "NUMIPTENT": (rules, rules),
    }


def disk(space: int, inodes: int, count: int) -> tuple[tuple[int, int] | None, int, bool]:
    """(KiB and inodes of each VPS, None when they do not fit `count` times), how many would fit,
    and whether the file system is smaller than is good.

    space in KiB; inodes 0: the file system has no fixed number of them."""
    is_small = space < 2 * _DISK_RESERVE or 0 < inodes < 2 * _INODE_RESERVE
    space = space // 2 if space < 2 * _DISK_RESERVE else space - _DISK_RESERVE
    fitting = space // DEFAULT_DISK[0]
    if inodes:
        reserve = inodes // 2 if inodes < 2 * _INODE_RESERVE else _INODE_RESERVE
        inodes -= reserve
        fitting = min(fitting, inodes // DEFAULT_DISK[1])
    if fitting < count:
        return None, fitting, is_small
    # Without a fixed number, one inode for 16 KiB, as ext4 has them.
    each = space // (2 * count)
    return (each, inodes // (2 * count) if inodes else each // 16), fitting, is_small


# Text

_GROUPS = {"NUMPROC": "# Primary parameters", "KMEMSIZE": "\n# Secondary parameters",
           "LOCKEDPAGES": "\n# Auxiliary parameters"}  # fmt: skip
_DISK = ("DISKSPACE", "DISKINODES")


def header(made: Plan) -> str:
    host = made.host
    return (
        f"# Configuration file generated by vzsplit for {made.count} container"
        f"{' ' if made.count == 1 else 's'}\n"
        f"# on HN with total amount of physical memory {host.ram >> 20} Mb,\n"
        f"# low memory {host.low >> 20} Mb, swap size {host.swap >> 20} Mb,"
        f" max threads {made.threads}.\n"
        f"# Resource commit level {made.level}:\n# {_SENTENCES[made.level]}\n"
    )


def classic_text(made: Plan) -> str:
    """The sample as a file, without VSwap."""
    lines = []
    for key, pair in made.pairs.items():
        if key in _GROUPS:
            lines.append(_GROUPS[key])
        lines.append(_line(key, pair))
    return header(made) + "\n".join(lines) + "\n" + _CPU


def vswap_text(made: Plan) -> str:
    """The sample with VSwap. NUMPROC stays: nothing else keeps a fork bomb inside."""
    ram = made.pairs["PRIVVMPAGES"][0]
    lines = [
        "\n# This is VSwap-enabled configuration\n",
        _line("PHYSPAGES", (0, ram)),
        _line("SWAPPAGES", (0, 2 * ram)),
        "",
        *(_line(key, _free(key, made.pairs)) for key in _VSWAP_ORDER),
        "",
        *(_line(key, made.pairs[key]) for key in _DISK),
    ]
    return header(made) + "\n".join(lines) + "\n" + _CPU


_CPU = 'CPUUNITS="1000"\n'
_VSWAP_ORDER = (
    "KMEMSIZE DCACHESIZE LOCKEDPAGES PRIVVMPAGES SHMPAGES NUMPROC VMGUARPAGES OOMGUARPAGES"
    " NUMTCPSOCK NUMFLOCK NUMPTY NUMSIGINFO TCPSNDBUF TCPRCVBUF OTHERSOCKBUF DGRAMRCVBUF"
    " NUMOTHERSOCK NUMFILE NUMIPTENT"
).split()


def _free(key: str, pairs: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if key == "NUMPROC":
        return pairs[key]
    return 0 if key in ("VMGUARPAGES", "OOMGUARPAGES") else UNLIMITED, UNLIMITED


def _line(key: str, pair: tuple[int, int]) -> str:
    bar, lim = ("unlimited" if value == UNLIMITED else str(value) for value in pair)
    return f'{key}="{bar if bar == lim else f"{bar}:{lim}"}"'
