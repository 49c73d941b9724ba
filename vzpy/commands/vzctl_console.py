"""vzctl console: attach to a terminal of a VPS (vzctl-cli 2.8)."""

from __future__ import annotations

from vzpy.errors import Exit, UsageError, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    if len(call.words) > 1:
        raise UsageError("Invalid syntax: too many parameters!")
    word = call.words[0] if call.words else "1"
    if not (word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= 12):
        raise VzError(f"Invalid tty number: {word}", Exit.INVALID_PARAMETER_VALUE)
    raise VzError("Unable to attach: vzeventd, which keeps the consoles, does not answer")
