"""Capabilities by name (capabilities(7))."""

from __future__ import annotations

import _struct as struct

from vzpy.kernel.libc import syscall
from vzpy.kernel.numbers import NR
from vzpy.kernel.proc import slurp
from vzpy.kernel.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    prctl,
    set_fs_user,
)

NAMES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable"
    " net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio"
    " sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time"
    " sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog"
    " wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
NUMBERS = {name: number for number, name in enumerate(NAMES)}
_VERSION_3 = 0x20080522


def mask(names: list[str]) -> int:
    """A bit mask of capability names."""
    return sum(1 << NUMBERS[name] for name in names)


def limit(bounding: int) -> None:
    """Keep only the capabilities of the mask `bounding`: in the bounding set, and in the task.

    Inheritable and ambient are emptied; what exec gives to root is then the bounding set."""
    for number in range(64):
        if not bounding >> number & 1:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError:
                break  # beyond the kernel's last capability
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _capset(halves(bounding), (0, 0))


def _capset(permitted: tuple[int, int], inherited: tuple[int, int]) -> None:
    """What is permitted is effective."""
    halved = zip(permitted, permitted, inherited, strict=True)
    sets = b"".join(struct.pack("=3I", *half) for half in halved)
    syscall(NR["capset"], struct.pack("=Ii", _VERSION_3, 0), sets)


def halves(bounding: int) -> tuple[int, int]:
    """What capset(2) takes: the low 32 capabilities, and the others that we know."""
    return bounding & 0xFFFFFFFF, bounding >> 32 & (1 << len(NAMES) - 32) - 1


def bounding_of(pid: int) -> int:
    """The bounding set of a running process."""
    return _set_of(f"/proc/{pid}/status", b"CapBnd")


def make_files_as(number: int) -> None:
    """set_fs_user() of this thread, with all its rights over files kept; 0 takes it back."""
    set_fs_user(number)
    if number:
        itself = "/proc/thread-self/status"
        permitted = halves(_set_of(itself, b"CapPrm"))
        inherited = halves(_set_of(itself, b"CapInh"))
        _capset(permitted, inherited)


def _set_of(status: str, which: bytes) -> int:
    """One set of capabilities, as proc(5) tells it."""
    line = slurp(status).partition(b"\n%s:" % which)[2].partition(b"\n")[0]
    if not line:
        raise ProcessLookupError(3, "no such process", status)
    return int(line, 16)
