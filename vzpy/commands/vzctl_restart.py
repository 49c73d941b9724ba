"""vzctl restart (vzctl-cli 2.4)."""

from __future__ import annotations

from vzpy.commands.bar import OwnersBar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    given = call.given
    call.tell_unserved("skip_remount", "skip_ve_setup", "skip_umount")
    wait, force, fast = ("wait" in given, "force" in given, "fast" in given)
    with OwnersBar(call.out) as report:
        call.vps.restart(wait=wait, force=force, fast=fast, report=report)
    return 0
