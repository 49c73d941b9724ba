"""vzctl status: one line, always shown, exit code 0 (vzctl-cli 2.1)."""

from __future__ import annotations

from vzpy.commands.output import STDOUT, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    status = call.vps.status
    words = [
        f"CTID {call.ctid}",
        "exist" if status.exist else "deleted",
        "mounted" if status.mounted else "unmounted",
        "running" if status.running else "down",
    ]
    if status.suspended:
        words.append("suspended")
    say(STDOUT, " ".join(words))
    return 0
