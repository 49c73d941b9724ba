"""vzctl snapshot, snapshot-switch and so on (vzctl-cli 2.12)."""

from __future__ import annotations

from vzpy.commands.bar import Bar
from vzpy.commands.output import STDOUT, say
from vzpy.errors import Exit, UsageError, ValueInvalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call
    from vzpy.snapshots import Snapshot

# field -> header, width
_FIELDS = {
    "parent_uuid": ("PARENT_UUID", 38),
    "current": ("C", 1),
    "uuid": ("UUID", 38),
    "date": ("DATE", 19),
    "name": ("NAME", 32),
    "desc": ("DESC", 32),
    "device": ("DEVICE", 16),
    "target": ("TARGET", 32),
}
_ALIASES = {"id": "uuid", "parent_id": "parent_uuid"}
_DEFAULT = "parent_uuid,current,uuid,date,name"


def run(call: Call) -> int:
    action, given, vps = call.action.name, call.given, call.vps
    if action == "snapshot-list":
        return _list(call)
    guid = normalised(given["id"]) if "id" in given else ""
    bar = Bar("Copying", wanted=not call.out.quiet)
    if action == "snapshot":
        with bar as progress:
            vps.snapshot(
                guid=guid,
                name=given.get("name", ""),
                description=given.get("description", ""),
                skip_suspend="skip_suspend" in given,
                skip_config="skip_config" in given,
                report=call.report,
                progress=progress,
            )
        return Exit.OK
    if not guid:
        raise UsageError("Invalid syntax: snapshot id is missing")
    if action == "snapshot-mount":
        if "target" not in given:
            raise UsageError("Invalid syntax: mount target is missing")
        vps.snapshot_mount(guid, given["target"], report=call.report)
    elif action == "snapshot-umount":
        vps.snapshot_umount(guid, report=call.report)
    elif action == "snapshot-delete":
        vps.snapshot_delete(guid, report=call.report)
    else:
        if "skip_resume" in given and "must_resume" in given:
            raise UsageError(
                "Invalid syntax: --skip-resume and --must-resume can not be used together"
            )
        with bar as progress:
            vps.snapshot_switch(
                guid,
                skip_resume="skip_resume" in given,
                must_resume="must_resume" in given,
                skip_config="skip_config" in given,
                report=call.report,
                progress=progress,
            )
    return Exit.OK


def normalised(text: str) -> str:
    """A guid in braces and lower case, as it is told and stored."""
    return "{" + text.strip("{}").lower() + "}"


def _list(call: Call) -> int:
    given = call.given
    if "help" in given:
        say(STDOUT, f"Usage: vzctl snapshot-list <ctid> {call.action.synopsis}")
        return Exit.OK
    if "list" in given:
        for field, (header, _) in _FIELDS.items():
            say(STDOUT, f"{field:<15} {header:<15}")
        return Exit.OK
    fields = [_field(word) for word in given.get("output", _DEFAULT).split(",") if word]
    chosen = call.vps.snapshots()
    if "id" in given:
        chosen = _chain(chosen, given["id"])
    if "no_header" not in given:
        say(STDOUT, " ".join(f"{_FIELDS[field][0]:<{_FIELDS[field][1]}}" for field in fields))
    for one in chosen:
        cells = _cells(one, fields)
        padded = [f"{cell:<{_FIELDS[field][1]}}" for cell, field in zip(cells, fields)]
        say(STDOUT, " ".join([*padded[:-1], *cells[-1:]]))
    return Exit.OK


def _field(word: str) -> str:
    name = _ALIASES.get(word.lower(), word.lower())
    if name not in _FIELDS:
        raise ValueInvalid(f"Unknown field: {word}")
    return name


def _chain(all_of_them: list[Snapshot], text: str) -> list[Snapshot]:
    from vzpy import values
    from vzpy.snapshots import Tree

    try:
        guid: str = values.parse("uuid", text)
    except values.Invalid:
        raise ValueInvalid(f"Invalid guid is specified: {text}") from None
    if chain := Tree(all_of_them).chain(guid):
        return chain
    raise ValueInvalid(f"Can't find snapshot by uuid {text}")


def _cells(one: Snapshot, fields: list[str]) -> list[str]:
    mounts: list[tuple[str, str]] = []
    if "device" in fields or "target" in fields:
        from vzpy.story.snapshot import mounts_of

        mounts = mounts_of(one)
    values = {
        "parent_uuid": one.parent,
        "current": "*" if one.current else "",
        "uuid": one.guid,
        "date": one.date,
        "name": one.name,
        "desc": one.description,
        "device": mounts[0][1] if mounts else "",
        "target": mounts[0][0] if mounts else "",
    }
    # One line each, whatever a name holds.
    return [" ".join(values[field].split()) if values[field] else "" for field in fields]

