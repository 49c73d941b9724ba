"""The modules of the package from one file, in place of a search and a .pyc for each.

A hot command imports forty modules, and spends more time on finding than on running them. `make
install` writes all of them into one file of __pycache__ (bundling.py), and launchers that begin
with this module, which is the first in it. A module whose source has changed since is imported as
always, and so is everything where there is no such file: nothing but time depends on it.

    magic number of the bytecode, length of this code, this code
    length of the index, index, code of each module

What a module imports of the package is there before it runs, so that its import statements find it
in sys.modules: the machinery of importlib costs 20 us a module, a third of a small one's import.
Tools have one thread; nobody waits for a module that another one imports."""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    # path below the package, mtime (ns) and size of the source; place behind the index and length
    # of the code; modules of the package that it imports when it runs
    Entry = tuple[str, int, int, int, int, tuple[str, ...]]

_Module = type(sys)


class Finder:
    """For sys.meta_path, and the loader of what it finds."""

    def __init__(self, fd: int, package: str) -> None:
        self.fd, self.package = fd, package
        length = int.from_bytes(posix.read(fd, 4), "little")
        # Of each module the marshalled Entry: most of them nobody asks for.
        self.index: dict[str, bytes] = marshal.loads(posix.read(fd, length))
        self.start = posix.lseek(fd, 0, 1)
        self._found: dict[str, Entry] = {}

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        if name not in self.index:
            return None
        entry: Entry = marshal.loads(self.index[name])
        source = self.package + entry[0]
        try:
            now = posix.stat(source)
        except OSError:
            return None
        if (now.st_mtime_ns, now.st_size) != entry[1:3]:
            return None
        self._found[name] = entry
        spec = ModuleSpec(name, self, origin=source)  # type: ignore[arg-type]
        spec.has_location = True
        if source.endswith("/__init__.py"):
            spec.submodule_search_locations = [source.removesuffix("/__init__.py")]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        *_, at, length, needs = self._found.pop(module.__name__)
        for name in needs:
            if name not in sys.modules:
                self._bring(name)
        exec(marshal.loads(posix.pread(self.fd, length, self.start + at)), module.__dict__)

    def _bring(self, name: str) -> None:
        """Import a module whose parents are there."""
        spec = self.find_spec(name)
        if not spec:
            __import__(name)
            return
        module = _Module(name)
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        module.__package__ = spec.parent
        if spec.submodule_search_locations:
            module.__path__ = spec.submodule_search_locations
        sys.modules[name] = module
        try:
            self.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, module)


def install(fd: int, package: str) -> None:
    """Import from a bundle from now on.

    fd       open behind the code of this module
    package  folder of the sources"""
    sys.meta_path.insert(0, Finder(fd, package))
    from vzpy import plainos

    plainos.install()
