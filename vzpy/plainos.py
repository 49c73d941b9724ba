"""`os` as the hot commands need it, for who imports from a bundle (bundle.py).

The real one takes 0.9 ms, a seventh of what the interpreter does until then: two thirds of that are
abstract base classes, for os.environ to be one. Here are the names of posix, and a few functions
as os.py and posixpath.py have them, for paths of text. Whoever asks for another name gets the real
module's, and the rest with it."""

from __future__ import annotations

import posix
import sys
from _stat import S_ISDIR, S_ISLNK, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType as _Module
    from typing import Any
else:
    _Module = type(sys)

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class Plain(_Module):
    """The module of a name, until somebody asks for what it has not.

    names  what it has"""

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # the import statement asks every module for it
            raise AttributeError(name)
        sys.modules.pop(self.__name__, None)
        # Who has entered a guest has emptied that list (ns.poison_imports); a frozen module is part
        # of the interpreter, and no file is read for it.
        if poisoned := not sys.meta_path:
            from _frozen_importlib import BuiltinImporter, FrozenImporter

            sys.meta_path += [BuiltinImporter, FrozenImporter]
        mine = self.__name__
        try:
            whole = __import__(mine)
        finally:
            sys.modules[mine] = self
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
    try:
        try:
            posix.mkdir(name, mode)
        except FileNotFoundError:
            above = dirname(name.rstrip("/"))
            if not above:
                raise
            try:
                makedirs(above)
            except FileExistsError:
                pass  # somebody else made it
            posix.mkdir(name, mode)
    except OSError:
        if not exist_ok or not isdir(name):
            raise


# os.path


_normal: Callable[[str], str] | None = getattr(posix, "_path_normpath", None)  # C, from Python 3.11


def _whole() -> Any:
    """The real one, for paths that are bytes."""
    path = sys.modules["posixpath"]
    assert path.normcase
    return path


def join(first: str, *rest: str) -> str:
    path = posix.fspath(first)
    if not isinstance(path, str):
        return _whole().join(path, *rest)
    for part in map(posix.fspath, rest):
        if part[:1] == "/":
            path = part
        else:
            path += part if not path or path[-1] == "/" else f"/{part}"
    return path


def split(name: str) -> tuple[str, str]:
    path = posix.fspath(name)
    if not isinstance(path, str):
        return _whole().split(path)
    at = path.rfind("/") + 1
    above = path[:at]
    return above.rstrip("/") or above, path[at:]


def dirname(name: str) -> str:
    return split(name)[0]


def basename(name: str) -> str:
    return split(name)[1]


def abspath(name: str) -> str:
    path = posix.fspath(name)
    if not isinstance(path, str) or not _normal:
        return _whole().abspath(path)  # type: ignore[no-any-return]
    return _normal(path if path[:1] == "/" else join(posix.getcwd(), path))


def realpath(name: str, *, strict: bool = False) -> str:
    path = posix.fspath(name)
    found: str
    if strict or not _normal or not isinstance(path, str) or not _is_plain(path):
        found = _whole().realpath(path, strict=strict)
        return found
    path = _normal(path)
    at = 0
    while at >= 0:
        at = path.find("/", at + 1)
        if S_ISLNK(_mode(posix.lstat, path if at < 0 else path[:at])):
            found = _whole().realpath(path)
            return found
    return path


def _is_plain(path: str) -> bool:
    return path[:1] == "/" != path[1:2] and "/.." not in path and "\0" not in path


def exists(path: str | int) -> bool:
    return _mode(posix.stat, path) != 0


def lexists(path: str) -> bool:
    return _mode(posix.lstat, path) != 0


def isdir(path: str | int) -> bool:
    return S_ISDIR(_mode(posix.stat, path))


def isfile(path: str | int) -> bool:
    return S_ISREG(_mode(posix.stat, path))


def islink(path: str) -> bool:
    return S_ISLNK(_mode(posix.lstat, path))


def samestat(one: posix.stat_result, other: posix.stat_result) -> bool:
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)


def _mode(look: Callable[[Any], posix.stat_result], path: str | int) -> int:
    """0 where there is nothing."""
    try:
        return look(path).st_mode
    except (OSError, ValueError):
        return 0


def install() -> None:
    """From now on these are what is imported as `os` and `os.path`."""
    if "os" in sys.modules:
        return
    sys.modules["os.path"] = sys.modules["posixpath"] = path = Plain("posixpath", {
        "join": join, "split": split, "dirname": dirname, "basename": basename, "sep": "/",
        "abspath": abspath, "realpath": realpath, "exists": exists, "lexists": lexists,
        "isdir": isdir, "isfile": isfile, "islink": islink, "samestat": samestat,
    })  # fmt: skip
    names = {name: value for name, value in posix.__dict__.items() if name[:2] != "__"}
    del names["environ"]  # of bytes
    sys.modules["os"] = Plain("os", {
        **names, "path": path, "fsencode": fsencode, "fsdecode": fsdecode, "getenv": getenv,
        "makedirs": makedirs, "name": "posix", "sep": "/", "linesep": "\n",
        "devnull": "/dev/null", "SEEK_SET": 0, "SEEK_CUR": 1, "SEEK_END": 2,
    })  # fmt: skip
