"""The modules of the package from one file, in place of a search and a .pyc for each.

A hot command imports forty modules in 6 ms, of which finding and reading them takes a quarter.
`make install` writes all of them into one file of __pycache__, without docstrings. A module whose
source has changed since is imported as always, and so is everything where there is no such file:
nothing but time depends on it.

    magic number of the bytecode, length of the index, index, code of each module"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    # path below the package, mtime (ns) and size of the source; place behind the index and length
    # of the code
    Entry = tuple[str, int, int, int, int]

PACKAGE = os.path.dirname(__file__)
FILE = f"{PACKAGE}/__pycache__/bundle.{sys.implementation.cache_tag}"
_HEAD = 8


class Finder:
    """For sys.meta_path, and the loader of what it finds."""

    def __init__(self, fd: int, index: dict[str, Entry], start: int) -> None:
        self.fd, self.index, self.start = fd, index, start

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if name not in self.index:
            return None
        below, mtime, size, _, _ = self.index[name]
        source = PACKAGE + below
        try:
            now = os.stat(source)
        except OSError:
            return None
        if (now.st_mtime_ns, now.st_size) != (mtime, size):
            return None
        is_package = below.endswith("/__init__.py")
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        *_, at, length = self.index[module.__name__]
        exec(marshal.loads(os.pread(self.fd, length, self.start + at)), module.__dict__)


def install() -> None:
    """Import from the bundle from now on, if there is one for this interpreter."""
    try:
        fd = os.open(FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    head = os.read(fd, _HEAD)
    if head[:4] != MAGIC_NUMBER:
        os.close(fd)
        return
    length = int.from_bytes(head[4:], "little")
    index = marshal.loads(os.read(fd, length))
    sys.meta_path.insert(0, Finder(fd, index, _HEAD + length))


def build(package: str, shown: str) -> None:
    """Write the bundle of a package's folder.

    shown  where the folder will be, for tracebacks"""
    index: dict[str, Entry] = {}
    codes = bytearray()
    for folder, _, files in os.walk(package):
        for file in sorted(f for f in files if f.endswith(".py")):
            source = f"{folder}/{file}"
            below = source[len(package) :]
            name = f"vzpy{below[:-3].removesuffix('/__init__').replace('/', '.')}"
            code = marshal.dumps(_compiled(source, shown + below))
            about = os.stat(source)
            index[name] = (below, about.st_mtime_ns, about.st_size, len(codes), len(code))
            codes += code
    packed = marshal.dumps(index)
    path = f"{package}/__pycache__/{os.path.basename(FILE)}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "wb") as f:
        f.write(MAGIC_NUMBER + len(packed).to_bytes(4, "little") + packed + codes)
    os.rename(f"{path}.new", path)


def _compiled(source: str, shown: str) -> CodeType:
    import ast

    with open(source, "rb") as f:
        tree = ast.parse(f.read(), shown)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node, clean=False
        ) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass(lineno=1, col_offset=0)]
    code: CodeType = compile(tree, shown, "exec", dont_inherit=True)
    return code


if __name__ == "__main__":
    build(*(sys.argv[1:] or [PACKAGE, PACKAGE]))
