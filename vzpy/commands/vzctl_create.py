"""vzctl create: a progress bar where the template has to be built or unpacked (vzctl-cli 4)."""

from __future__ import annotations

from vzpy.commands.bar import Bar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    with Bar("Unpacking the OS template", wanted=not call.out.quiet) as progress:
        call.node.create(call.ctid, report=call.report, progress=progress, **call.given)
    return 0
