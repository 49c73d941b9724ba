"""vzctl start: mount and boot (vzctl-cli 2.2)."""

from __future__ import annotations

from vzpy.commands.bar import OwnersBar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    with OwnersBar(call.out) as report:
        call.vps.start(**manner(call), report=report)
    return 0


def manner(call: Call) -> dict[str, bool]:
    """The flags of a start as keywords of VPS.start()."""
    given = call.given
    return {
        "wait": "wait" in given,
        "force": "force" in given,
        "remount": "skip_remount" not in given,
        "setup": "skip_ve_setup" not in given,
        "fsck": "skip_fsck" not in given,
    }
