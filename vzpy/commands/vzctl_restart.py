"""vzctl restart (vzctl-cli 2.4)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    call.vps.restart(report=call.report, **call.given)
    return 0
