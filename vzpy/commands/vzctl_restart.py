"""vzctl restart (vzctl-cli 2.4)."""

from __future__ import annotations

from vzpy.commands.bar import OwnersBar
from vzpy.commands.vzctl_start import manner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    given = call.given
    with OwnersBar(call.out) as report:
        call.vps.restart(
            fast="fast" in given, umount="skip_umount" not in given, **manner(call), report=report
        )
    return 0
