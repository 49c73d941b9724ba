"""vzctl quotaon, quotaoff, quotainit (vzctl-cli 2.10): the quota room is not there yet, which is
said as on a node where no quota is possible."""

from __future__ import annotations

from vzpy.errors import Exit, VzError
from vzpy.events import QuotaOff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call

_CODES = {"quotaon": Exit.DQ_ON, "quotaoff": Exit.DQ_OFF, "quotainit": Exit.DQ_INIT}


def run(call: Call) -> int:
    code = _CODES[call.action.name]
    if call.vps.layout in ("image", "ploop"):
        call.out.line("CT is on ploop, disk quota is obsoleted, skipping operation")
        return Exit.OK
    if not call.vps.config.value("DISK_QUOTA"):
        call.report(QuotaOff())
        return code
    with call.vps.locked(call.report):
        verb = call.action.name.removeprefix("quota")
        raise VzError(f"vzquota {verb} failed [3]", code, hint="Disk quota is not possible here.")
