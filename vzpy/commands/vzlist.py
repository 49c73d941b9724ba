"""vzlist: the VPSs of a node, in the words of the original (vzlist.md)."""

from __future__ import annotations

import os

from vzpy import columns, listing, names
from vzpy.columns import Field
from vzpy.errors import UsageError, VzError
from vzpy.model import CTID_MAX, NodePaths
from vzpy.option import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vzpy.listing import Row

OPTIONS = (
    Option("all", help="those that do not run too", short="a"),
    Option("stopped", help="only those that do not run", short="S"),
    Option("name", help="the same as -o smart_name,numproc,status,ip,hostname", short="n"),
    Option("no-header", help="no header line", short="H"),
    Option("no-trim", help="do not cut long values", short="t"),
    Option("json", help="print JSON", short="j"),
    Option("output", "text", "fields to show, separated by commas", short="o"),
    Option("1", help="numbers only, one a line: -H -o ctid", short="1"),
    Option("sort", "text", "field to sort by, with - in front backwards", short="s"),
    Option("hostname", "text", "only those whose host name matches (shell pattern)", short="h"),
    Option("name_filter", "text", "only those whose name matches", short="N"),
    Option("description", "text", "only those whose description matches", short="d"),
    Option("list", help="print the names of all fields", short="L"),
    Option("help", help="usage", short="e"),
)
_USAGE = """Usage: vzlist [-a | -S] [-n] [-H] [-t] [-j] [-o field[,field...] | -1] [-s [-]field]
              [-h pattern] [-N pattern] [-d pattern] [CTID|name ...]
       vzlist -L | --list
"""
_DEFAULT = "ctid,numproc,status,ip,hostname"
_BY_NAME = "smart_name,numproc,status,ip,hostname"
_FIELD_NAME_MAX = 31
_FILTERS = {"hostname": "HOSTNAME", "description": "DESCRIPTION"}
FAILED = 1


class Asked:
    """A command line, checked."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.fields: str | None = None
        self.sort = ""
        self.patterns: dict[str, str] = {}
        self.ctids: list[int] | None = None

    def __contains__(self, flag: str) -> bool:
        return flag in self.flags


def main(argv: list[str]) -> int:
    """Run `vzlist ARGV...`; returns the exit code."""
    try:
        return _main(argv)
    except VzError as err:
        _print(str(err), 2)
        if isinstance(err, UsageError):
            _print(usage())
        return err.code


def _main(argv: list[str]) -> int:
    paths = NodePaths.of()
    asked = _parse(argv, paths)
    if "help" in asked:
        _print(usage())
        return FAILED
    if "list" in asked:
        _print(_field_list())
        return 0
    fields, order = _fields(asked)
    if os.geteuid() != 0:
        raise VzError("This program can only be run under root.", FAILED)
    return _show(asked, paths, fields, order)


def _parse(argv: list[str], paths: NodePaths) -> Asked:
    asked = Asked()
    if not argv:
        return asked  # as panels have it, without what reading options costs
    from vzpy import options

    pairs, words = options.getopt("vzlist", argv, OPTIONS, FAILED)
    for _, option, text in pairs:
        asked.flags.add(option.name)
        if option.name == "output":
            asked.fields = text
        elif option.name == "name":
            asked.fields = _BY_NAME
        elif option.name == "1":
            asked.fields = "veid"
            asked.flags.add("no-header")
        elif option.name == "sort":
            asked.sort = text
        elif option.kind:
            asked.patterns[option.name] = text
    if words:
        asked.ctids = [_ctid(paths, word) for word in words]
    return asked


def _ctid(paths: NodePaths, word: str) -> int:
    ctid = names.lookup(paths.names, word)
    if ctid is None or ctid > CTID_MAX:
        raise VzError(f"CT ID {word} is invalid.", FAILED)
    return ctid


def _fields(asked: Asked) -> tuple[list[Field], Field | None]:
    """The columns, and what to sort by."""
    as_json = "json" in asked
    if asked.fields is None:
        wanted = list(columns.ORDER) if as_json else _DEFAULT.split(",")
    else:
        wanted = asked.fields.split(",")
    fields = []
    for name in wanted:
        if len(name) > _FIELD_NAME_MAX:
            raise VzError(f"Invalid field: {name}", FAILED)
        field = columns.field_of(name)
        if field is None:
            raise VzError(f"Unknown field: {name}", FAILED)
        if as_json and "." in name:
            raise VzError(f"Field `{name}' is not available in JSON output", FAILED)
        fields.append(field)
    order = columns.field_of(asked.sort.removeprefix("-")) if asked.sort else None
    if asked.sort and order is None:
        raise VzError(f"Invalid sort field name: {asked.sort}", FAILED)
    return fields, order


def _show(asked: Asked, paths: NodePaths, fields: list[Field], order: Field | None) -> int:
    node = listing.open_node(paths)
    everything = "all" in asked or "stopped" in asked
    rows, warnings = listing.collect(node, everything=everything, ctids=asked.ctids)
    for line in warnings:
        _print(line, 2)
    if not rows:
        if "json" in asked:
            _print("[]")
        else:
            _print("Container(s) not found", 2)
        return FAILED if asked.ctids else 0
    if order:
        rows = listing.sort(rows, order, asked.sort.startswith("-"))
    rows = [row for row in rows if _is_wanted(row, asked)]
    if "json" in asked:
        from vzpy.commands.vzlist_json import render

        _print(render(rows, fields))
    else:
        lines = [] if "no-header" in asked else [_header(fields)]
        lines += [_line(row, fields, "no-trim" in asked) for row in rows]
        if lines:
            _print("\n".join(lines))
    return 0


def _is_wanted(row: Row, asked: Asked) -> bool:
    if row.hidden or ("stopped" in asked and row.facts):
        return False
    for option, pattern in asked.patterns.items():
        value = row.name if option == "name_filter" else row.config.value(_FILTERS[option])
        if not value or not _fnmatch(pattern, value):
            return False
    return True


def _fnmatch(pattern: str, text: str) -> bool:
    """fnmatch(3), whose patterns Python's fnmatch does not know all of."""
    from vzpy.kernel.libc import libc

    return bool(libc.fnmatch(os.fsencode(pattern), os.fsencode(text), 0) == 0)


# Lines


def _header(fields: list[Field]) -> str:
    cells = []
    for field in fields:
        # Two headers of the original stand on the other side than their values.
        is_odd = field.name in ("origin_sample", "layout")
        left, width = _shape(field.column.format)
        cells.append(_pad(field.column.header, left and not is_odd, width))
    return " ".join(cells).rstrip()


def _line(row: Row, fields: list[Field], whole: bool) -> str:
    last = fields[-1]
    cells = [_cell(field, field.get(row), whole or field is last) for field in fields]
    return " ".join(cells).rstrip()


def _cell(field: Field, value: Any, whole: bool) -> str:
    left, width = _shape(field.column.format)
    kind = field.column.json
    if value is None or value == [] or value == "" or value == {}:
        return _pad("-", left, width)
    if isinstance(value, list):
        return _pad(" ".join(value) if whole else value[0], left, width)
    if kind == "onoff":
        text = onoff(value)
    elif kind == "bool":
        return _pad("yes" if value else "no", left, width)
    elif kind == "uptime":
        return _uptime(value)
    elif kind == "laverage":
        return "/".join(f"{load:1.2f}" for load in value)
    elif isinstance(value, float):
        return _pad(f"{value:g}", left, width)
    else:
        text = str(value)
    if not whole and kind in ("string", "onoff"):
        text = text[:width]
    return _pad(text, left, width)


def onoff(switches: dict[str, bool]) -> str:
    return ",".join(f"{name.lower()}:{'on' if on else 'off'}" for name, on in switches.items())


def _uptime(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day:03d}d{hour:02d}h:{minute:02d}m:{second:02d}s"


_shapes: dict[str, tuple[bool, int]] = {}


def _shape(format: str) -> tuple[bool, int]:
    """`%-32s` as (to the left, 32): once for a column, not for each of its cells."""
    if format not in _shapes:
        _shapes[format] = format[1] == "-", int(format[1:-1].lstrip("-"))
    return _shapes[format]


def _pad(text: str, left: bool, width: int) -> str:
    return text.ljust(width) if left else text.rjust(width)


def _field_list() -> str:
    found = (columns.field_of(name) for name in columns.all_names())
    return "\n".join(f"{f.name:<15} {f.column.header:<15}" for f in found if f)


def usage() -> str:
    lines = [_USAGE, "Options:"]
    for option in OPTIONS:
        flag = f"-{option.short}" + ("" if option.name == "1" else f", --{option.name}")
        lines.append(f"  {flag:<22} {option.help}")
    return "\n".join(lines)


def _print(text: str, fd: int = 1) -> None:
    """Straight to the descriptor: names of any bytes, and a reader who left is BrokenPipeError."""
    data = os.fsencode(f"{text}\n")
    while data:
        data = data[os.write(fd, data) :]
