"""vzctl console: attach to a terminal of a VPS, or show what it has shown (vzctl-cli 2.8)."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.commands.output import STDERR, STDOUT, say
from vzpy.errors import Exit, UsageError, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    if len(call.words) > 1:
        raise UsageError("Invalid syntax: too many parameters!")
    word = call.words[0] if call.words else "1"
    if word == "--log":
        return _show_log(call)
    if not (word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= 12):
        raise VzError(f"Invalid tty number: {word}", Exit.INVALID_PARAMETER_VALUE)
    if int(word) > 1:
        raise VzError(f"CT {call.ctid} has no tty {word}, only the console, number 1")
    from vzpy.eventd.attach import attach, join

    paths, ctid = call.node.paths, call.ctid
    try:
        daemon = attach(paths, ctid)
        say(STDERR, f"Attached to CT {ctid} (ESC . to detach)")
        join(daemon, paths, ctid)
    except OSError as err:
        raise VzError.of("Unable to attach: vzeventd does not answer", err) from err
    say(STDERR, f"\nDetached from CT {call.ctid}")
    return Exit.OK


def _show_log(call: Call) -> int:
    """What the console has shown since the last start, as far as it is kept, byte for byte."""
    path = state.console_log(call.node.paths, call.ctid)
    for name in (f"{path}.old", path):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            while data := os.read(fd, 1 << 16):
                os.write(STDOUT, data)
        finally:
            os.close(fd)
    return Exit.OK
