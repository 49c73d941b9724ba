"""vzctl create (vzctl-cli 4)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    call.node.create(call.ctid, report=call.report, **call.given)
    return 0
