"""vzctl exec, exec2, exec3: a command inside, its exit code as the contract has it (2.7)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from vzpy.commands.output import STDERR, STDOUT, say
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    """exec says 8 for whatever fails; exec2 and exec3 give the command's own status."""
    is_exec = call.action.name == "exec"
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) == _signal.SIG_DFL:
            _signal.signal(number, _end)
    try:
        status = _run_inside(call)
    except VzError as err:
        code = call.out.error(err)
        return Exit.COMMAND_EXECUTION if is_exec else code
    if status < 0:
        say(STDERR, f"Got signal {-status}")
        status = Exit.SYSTEM
    return Exit.COMMAND_EXECUTION if is_exec and status else status


def _end(number: int, frame: object) -> None:
    """What runs inside ends with the tool."""
    raise SystemExit(128 + number)


def _run_inside(call: Call) -> int:
    from vzpy.story import enter, pump

    words = [os.fsencode(word) for word in call.words]
    if call.action.name == "exec3":
        what = enter.program(words)
    elif words[0] == b"-":
        what = enter.shell_reading_stdin()
    else:
        what = enter.shell(b"".join((word or b"''") + b" " for word in words))
    where = (call.node.paths, call.ctid)
    return pump.run_in(*where, what, stdin=0, stdout=STDOUT, stderr=STDERR).returncode
