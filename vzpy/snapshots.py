"""Snapshots.xml: the snapshots of a VPS and which of them stands on which (migrate.md 4).

The elements are those that Parallels and OpenVZ wrote, and two of ours: Layers, the folders that
make up the state, the topmost first; Running, when it was made of a running VPS."""

from __future__ import annotations

import os

from vzpy.errors import VzError
from vzpy.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from xml.etree.ElementTree import Element

_MAX_SIZE = 4 << 20
_DEEPEST_INDENT = 8
_DIGITS = set("0123456789abcdef")
_ROOT, _ITEM = "ParallelsSavedStates", "SavedStateItem"


@record
class Snapshot:
    guid: str  # {xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}, lower case
    parent: str = ""
    name: str = ""
    description: str = ""
    date: str = ""  # YYYY-MM-DD HH:MM:SS, the host's time
    current: bool = False  # what the VPS is now stands on this one
    layers: tuple[str, ...] = ()
    running: bool = False


def new_guid() -> str:
    text = os.urandom(16).hex()
    version, variant = "4", "89ab"[int(text[16], 16) % 4]
    text = text[:12] + version + text[13:16] + variant + text[17:]
    return "{" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])) + "}"


class Tree:
    """The snapshots of one VPS, those that others stand on first."""

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        self.all = list(snapshots)

    def find(self, guid: str) -> Snapshot | None:
        return next((one for one in self.all if one.guid == guid), None)

    @property
    def current(self) -> Snapshot | None:
        return next((one for one in self.all if one.current), None)

    def chain(self, guid: str) -> list[Snapshot]:
        """What a snapshot stands on, down to the base, and itself first."""
        found = []
        while one := self.find(guid):
            found.append(one)
            guid = one.parent
        return found

    def added(self, new: Snapshot) -> Tree:
        """With a child of the current one, which is the current one from now on."""
        current = self.current
        new = replace(new, parent=current.guid if current else "", current=True)
        return Tree([*(replace(one, current=False) for one in self.all), new])

    def switched(self, guid: str) -> Tree:
        return Tree(replace(one, current=one.guid == guid) for one in self.all)

    def removed(self, guid: str) -> Tree:
        """Without one: what stood on it stands on its parent."""
        gone = self.find(guid)
        parent = gone.parent if gone else ""
        was_current = bool(gone and gone.current)
        return Tree(
            replace(
                one,
                parent=parent if one.parent == guid else one.parent,
                current=one.current or was_current and one.guid == parent,
            )
            for one in self.all
            if one.guid != guid
        )

    def relayered(self, instead: dict[str, str]) -> Tree:
        """With other layers in the place of some; "" for nothing."""
        return Tree(
            replace(one, layers=tuple(new for x in one.layers if (new := instead.get(x, x))))
            for one in self.all
        )


# The file


def load(path: str) -> Tree:
    """The tree of Snapshots.xml; an empty one when there is none.

    Raises VzError with the path when it cannot be used."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Tree()
    except OSError as err:
        raise VzError.of("Unable to read the snapshots", err) from err
    try:
        data = os.read(fd, _MAX_SIZE + 1)
    except OSError as err:
        raise VzError.of(f"Unable to read {path}", err) from err
    finally:
        os.close(fd)
    try:
        return parse(data)
    except ValueError as err:
        raise VzError(f"Unable to read {path}: {err}") from None


def parse(data: bytes) -> Tree:
    """The tree of a Snapshots.xml. Raises ValueError, told with the line where there is one."""
    from xml.etree import ElementTree

    if len(data) > _MAX_SIZE:
        raise ValueError("it is too large")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("a document type is not accepted")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as err:
        raise ValueError(f"not XML: {err}") from None
    if root.tag != _ROOT:
        raise ValueError(f"its root is <{root.tag}>, not <{_ROOT}>")
    found: list[Snapshot] = []
    # Without recursion: somebody may have nested a million.
    todo = [(item, "") for item in reversed(root.findall(_ITEM))]
    while todo:
        item, parent = todo.pop()
        guid = item.get("guid") or ""
        if guid:
            found.append(_snapshot(item, _checked_guid(guid), parent))
        todo += [(below, found[-1].guid if guid else parent)
                 for below in reversed(item.findall(_ITEM))]
    if len({one.guid for one in found}) < len(found):
        raise ValueError("one guid is there twice")
    if sum(one.current for one in found) > 1:
        raise ValueError("more than one snapshot is the current one")
    return Tree(found)


def _snapshot(item: Element, guid: str, parent: str) -> Snapshot:
    layers = tuple(layer for layer in _text(item, "Layers").split(":") if layer)
    for layer in layers:
        if set(layer) - _DIGITS:
            raise ValueError(f"{layer!r} is no layer")
    return Snapshot(
        guid=guid,
        parent=parent,
        name=_text(item, "Name"),
        description=_text(item, "Description"),
        date=_text(item, "DateTime"),
        current=item.get("current") == "yes",
        layers=layers,
        running=_text(item, "Running") == "yes",
    )


def _checked_guid(text: str) -> str:
    bare = text.strip("{}").lower()
    if [len(part) for part in bare.split("-")] != [8, 4, 4, 4, 12] or set(bare) - _DIGITS - {"-"}:
        raise ValueError(f"{text!r} is no guid")
    return "{" + bare + "}"


def _text(item: Element, tag: str) -> str:
    return (item.findtext(tag) or "").strip()


def text(tree: Tree) -> str:
    """Snapshots.xml of a tree."""
    below: dict[str, list[Snapshot]] = {}
    for one in tree.all:
        below.setdefault(one.parent, []).append(one)
    lines = ['<?xml version="1.0" encoding="utf-8"?>', f"<{_ROOT}>"]
    todo: list[Snapshot | str] = list(reversed(below.get("", [])))
    depth = 1
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            depth -= 1
            lines.append(f"{_indent(depth)}{item}")
            continue
        lines += _item_lines(item, _indent(depth))
        todo += [f"</{_ITEM}>", *reversed(below.get(item.guid, []))]
        depth += 1
    return "\n".join((*lines, f"</{_ROOT}>", ""))


def _indent(depth: int) -> str:
    """A snapshot an hour, each on the one before: there are a thousand soon."""
    return "  " * min(depth, _DEEPEST_INDENT)


def _item_lines(item: Snapshot, indent: str) -> list[str]:
    current = ' current="yes"' if item.current else ""
    fields = {
        "Name": item.name,
        "DateTime": item.date,
        "Creator": "",
        "ScreenShot": "",
        "Description": item.description,
        "Layers": ":".join(item.layers),
        "Running": "yes" if item.running else "",
    }
    return [f'{indent}<{_ITEM} guid="{item.guid}"{current}>'] + [
        f"{indent}  <{tag}>{_escaped(value)}</{tag}>" for tag, value in fields.items()
    ]


def _escaped(value: str) -> str:
    """Text that XML can hold: what it cannot, control characters and broken UTF-8, becomes ?."""
    kept = "".join(char if _is_xml(ord(char)) else "?" for char in value)
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _is_xml(code: int) -> bool:
    """Char of XML 1.0, without the ends of line that a parser would change."""
    return code in (9, 10) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code > 0xFFFF
