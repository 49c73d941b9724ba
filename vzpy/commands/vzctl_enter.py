"""vzctl enter: a root shell inside, on a terminal (vzctl-cli 2.8)."""

from __future__ import annotations

import os

from vzpy.commands.output import STDOUT, say
from vzpy.errors import Exit, UsageError, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    """A session always ends with 0, whatever its shell said."""
    if call.words and call.words[0] != "--exec":
        raise UsageError(f"Invalid option '{call.words[0]}'")
    if call.words and not call.words[1:]:
        raise UsageError("No command line given for --exec")
    facts = call.vps.running()
    from vzpy.story import session

    typed = os.fsencode(" ".join(call.words[1:]) + "\n") if call.words else b""
    call.out.line(f"entered into CT {call.ctid}")
    call.out.log = None
    try:
        status = session.run(facts, typed)
    except OSError as err:
        call.out.line(f"enter into CT {call.ctid} failed")
        raise VzError.of("Unable to enter", err, Exit.FS_BAD_TMPL) from err
    if status < 0:
        say(STDOUT, f"got signal {-status}")
    call.out.line(f"exited from CT {call.ctid}")
    return Exit.OK
