"""What processes hold, by /proc (proc(5)): for beancounters that no cgroup counts.

The numbers are those of a moment, put together from processes that go on meanwhile."""

from __future__ import annotations

import os

from vzpy.kernel.proc import slurp

_SLOTS = 1024
_COLUMNS = {"tcp": ("tcpsndbuf", "tcprcvbuf"), "udp": ("othersockbuf", "dgramrcvbuf")}


def of_processes(pids: list[int]) -> dict[str, int]:
    """privvmpages (pages of data and stack), numfile (descriptors: what two share counts twice),
    numsiginfo (signals queued for each user once)."""
    pages = files = 0
    queued: dict[bytes, int] = {}
    for pid in pids:
        where = f"/proc/{pid}"
        try:
            status = slurp(f"{where}/status")
            pages += int(slurp(f"{where}/statm").split()[5])
            files += _descriptors(f"{where}/fd", int(_field(status, b"\nFDSize:")))
        except OSError:
            continue  # it has ended
        user = _field(status, b"\nUid:").split()[0]
        queued[user] = int(_field(status, b"\nSigQ:").partition(b"/")[0])
    return {"privvmpages": pages, "numfile": files, "numsiginfo": sum(queued.values())}


def _descriptors(folder: str, slots: int) -> int:
    """Open descriptors: since Linux 6.2 the size of the directory. Before, a listing; of a table of
    very many slots their number, so that no guest makes us list millions."""
    return os.stat(folder).st_size or (len(os.listdir(folder)) if slots <= _SLOTS else slots)


def _field(status: bytes, name: bytes) -> bytes:
    return status.partition(name)[2].partition(b"\n")[0]


def of_sockets(pid: int) -> dict[str, int]:
    """Sockets of the network namespace of a process, and the bytes in their queues: of TCP what
    the program has given or has yet to take, of UDP with the kernel's overhead."""
    found = dict.fromkeys(("numtcpsock", "numothersock", *_COLUMNS["tcp"], *_COLUMNS["udp"]), 0)
    net = f"/proc/{pid}/net"
    used = udp = 0
    try:
        for name in ("sockstat", "sockstat6"):
            for line in slurp(f"{net}/{name}").split(b"\n"):
                kind, _, rest = line.partition(b": ")
                words = rest.split()
                if kind == b"sockets":
                    used = int(words[1])
                elif kind in (b"TCP", b"TCP6"):
                    found["numtcpsock"] += int(words[1])
                elif kind in (b"UDP", b"UDP6"):
                    udp += int(words[1])
        found["numothersock"] = max(used - found["numtcpsock"], 0)
        for name, count in (("tcp", found["numtcpsock"]), ("udp", udp)):
            if count:
                sent, received = _queues(f"{net}/{name}"), _queues(f"{net}/{name}6")
                found[_COLUMNS[name][0]] = sent[0] + received[0]
                found[_COLUMNS[name][1]] = sent[1] + received[1]
    except OSError:
        pass  # it has ended, or has no IPv6
    return found


def _queues(path: str) -> tuple[int, int]:
    """Sums of tx_queue and rx_queue, in bytes, of a table of sockets."""
    sent = received = 0
    try:
        lines = slurp(path).split(b"\n")[1:]
    except OSError:
        return 0, 0
    for line in lines:
        words = line.split(None, 5)
        if len(words) > 4 and words[3] != b"0A":  # a listener's are its backlog
            out, _, back = words[4].partition(b":")
            sent += int(out, 16)
            received += int(back, 16)
    return sent, received


def locks() -> dict[int, int]:
    """File locks by the process that took them, of the whole machine (proc_locks(5))."""
    found: dict[int, int] = {}
    for line in slurp("/proc/locks").split(b"\n"):
        words = line.split()
        # `1: -> POSIX ...` waits for a lock, it holds none.
        if len(words) > 5 and words[1] != b"->":
            pid = int(words[4])
            found[pid] = found.get(pid, 0) + 1
    return found
