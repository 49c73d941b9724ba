"""vzctl convert and compact (vzctl-cli 2.11)."""

from __future__ import annotations

from vzpy.commands.bar import Bar
from vzpy.errors import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    if call.action.name == "compact":
        return _compact(call)
    layout = call.given.get("layout", "ploop")
    with Bar("Copying", wanted=not call.out.quiet) as progress:
        if not call.vps.convert(layout, report=call.report, progress=progress):
            call.out.line(f"CT is already on {layout.partition(':')[0]}")
    return Exit.OK


def _compact(call: Call) -> int:
    if call.vps.layout == "image":
        call.vps.compact(report=call.report)
    else:
        call.out.line("Compact only makes sense for ploop containers")
    return Exit.OK
