"""Counters that programs on vz/N keep: held, maxheld and failcnt of some kinds, and their limits,
each in an array of one element. They live as long as the cgroup.

What was there before the programs came is a number beside the limit: the programs count from 0 and
below, up to the limit less that number.

The pieces of program here use R7, the address of the counters of a kind, R8, what is held with the
new one, and R0 to R3."""

from __future__ import annotations

import _struct as struct
import os

from vzpy.kernel import bpf, btf
from vzpy.kernel.bpf import R0, R1, R2, R3, R7, R8, R10, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.kernel.bpf import Opened
    from vzpy.model import IdRange

NO_LIMIT = 2**63 - 1
_HELD, _MAXHELD, _FAILCNT = 0, 8, 16
ROW, LIMIT_ROW = 24, 16  # bytes of one kind; of limits: up to what is counted, what was before
_TRIES = 4


# What programs at the hooks of security modules have to know of the running kernel.
_FUNCTIONS = tuple(f"bpf_lsm_{hook}" for hook in (
    "file_alloc_security", "file_free_security",
    "socket_create", "d_instantiate", "inode_free_security",
))  # fmt: skip
_MEMBERS = (
    "file.f_cred", "cred.uid", "inode.i_sb", "super_block.s_magic", "socket_alloc.vfs_inode",
    "socket.sk", "sock_common.skc_family",
)  # fmt: skip
_KNOWN = "trusted.vz.btf"


def places(
    cgroup: str, functions: tuple[str, ...] = _FUNCTIONS, members: tuple[str, ...] = _MEMBERS,
    note: str = _KNOWN,
) -> dict[str, int]:
    """Numbers of functions and offsets of members, by name. They are looked for once a boot, and
    noted on the root of the cgroups, two above vz/N. Raises OSError where there are none."""
    top = os.path.dirname(os.path.dirname(cgroup))
    try:
        rows = [row.split(" ") for row in os.getxattr(top, note).decode().split("\n")]
        known = {name: int(number) for name, number in rows}
        if known.keys() == {*functions, *members}:
            return known
    except OSError:
        pass
    found = btf.look(functions, members)
    try:
        os.setxattr(top, note, "\n".join(f"{k} {v}" for k, v in found.items()).encode())
    except OSError:
        pass  # then the next one looks again
    return found


class Maps:
    """The two maps of a room.

    name   prefix of their names
    kinds  parameters, in the order of the rows"""

    def __init__(self, name: str, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self._counters, self._limits = f"{name}_count", f"{name}_limit"

    def make(self, opened: Opened, limits: Mapping[str, int]) -> tuple[int, int]:
        """New ones: the descriptors of counters and limits. Raises OSError."""
        rows = len(self.kinds)
        counters = opened(bpf.map_create(bpf.MAP_ARRAY, ROW * rows, self._counters))
        limit = opened(bpf.map_create(bpf.MAP_ARRAY, LIMIT_ROW * rows, self._limits))
        bpf.map_update(limit, self._packed(limits, {}))
        return counters, limit

    def change(
        self, cgroup: str, point: int, program: str, limits: Mapping[str, int],
        before: Mapping[str, int] | None = None,
    ) -> bool:
        """New limits for the maps of a program on vz/N; False when there is none.

        before  how many there were when it came, by kind; None when that is known"""
        with bpf.Opened() as opened:
            prog = _find(opened, cgroup, point, program)
            if prog < 0:
                return False
            fd = self.of(opened, prog)[1]
            known = before or dict(zip(self.kinds, (x for _, x in self._limits_of(fd))))
            bpf.map_update(fd, self._packed(limits, known))
        return True

    def of(self, opened: Opened, prog: int) -> tuple[int, int]:
        """The descriptors of counters and limits that a program uses."""
        counters, limits = self._counters, self._limits
        return opened(bpf.map_of(prog, counters)), opened(bpf.map_of(prog, limits))

    def _limits_of(self, fd: int) -> list[tuple[int, ...]]:
        return list(struct.iter_unpack("=2q", bpf.map_lookup(fd, LIMIT_ROW * len(self.kinds))))

    def read(self, cgroup: str, point: int, program: str) -> dict[str, tuple[int, int, int]]:
        """KIND -> held, maxheld, failcnt; nothing where nobody counts. Raises OSError."""
        with bpf.Opened() as opened:
            prog = _find(opened, cgroup, point, program)
            if prog < 0:
                return {}
            counters, limit = self.of(opened, prog)
            raw = bpf.map_lookup(counters, ROW * len(self.kinds))
            limits = self._limits_of(limit)
        rows = zip(self.kinds, struct.iter_unpack("=3q", raw), limits)
        return {
            kind: (held + before, max(held, top) + before, fails)
            for kind, (held, top, fails), (_, before) in rows
        }

    def left(self, cgroup: str, point: int, program: str) -> dict[str, int]:
        """KIND -> how many more there may be; nothing where nobody counts. Raises OSError."""
        with bpf.Opened() as opened:
            prog = _find(opened, cgroup, point, program)
            if prog < 0:
                return {}
            counters, limit = self.of(opened, prog)
            held = struct.iter_unpack("=3q", bpf.map_lookup(counters, ROW * len(self.kinds)))
            limits = self._limits_of(limit)
        return {kind: top - now[0] for kind, now, (top, _) in zip(self.kinds, held, limits)}

    def _packed(self, limits: Mapping[str, int], before: Mapping[str, int]) -> bytes:
        rows = ((limits.get(kind, NO_LIMIT), before.get(kind, 0)) for kind in self.kinds)
        return b"".join(struct.pack("=2q", limit - there, there) for limit, there in rows)


def _find(opened: Opened, cgroup: str, point: int, program: str) -> int:
    where = opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    prog = bpf.find(where, point, program)
    return opened(prog) if prog >= 0 else -1


def count(code: Code, refuse: str) -> None:
    """One more, in R8, and to the label when that is beyond the limit at the address R3."""
    add(code)
    code.load(R3, R3, 0)
    code.jump_if_to(refuse, R8, "s>", R3)


def add(code: Code) -> None:
    """One more, in R8."""
    code.set(R8, "=", 1)
    code.fetch_add(R7, _HELD, R8)
    code.set(R8, "+", 1)


def full(code: Code, refuse: str) -> None:
    """To the label when there is no room for one more within the limit R3."""
    code.load(R2, R7, _HELD)
    code.jump_if_to(refuse, R2, "s>=", R3)


def note_peak(code: Code) -> None:
    """maxheld = R8, when that is more; others may do the same at this moment."""
    code.load(R0, R7, _MAXHELD)
    for _ in range(_TRIES):
        code.jump_if_to("noted", R0, "s>=", R8)
        code.set_to(R1, "=", R0)
        code.compare_exchange(R7, _MAXHELD, R8)
        code.jump_if_to("noted", R0, "==", R1)
    code.label("noted")


def uncount(code: Code) -> None:
    code.set(R1, "=", -1)
    code.fetch_add(R7, _HELD, R1)


def read(code: Code, size: int) -> None:
    """So many bytes at the address R3 to the top of the stack."""
    code.set_to(R1, "=", R10)
    code.set(R1, "+", -8)
    code.set(R2, "=", size)
    code.call(bpf.PROBE_READ_KERNEL)


def only_files_of(ids: IdRange, code: Code, kernel: Mapping[str, int]) -> None:
    """To "not ours" for a file that no user of the VPS opened; the first argument is the file."""
    code.load(R2, R1, 0)
    code.load(R2, R2, kernel["file.f_cred"])
    code.load(R3, R2, kernel["cred.uid"], 4)
    code.jump_if("not ours", R3, "<", ids.base)
    code.jump_if("not ours", R3, ">", ids.base + ids.count - 1)


def refuse(code: Code, error: int) -> None:
    """Take back what was counted, count the failure, and have the call fail with an errno."""
    uncount(code)
    fail(code, error)


def fail(code: Code, error: int) -> None:
    """Count the failure, and have the call fail with an errno."""
    code.set(R1, "=", 1)
    code.fetch_add(R7, _FAILCNT, R1)
    code.set(R1, "=", -error)
    code.call(bpf.SET_RETVAL)
    code.exit(0)
