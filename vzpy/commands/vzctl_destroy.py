"""vzctl destroy (vzctl-cli 2.6)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    call.vps.destroy(report=call.report)
    return 0
