"""Capabilities by name (capabilities(7))."""

from __future__ import annotations

import _struct as struct

from vzpy.kernel.libc import syscall
from vzpy.kernel.numbers import NR
from vzpy.kernel.proc import slurp
from vzpy.kernel.process import PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAPBSET_DROP, prctl

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
    low, high = halves(bounding)
    header = struct.pack("=Ii", _VERSION_3, 0)
    syscall(NR["capset"], header, struct.pack("=6I", low, low, 0, high, high, 0))


def halves(bounding: int) -> tuple[int, int]:
    """What capset(2) takes: the low 32 capabilities, and the others that we know."""
    return bounding & 0xFFFFFFFF, bounding >> 32 & (1 << len(NAMES) - 32) - 1


def bounding_of(pid: int) -> int:
    """The bounding set of a running process (CapBnd of /proc/PID/status)."""
    line = slurp(f"/proc/{pid}/status").partition(b"\nCapBnd:")[2].partition(b"\n")[0]
    if not line:
        raise ProcessLookupError(3, "no such process", f"/proc/{pid}")
    return int(line, 16)
