"""vzctl snapshot, snapshot-switch and so on (vzctl-cli 2.12): the syntax; no layout of ours has
snapshots yet, which is said in the contract's words."""

from __future__ import annotations

from vzpy.commands.output import STDOUT, say
from vzpy.errors import UsageError, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call

_CODES = {
    "snapshot": 156,
    "snapshot-delete": 158,
    "snapshot-switch": 159,
    "snapshot-mount": 160,
    "snapshot-umount": 161,
    "snapshot-list": 167,
}
_FIELDS = {
    "parent_uuid": "PARENT_UUID",
    "current": "C",
    "uuid": "UUID",
    "date": "DATE",
    "name": "NAME",
    "desc": "DESC",
    "device": "DEVICE",
    "target": "TARGET",
}


def run(call: Call) -> int:
    action, given = call.action.name, call.given
    if action == "snapshot-list":
        if "list" in given:
            for field, header in _FIELDS.items():
                say(STDOUT, f"{field:<15} {header:<15}")
            return 0
    elif action != "snapshot":
        if "id" not in given:
            raise UsageError("Invalid syntax: snapshot id is missing")
        if action == "snapshot-mount" and "target" not in given:
            raise UsageError("Invalid syntax: mount target is missing")
        if "skip_resume" in given and "must_resume" in given:
            raise UsageError(
                "Invalid syntax: --skip-resume and --must-resume can not be used together"
            )
    raise VzError("Snapshot feature is only available for ploop-based CTs", _CODES[action])
