"""vzctl mount and umount (vzctl-cli 2.5)."""

from __future__ import annotations

from vzpy.commands.bar import OwnersBar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    if call.action.name == "mount":
        with OwnersBar(call.out) as report:
            call.vps.mount(report=report)
    else:
        call.vps.umount(report=call.report)
    return 0
