"""The modules of the package from one file, in place of a search and a .pyc for each.

A hot command imports forty modules, and spends more time on finding than on running them. `make
install` writes all of them into one file of __pycache__ (bundling.py), and launchers that begin
with this module, which is the first in it. A module whose source has changed since is imported as
always, and so is everything where there is no such file: nothing but time depends on it.

    magic number of the bytecode, length of this code, this code
    length of the index, index of the modules; for each of them itself, and what comes with it

What a module imports of the package is there before it runs, so that its import statements find it
in sys.modules: the machinery of importlib costs 20 us a module, a third of a small one's import.
The first module of a hot command brings along all that the command will want (bundling.py), by few
reads and calls of marshal.
Tools have one thread; nobody waits for a module that another one imports."""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    # path below the package, mtime (ns) and size of the source
    Source = tuple[str, int, int]
    # and place behind the index and lengths of one or more marshalled tuples of Parts
    Entry = tuple[Source, int, *tuple[int, ...]]
    # name, source; modules of the package that it imports when it runs; code
    Part = tuple[str, Source, tuple[str, ...], CodeType]

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
        self._found[name] = entry = marshal.loads(self.index[name])
        return self._spec(name, entry[0])

    def _spec(self, name: str, about: Source) -> ModuleSpec | None:
        """None where the source has changed."""
        below, mtime, size = about
        source = self.package + below
        try:
            now = posix.stat(source)
        except OSError:
            return None
        if now.st_mtime_ns != mtime or now.st_size != size:
            return None
        spec = ModuleSpec(name, self, origin=source)  # type: ignore[arg-type]
        spec.has_location = True
        if source.endswith("/__init__.py"):
            spec.submodule_search_locations = [source.removesuffix("/__init__.py")]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        _, at, *lengths = self._found.pop(module.__name__)
        at += self.start
        for length in lengths:
            parts: tuple[Part, ...] = marshal.loads(posix.pread(self.fd, length, at))
            at += length
            for name, about, needs, code in parts:
                if name == module.__name__:
                    self._run(module, needs, code)
                elif name in sys.modules or name.rpartition(".")[0] not in sys.modules:
                    pass  # it will be imported by itself
                elif spec := self._spec(name, about):
                    self._add(spec, needs, code)

    def _run(self, module: ModuleType, needs: tuple[str, ...], code: CodeType) -> None:
        for name in needs:
            if name not in sys.modules:
                self._bring(name)
        exec(code, module.__dict__)

    def _bring(self, name: str) -> None:
        """Import a module whose parents are there."""
        if spec := self.find_spec(name):
            self._add(spec)
        else:
            __import__(name)

    def _add(
        self, spec: ModuleSpec, needs: tuple[str, ...] = (), code: CodeType | None = None
    ) -> None:
        """A module whose parents are there, run by its code, or by what it says itself."""
        module = _Module(spec.name)
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        module.__package__ = spec.parent
        if spec.submodule_search_locations:
            module.__path__ = spec.submodule_search_locations
        sys.modules[spec.name] = module
        try:
            if code:
                self._run(module, needs, code)
            else:
                self.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
        parent, _, last = spec.name.rpartition(".")
        setattr(sys.modules[parent], last, module)


def install(fd: int, package: str) -> None:
    """Import from a bundle from now on.

    fd       open behind the code of this module
    package  folder of the sources"""
    sys.meta_path.insert(0, Finder(fd, package))
    from vzpy import plainos

    plainos.install()
