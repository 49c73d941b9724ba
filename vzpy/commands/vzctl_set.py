"""vzctl set (vzctl-cli 3)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    save = bool(call.given.pop("save", False))
    call.vps.set(save=save, report=call.report, **call.given)
    return 0
