"""Writes what bundle.py reads, without docstrings: for `make install`.

    python3 -IS -X no_debug_ranges bundling.py [PACKAGE SHOWN]"""

from __future__ import annotations

import ast
import marshal
import os
import sys
from importlib.util import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

    from vzpy.bundle import Part

PACKAGE = os.path.dirname(os.path.abspath(__file__))
FILE = f"{PACKAGE}/__pycache__/bundle.{sys.implementation.cache_tag}"

# Modules that are the first of their command, or of a part of it: which others are there by then,
# and what else the command is going to import. Time is all that depends on it.
_VZCTL, _OPTIONS = "vzpy.commands.vzctl", "vzpy.options"
_GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    _VZCTL: (("vzpy", "vzpy.cli"), ()),
    _OPTIONS: ((_VZCTL,), ("vzpy.params", "vzpy.values")),
    "vzpy.commands.vzctl_exec": ((_VZCTL,), ("vzpy.story.enter", "vzpy.story.pump")),
    "vzpy.commands.vzctl_stop": ((_VZCTL, _OPTIONS), ("vzpy.vps", "vzpy.story.stop")),
    "vzpy.story.teardown": ((_VZCTL, _OPTIONS, "vzpy.commands.vzctl_stop"), ()),
    "vzpy.commands.vzctl_start": ((_VZCTL, _OPTIONS), ("vzpy.vps", "vzpy.story.start")),
    "vzpy.story.disk": ((_VZCTL, _OPTIONS, "vzpy.commands.vzctl_start"), ()),
    "vzpy.commands.vzctl_create": ((_VZCTL, _OPTIONS), ("vzpy.vps", "vzpy.story.create")),
    "vzpy.commands.vzlist": (("vzpy", "vzpy.cli"), ()),
}

_ENOUGH = 24 << 10  # bytes


def build(package: str, shown: str) -> None:
    """Write the bundle of a package's folder.

    shown  where the folder will be, for tracebacks"""
    parts: dict[str, Part] = {}
    sources = {_name(below): below for below in _sources(package)}
    for name, below in sources.items():
        with open(package + below, "rb") as f:
            tree = ast.parse(f.read(), shown + below)
        about = os.stat(package + below)
        needs = _needs(tree, sources.keys())
        source = (below, about.st_mtime_ns, about.st_size)
        parts[name] = (name, source, needs, _compiled(tree, shown + below))
    index: dict[str, bytes] = {}
    codes = bytearray()
    for name, (_, source, *_) in parts.items():
        pieces = [marshal.dumps(tuple(some)) for some in _pieces(_group(name, parts), parts)]
        index[name] = marshal.dumps((source, len(codes), *map(len, pieces)))
        codes += b"".join(pieces)
    boot = marshal.dumps(parts["vzpy.bundle"][-1])
    path = f"{package}/__pycache__/{os.path.basename(FILE)}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "wb") as f:
        f.write(MAGIC_NUMBER)
        for part in (boot, marshal.dumps(index)):
            f.write(len(part).to_bytes(4, "little") + part)
        f.write(codes)
    os.rename(f"{path}.new", path)


def _sources(package: str) -> list[str]:
    """The modules of a folder, as paths below it."""
    return sorted(
        f"{folder}/{file}"[len(package) :]
        for folder, _, files in os.walk(package)
        for file in files
        if file.endswith(".py")
    )


def _name(below: str) -> str:
    return f"vzpy{below[:-3].removesuffix('/__init__').replace('/', '.')}"


def _group(name: str, parts: dict[str, Part]) -> tuple[str, ...]:
    """What comes with a module, in the order in which it runs, itself included."""
    if name not in _GROUPS:
        return (name,)
    before, later = _GROUPS[name]
    found = dict.fromkeys(other for one in before for other in _group(one, parts))

    def visit(other: str) -> None:
        if other and other not in found:
            visit(other.rpartition(".")[0])
            found[other] = None
            for need in parts[other][2]:
                visit(need)
            found[other] = found.pop(other)  # behind its needs

    here = len(found)
    for one in (name, *later):
        visit(one)
    return tuple(found)[here:]


def _pieces(group: tuple[str, ...], parts: dict[str, Part]) -> Iterator[list[Part]]:
    """What is read at once: memory that is used again costs no page faults."""
    piece: list[Part] = []
    size = 0
    for name in group:
        if size > _ENOUGH:
            yield piece
            piece, size = [], 0
        piece.append(parts[name])
        size += len(marshal.dumps(parts[name]))
    yield piece


def _needs(tree: ast.Module, known: object) -> tuple[str, ...]:
    """The modules of the package that a module imports when it runs, each after its parents."""
    found: dict[str, None] = {}
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            whole = (".".join(parts[:count]) for count in range(2, len(parts) + 1))
            found.update((part, None) for part in whole if part in known)  # type: ignore[operator]
    return tuple(found)


def _compiled(tree: ast.Module, shown: str) -> CodeType:
    """Without what tools do not ask for: docstrings, annotations of functions, and what is there
    for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node, clean=False
        ) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass(lineno=1, col_offset=0)]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    flags = 0
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            flags = annotations.compiler_flag
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            body += node.orelse
        else:
            body.append(node)
    tree.body = body
    code: CodeType = compile(tree, shown, "exec", flags, dont_inherit=True)
    return code


if __name__ == "__main__":
    build(*(sys.argv[1:] or [PACKAGE, PACKAGE]))
