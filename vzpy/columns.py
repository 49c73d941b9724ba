"""The columns of vzlist: how each looks, its value of a row, what rows are sorted by (vzlist.md 3).

A column that shows a parameter stands in that table; here is what the table cannot say."""

from __future__ import annotations

import os

from vzpy.listing import MOUNTED, RUNNING, STOPPED, SUSPENDED
from vzpy.params import BY_KEY
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vzpy.listing import Row

_STATUS_ORDER = (RUNNING, STOPPED, MOUNTED, SUSPENDED)


@record
class Column:
    """How a column looks (vzlist.md 3): header, printf format of the value, kind of its JSON."""

    field: str
    header: str
    format: str
    json: str  # string, number, list, bool, onoff (object name -> bool), ubc, disk


class Field:
    """One column: how it looks, its value of a row, and what rows sort by.

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
_PARAMS = {
    row[1]["column"].partition(" ")[0]: key
    for key, row in BY_KEY.rows.items()
    if "column" in row[1]
}
_NO_PARAMS = {text.partition(" ")[0]: text for text in (
    "ctid CTID %10d number",
    "veid CTID %10d number",
    "vpsid CTID %10d number",
    "smart_name SMARTNAME %10s string",
    "status STATUS %-9s status",
    "laverage LAVERAGE %14s laverage",
    "uptime UPTIME %15s uptime",
    "vswap VSWAP %5s bool",
    "configured_ip CFG_IP_ADDR %-15s list",
    "cpumask CPUMASK %16s string",
    "nodemask NODEMASK %16s string",
)}


def _ctid(row: Row) -> int:
    return row.ctid


def _unsorted(row: Row) -> int:
    return 0


def _plain(key: str) -> Callable[[Row], Any]:
    return lambda row: row.config.value(key)


def _not_zero(key: str) -> Callable[[Row], Any]:
    """A limit of 0 is none."""
    return lambda row: row.config.value(key) or None


# Columns that are no parameter, or whose value or order is not simply the parameter's: value of a
# row, and what rows are sorted by.
_OWN: dict[str, tuple[Callable[[Row], Any], Callable[[Row], Any] | None]] = {
    "ctid": (_ctid, None),
    "veid": (_ctid, None),
    "vpsid": (_ctid, None),
    "smart_name": (lambda row: row.name or row.ctid, lambda row: _sortable(row.name or "")),
    "status": (
        lambda row: row.status,
        lambda row: (_STATUS_ORDER.index(row.status), row.ctid),
    ),
    "laverage": (lambda row: row.loads, _unsorted),
    "uptime": (lambda row: row.uptime, lambda row: -(row.uptime or 0)),
    "vswap": (lambda row: row.is_vswap, _unsorted),
    "name": (lambda row: row.name, None),
    "ip": (lambda row: row.addresses, None),
    "layout": (lambda row: row.layout or "???", None),
    "private": (lambda row: row.config.raw("VE_PRIVATE"), None),
    "root": (lambda row: row.config.raw("VE_ROOT"), None),
    "cpuunits": (lambda row: row.cpuunits, None),
    "cpus": (_not_zero("CPUS"), None),
    "iolimit": (_not_zero("IOLIMIT"), None),
    "iopslimit": (_not_zero("IOPSLIMIT"), None),
    "vm_overcommit": (_not_zero("VM_OVERCOMMIT"), _unsorted),
    "disabled": (lambda row: bool(row.config.value("DISABLED")), _unsorted),
    "bootorder": (
        _plain("BOOTORDER"),
        lambda row: (-1 if (b := row.config.value("BOOTORDER")) is None else b, -row.ctid),
    ),
    "configured_ip": (_plain("IP_ADDRESS"), None),
    "cpumask": (_plain("CPUMASK"), None),
    "nodemask": (_plain("NODEMASK"), None),
    "onboot": (_plain("ONBOOT"), _unsorted),
    "features": (_plain("FEATURES"), _unsorted),
    "netfilter": (_plain("NETFILTER"), _unsorted),
    "capability": (_plain("CAPABILITY"), _unsorted),
}


def _column(name: str) -> Column:
    return Column(*(_NO_PARAMS.get(name) or BY_KEY[_PARAMS[name]].column).split())


def field_of(name: str) -> Field | None:
    """The field of a name, a suffix included (kmemsize.b); None when there is none."""
    if name in _OWN:
        return Field(_column(name), *_OWN[name])
    base, dot, suffix = name.partition(".")
    if base not in _PARAMS:
        return None
    key, column = _PARAMS[base], _column(base)
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
        suffixes = _SUFFIXES.get(_column(name).json, "") if name in _PARAMS else ""
        found += [name, *(f"{name}.{suffix}" for suffix in suffixes)]
    return found
