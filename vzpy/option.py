"""One option of a command line. The table of parameters, which makes some, has 85 rows more: tools
that have a few options do not pay for those."""

from __future__ import annotations

from vzpy.record import record


@record
class Option:
    """kind names a value class of vzpy.values; "" is a flag without a value."""

    name: str
    kind: str = ""
    help: str = ""
    aliases: tuple[str, ...] = ()
    short: str = ""
    key: str = ""  # the parameter it changes
    req_save: int = 0  # exit code without --save; 0 = --save is not needed
