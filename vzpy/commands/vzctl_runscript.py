"""vzctl runscript: a script of the node, run inside; the VPS may be stopped (vzctl-cli 2.8)."""

from __future__ import annotations

from vzpy.commands.output import STDERR, say
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    path = call.words[0]
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise VzError(f"Script not found: {path}", Exit.NOSCRIPT) from None
    status = call.vps.runscript(text, stdout=1, stderr=2, report=call.report).returncode
    if status < 0:
        say(STDERR, f"Got signal {-status}")
        return Exit.SYSTEM
    return status
