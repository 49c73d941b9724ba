"""vzlist -j: the layout of the original, in valid JSON (vzlist.md 5)."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vzpy.columns import Field
    from vzpy.listing import Row


# Where the original prints 0 for nothing; elsewhere it prints null.
_ZERO = ("cpus", "ioprio", "iolimit", "iopslimit", "vm_overcommit")


def render(rows: list[Row], fields: list[Field]) -> str:
    objects = ["  {\n" + ",\n".join(_member(row, f) for f in fields) + "\n  }" for row in rows]
    return "\n".join(["[", *([",\n".join(objects)] if objects else []), "]"])


def _member(row: Row, field: Field) -> str:
    kind = field.column.json
    if kind == "ubc":
        value = _object(_beancounter(row, field.name.upper()))
    elif kind == "disk":
        value = _object(_disk(row, field))
    else:
        found = field.get(row)
        value = _value(kind, 0 if found is None and field.name in _ZERO else found)
    return f"    {_string(field.name)}: {value}"


def _value(kind: str, value: Any) -> str:
    if kind == "uptime":
        return f"{value or 0:.3f}"
    if kind == "laverage" and value:
        return f"[{', '.join(f'{load:.2f}' for load in value)}]"
    if kind == "list":
        return f"[{', '.join(map(_string, value or ()))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return _object({name.lower(): on for name, on in value.items()}) if value else "null"
    return str(value) if isinstance(value, int) else _string(value)


def _beancounter(row: Row, key: str) -> dict[str, int | None]:
    """Of a VPS that does not run nothing is held: 0. null: not counted on this node."""
    idle = None if row.facts else 0
    barrier, limit = row.limits(key)
    held, maxheld, failcnt = row.count(key)
    return {
        "held": idle if held is None else held,
        "maxheld": idle if maxheld is None else maxheld,
        "barrier": barrier,
        "limit": limit,
        "failcnt": idle if failcnt is None else failcnt,
    }


def _disk(row: Row, field: Field) -> dict[str, int | None]:
    soft, hard = row.disk_limits(field.name.upper())
    return {"usage": field.get(row) or 0, "softlimit": soft or 0, "hardlimit": hard or 0}


def _object(members: dict[str, Any]) -> str:
    lines = [f"      {_string(name)}: {_value('', value)}" for name, value in members.items()]
    return "{\n" + ",\n".join(lines) + "\n    }"


def _string(text: str | None) -> str:
    """null for none. Bytes that are no UTF-8 would make the whole unreadable."""
    if text is None:
        return "null"
    return json.dumps(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
                      ensure_ascii=False)
