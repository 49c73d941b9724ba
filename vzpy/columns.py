"""The columns of vzlist: how each looks, its value of a row, what rows are sorted by (vzlist.md 3).

A column that shows a parameter stands in that table; here is what the table cannot say."""

from __future__ import annotations

import os

from vzpy.listing import MOUNTED, RUNNING, STOPPED, SUSPENDED
from vzpy.params import PARAMS, Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vzpy.listing import Row

_STATUS_ORDER = (RUNNING, STOPPED, MOUNTED, SUSPENDED)


class Field:
    """One column: how it looks (params.Column), its value of a row, and what rows sort by.

    A value is None where there is none; a list, a dict name -> bool (onoff), or a plain value."""

    __slots__ = ("name", "column", "get", "order")

    def __init__(
        self,
        column: Column,
        get: Callable[[Row], Any],
        order: Callable[[Row], Any] | None = None,
        name: str = "",
    ) -> None:
        self.name = name or column.field
        self.column = column
        self.get = get
        nothing = 0 if column.json == "number" else ""
        self.order = order or (lambda row: _sortable(get(row) or nothing))


def _sortable(value: object) -> Any:
    """Numbers by size, text as strcmp(3) has it; addresses are sorted as text, too."""
    if isinstance(value, list):
        value = " ".join(value)
    return os.fsencode(value) if isinstance(value, str) else value


# In the order of `vzlist -L`; those after `capability` are vzctl 7's, and no part of the JSON that
# is printed when no field is asked for.
# fmt: off
ORDER = (
    "ctid", "veid", "vpsid", "private", "root", "mount_opts", "origin_sample", "hostname", "name",
    "smart_name", "description", "ostemplate", "ip", "nameserver", "searchdomain", "status",
    "kmemsize", "lockedpages", "privvmpages", "shmpages", "numproc", "physpages", "vmguarpages",
    "oomguarpages", "numtcpsock", "numflock", "numpty", "numsiginfo", "tcpsndbuf", "tcprcvbuf",
    "othersockbuf", "dgramrcvbuf", "numothersock", "dcachesize", "numfile", "numiptent",
    "swappages", "diskspace", "diskinodes", "laverage", "uptime", "cpulimit", "cpuunits", "cpus",
    "ioprio", "iolimit", "iopslimit", "onboot", "bootorder", "layout", "features", "vswap",
    "disabled", "vm_overcommit", "netfilter", "capability",
)
# fmt: on
EXTRA = ("configured_ip", "cpumask", "nodemask")
_SUFFIXES = {"ubc": "mblf", "disk": "sh"}
_COLUMNS = {param.column.field: (param.key, param.column) for param in PARAMS if param.column}


def _plain(key: str) -> Callable[[Row], Any]:
    return lambda row: row.config.value(key)


def _not_zero(key: str) -> Callable[[Row], Any]:
    """A limit of 0 is none."""
    return lambda row: row.config.value(key) or None


def _own_fields() -> dict[str, Field]:
    """Columns that are no parameter, or whose value is more than the parameter's."""

    def column(field: str) -> Column:
        return _COLUMNS[field][1]

    ctid: Callable[[Row], int] = lambda row: row.ctid  # noqa: E731
    nothing: Callable[[Row], int] = lambda row: 0  # noqa: E731
    fields = [
        *(Field(Column(f, "CTID", "%10d", "number"), ctid) for f in ("ctid", "veid", "vpsid")),
        Field(
            Column("smart_name", "SMARTNAME", "%10s", "string"),
            lambda row: row.name or row.ctid,
            lambda row: _sortable(row.name or ""),
        ),
        Field(
            Column("status", "STATUS", "%-9s", "status"),
            lambda row: row.status,
            lambda row: (_STATUS_ORDER.index(row.status), row.ctid),
        ),
        Field(Column("laverage", "LAVERAGE", "%14s", "laverage"), lambda row: row.loads, nothing),
        Field(
            Column("uptime", "UPTIME", "%15s", "uptime"),
            lambda row: row.uptime,
            lambda row: -(row.uptime or 0),
        ),
        Field(Column("vswap", "VSWAP", "%5s", "bool"), lambda row: row.is_vswap, nothing),
        Field(column("name"), lambda row: row.name),
        Field(column("ip"), lambda row: row.addresses),
        Field(column("layout"), lambda row: row.layout or "???"),
        Field(column("private"), lambda row: row.config.raw("VE_PRIVATE")),
        Field(column("root"), lambda row: row.config.raw("VE_ROOT")),
        Field(column("cpuunits"), lambda row: row.cpuunits),
        *(Field(column(f), _not_zero(_COLUMNS[f][0])) for f in ("cpus", "iolimit", "iopslimit")),
        Field(column("vm_overcommit"), _not_zero("VM_OVERCOMMIT"), nothing),
        Field(column("disabled"), lambda row: bool(row.config.value("DISABLED")), nothing),
        Field(
            column("bootorder"),
            _plain("BOOTORDER"),
            lambda row: (-1 if (b := row.config.value("BOOTORDER")) is None else b, -row.ctid),
        ),
        Field(Column("configured_ip", "CFG_IP_ADDR", "%-15s", "list"), _plain("IP_ADDRESS")),
        Field(Column("cpumask", "CPUMASK", "%16s", "string"), _plain("CPUMASK")),
        Field(Column("nodemask", "NODEMASK", "%16s", "string"), _plain("NODEMASK")),
    ]
    unsorted = ("onboot", "features", "netfilter", "capability")
    fields += [Field(column(f), _plain(_COLUMNS[f][0]), nothing) for f in unsorted]
    return {field.name: field for field in fields}


_own: dict[str, Field] = {}


def field_of(name: str) -> Field | None:
    """The field of a name, a suffix included (kmemsize.b); None when there is none."""
    if not _own:
        _own.update(_own_fields())
    if name in _own:
        return _own[name]
    base, dot, suffix = name.partition(".")
    if base not in _COLUMNS:
        return None
    key, column = _COLUMNS[base]
    if column.json not in _SUFFIXES:
        return None if dot else Field(column, _plain(key))
    if dot and (len(suffix) != 1 or suffix not in _SUFFIXES[column.json]):
        return None
    get = _part(key, column.json, suffix)
    # Barrier and limit are exchanged in the original; scripts see the same order.
    order = _part(key, column.json, {"b": "l", "l": "b"}.get(suffix, suffix))
    header = f"{column.header}.{suffix.upper()}" if dot else column.header
    shown = Column(name, header, column.format, column.json)
    return Field(shown, get, lambda row: order(row) or 0, name)


def _part(key: str, kind: str, suffix: str) -> Callable[[Row], int | None]:
    """One number of a beancounter or a disk quota."""
    if kind == "ubc":
        return {
            "": lambda row: row.held(key),
            "m": lambda row: row.count(key)[1],
            "b": lambda row: row.limits(key)[0],
            "l": lambda row: row.limits(key)[1],
            "f": lambda row: row.count(key)[2],
        }[suffix]
    return {
        "": lambda row: row.disk_used(key) or None,
        "s": lambda row: row.disk_limits(key)[0],
        "h": lambda row: row.disk_limits(key)[1],
    }[suffix]


def all_names() -> list[str]:
    """Every field, in the order of -L."""
    found = []
    for name in (*ORDER, *EXTRA):
        suffixes = _SUFFIXES.get(_COLUMNS[name][1].json, "") if name in _COLUMNS else ""
        found += [name, *(f"{name}.{suffix}" for suffix in suffixes)]
    return found
