"""vzctl start: mount and boot (vzctl-cli 2.2)."""

from __future__ import annotations

from vzpy.commands.bar import OwnersBar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    given = call.given
    call.tell_unserved("skip_remount", "skip_ve_setup")
    with OwnersBar(call.out) as report:
        call.vps.start(wait="wait" in given, force="force" in given, report=report)
    return 0
