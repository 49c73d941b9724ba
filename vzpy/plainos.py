"""`os` as the hot commands need it, for who imports from a bundle (bundle.py).

The real one takes 0.9 ms, a seventh of what the interpreter does until then: two thirds of that are
abstract base classes, for os.environ to be one. Here are the names of posix, and a few functions
as os.py has them. Whoever asks for another name gets the real module's, and the rest with it."""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType as _Module
    from typing import Any
else:
    _Module = type(sys)

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Plain(_Module):
    """The module, until somebody asks for a name that it has not."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # the import statement asks every module for it
            raise AttributeError(name)
        sys.modules.pop("os", None)
        # Who has entered a guest has emptied that list (ns.poison_imports); a frozen module is part
        # of the interpreter, and no file is read for it.
        if poisoned := not sys.meta_path:
            from _frozen_importlib import BuiltinImporter, FrozenImporter

            sys.meta_path += [BuiltinImporter, FrozenImporter]
        try:
            whole = __import__("os")
        finally:
            sys.modules["os"] = self
            if poisoned:
                sys.meta_path.clear()
        self.__dict__.update(whole.__dict__)
        self.__class__ = _Module  # type: ignore[assignment]
        return getattr(whole, name)


def fsencode(filename: str | bytes) -> bytes:
    name = posix.fspath(filename)
    return name.encode(_ENCODING, _ERRORS) if isinstance(name, str) else name


def fsdecode(filename: str | bytes) -> str:
    name = posix.fspath(filename)
    return name.decode(_ENCODING, _ERRORS) if isinstance(name, bytes) else name


def getenv(key: str, default: str | None = None) -> str | None:
    value = posix.environ.get(fsencode(key))
    return default if value is None else fsdecode(value)


def makedirs(name: str, mode: int = 0o777, exist_ok: bool = False) -> None:
    import posixpath

    try:
        try:
            posix.mkdir(name, mode)
        except FileNotFoundError:
            above = posixpath.dirname(name.rstrip("/"))
            if not above:
                raise
            try:
                makedirs(above)
            except FileExistsError:
                pass  # somebody else made it
            posix.mkdir(name, mode)
    except OSError:
        if not exist_ok or not posixpath.isdir(name):
            raise


def install() -> None:
    """From now on this is what is imported as `os`."""
    if "os" in sys.modules:
        return
    plain = Plain("os")
    plain.__dict__.update({k: v for k, v in posix.__dict__.items() if k[:2] != "__"})
    plain.__dict__.update(
        fsencode=fsencode, fsdecode=fsdecode, getenv=getenv, makedirs=makedirs, name="posix",
        sep="/", linesep="\n", devnull="/dev/null", SEEK_SET=0, SEEK_CUR=1, SEEK_END=2,
    )  # fmt: skip
    del plain.environ  # of bytes
    sys.modules["os"] = plain
    import posixpath

    sys.modules["os.path"] = plain.__dict__["path"] = posixpath
