"""Which capabilities the root of a VPS has in its user namespace (config-files.md 6).

Those of OpenVZ's upstream mode. AUDIT_* are out by default: with them systemd starts audit
services that no container can run (gotcha G19). What is off cannot come back by exec: the bounding
set is cut."""

from __future__ import annotations

from vzpy.kernel import caps

DEFAULT = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable"
    " net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_chroot sys_ptrace"
    " sys_admin sys_boot sys_nice sys_resource sys_tty_config mknod lease setfcap"
).split()
VE_ADMIN = "VE_ADMIN"  # OpenVZ's own: accepted, means nothing on a stock kernel


def bounding(switches: dict[str, bool]) -> int:
    """The mask for the default set with the switches of CAPABILITY ({NAME: on})."""
    wanted = set(DEFAULT)
    for name, on in switches.items():
        if name != VE_ADMIN:
            (wanted.add if on else wanted.discard)(name.lower())
    return caps.mask(sorted(wanted))
