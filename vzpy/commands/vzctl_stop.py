"""vzctl stop: halt and unmount; a stopped VPS is no failure (vzctl-cli 2.3)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    given = call.given
    call.vps.stop(fast="fast" in given, umount="skip_umount" not in given, report=call.report)
    return 0
