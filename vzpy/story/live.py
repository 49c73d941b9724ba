"""How a running VPS is changed: each room applies its part, and takes it back when another fails.

A room's module of story/ has `live(change, report) -> options refused`: it applies change.keys of
change.after to the VPS, tells of what took effect, and returns the options that this node cannot
apply. An error leaves its part as it was."""

from __future__ import annotations

from vzpy.errors import Exit, VzError
from vzpy.events import silent
from vzpy.params import (
    BY_KEY,
    CAPS,
    CPU,
    DEV,
    DISK,
    FILTER,
    GUEST,
    IO,
    NET,
    NETDEV,
    PCI,
    SHAPE,
    UBC,
    VETH,
)
from vzpy.record import record, replace
from vzpy.story.served import SERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

# Module of story/ -> the rooms of the parameter table that it serves, in the order of applying.
ROOMS = {
    "limits": (UBC, CPU, IO),
    "devices": (DEV,),
    "net": (NET, VETH, NETDEV),
    "shape": (SHAPE,),
    "guest": (GUEST,),
    "disk": (DISK,),
}
# The exit code of a room whose parameters could not be applied.
FAILED = {
    UBC: Exit.SETUBC, CPU: Exit.SETFSHD, IO: Exit.SET_IO, NET: Exit.CANT_ADDIP, VETH: Exit.VETH,
    NETDEV: Exit.NETDEV, DEV: Exit.SET_DEVICES, PCI: Exit.SET_DEVICES, DISK: Exit.DQ_SET,
    FILTER: Exit.SET_IPTABLES, CAPS: Exit.SET_CAP,
}  # fmt: skip


@record
class Change:
    """What changes of a running VPS: its configuration before and after, and the changed keys."""

    vps: VPS
    facts: Facts
    before: Config
    after: Config
    keys: tuple[str, ...]
    undo: bool = False  # take back what was just done
    given: Mapping[str, Any] = {}  # options by their keywords

    def of(self, keys: tuple[str, ...]) -> Change:
        return replace(self, keys=keys)

    def back(self) -> Change:
        return replace(self, before=self.after, after=self.before, undo=True, given={})


def apply(change: Change, save: bool, report: Report) -> list[str]:
    """All rooms in turn; returns the options that were refused, which is an error without `save`.

    Raises VzError of a room, having taken back what those before it did."""
    from importlib import import_module

    done: list[tuple[Callable[[Change, Report], list[str]], Change]] = []
    refused: list[str] = []
    try:
        for module, rooms in ROOMS.items():
            keys = tuple(k for k in change.keys if BY_KEY[k].room in rooms and k in SERVED)
            if not keys:
                continue
            part = change.of(keys)
            room = import_module(f"vzpy.story.{module}").live
            refused += room(part, report)
            done.append((room, part))
        if refused and not save:
            raise not_possible(refused, [k for k in change.keys if _option(k) in refused])
    except VzError:
        for room, part in reversed(done):
            room(part.back(), silent)
        raise
    return refused


def _option(key: str) -> str:
    return BY_KEY[key].option or key.lower()


def not_possible(what: Sequence[str], keys: Sequence[str]) -> VzError:
    """The error for options that this node cannot apply, with the code of the first key's room."""
    code = next((FAILED.get(BY_KEY[key].room, Exit.SYSTEM) for key in keys), Exit.SYSTEM)
    return VzError(f"Error: cannot be applied on this node: {', '.join(what)}", code)
