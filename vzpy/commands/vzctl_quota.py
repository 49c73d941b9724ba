"""vzctl quotaon, quotaoff, quotainit (vzctl-cli 2.10)."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.events import QuotaOff
from vzpy.story import disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call

_CODES = {"quotaon": Exit.DQ_ON, "quotaoff": Exit.DQ_OFF, "quotainit": Exit.DQ_INIT}


def run(call: Call) -> int:
    name, vps = call.action.name, call.vps
    if disk.is_native(vps.layout):
        call.out.line("CT is on ploop, disk quota is obsoleted, skipping operation")
        return Exit.OK
    if not vps.config.value("DISK_QUOTA"):
        call.report(QuotaOff())
        return _CODES[name]
    act = {"quotaon": disk.quotaon, "quotaoff": disk.quotaoff, "quotainit": disk.quotainit}[name]
    with vps.locked(call.report):
        act(vps, call.report)
    return Exit.OK
