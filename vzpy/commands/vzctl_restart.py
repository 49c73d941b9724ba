"""vzctl restart (vzctl-cli 2.4)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    given = call.given
    call.tell_unserved("skip_remount", "skip_ve_setup", "skip_umount")
    call.vps.restart(
        wait="wait" in given, force="force" in given, fast="fast" in given, report=call.report
    )
    return 0
