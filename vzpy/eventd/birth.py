"""A birth as a message: child.Birth and child.Handed, to the daemon and out again."""

from __future__ import annotations

import os

from vzpy import child
from vzpy.model import IdRange
from vzpy.rootfs import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.wire import Message

# The tests' faults in the child's steps; the daemon's own environment has none.
_FAULTS = ("VZ_TEST_STOP_AT", "VZ_TEST_FAIL_AT")


def pack(birth: child.Birth, handed: child.Handed) -> tuple[Message, list[int]]:
    """The message of a launch and the descriptors that go with it."""
    fields = {
        **birth.__dict__,
        "ids": tuple(birth.ids.__dict__.values()),
        "seen": tuple(birth.seen.__dict__.values()),
    }
    message: Message = {"op": "launch", "birth": fields}
    if faults := {name: os.environ[name] for name in _FAULTS if name in os.environ}:
        message["faults"] = dict(faults)
    return message, [handed.sync, handed.cgroup, handed.root, *handed.below]


def unpack(message: Message, fds: list[int]) -> tuple[child.Birth, child.Handed]:
    """Raises ValueError, TypeError, KeyError when it is no birth."""
    fields = message["birth"]
    if not isinstance(fields, dict) or len(fds) < 3:
        raise ValueError("birth")
    ids, seen = fields["ids"], fields["seen"]
    if not isinstance(ids, tuple) or not isinstance(seen, tuple):
        raise ValueError("birth")
    birth = child.Birth(**{**fields, "ids": IdRange(*ids), "seen": Seen(*seen)})  # type: ignore[arg-type]
    if len(fds) != 3 + len(birth.below):
        raise ValueError("descriptors")
    return birth, child.Handed(sync=fds[0], cgroup=fds[1], root=fds[2], below=tuple(fds[3:]))


class faults:
    """The faults that a launch asks for, for as long as its child is forked."""

    def __init__(self, message: Message) -> None:
        asked = message.get("faults", {})
        self.asked = {
            name: value
            for name, value in (asked if isinstance(asked, dict) else {}).items()
            if name in _FAULTS and isinstance(value, str)
        }

    def __enter__(self) -> None:
        os.environ.update(self.asked)

    def __exit__(self, *_: object) -> None:
        for name in self.asked:
            del os.environ[name]
