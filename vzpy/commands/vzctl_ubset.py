"""vzctl ubset: the beancounters of a login user."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    from vzpy.story import ubset

    ubset.ubset(call.node.paths, call.words[0], call.given, call.report)
    return 0
