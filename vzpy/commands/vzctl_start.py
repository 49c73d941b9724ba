"""vzctl start: mount and boot (vzctl-cli 2.2)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    call.vps.start(report=call.report, **call.given)
    return 0
