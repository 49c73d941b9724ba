"""Second names of VPSs: links NAMES/NAME -> CONF/N.conf (vzctl-cli 1.1)."""

from __future__ import annotations

import os

from vzpy.errors import Exit, VzError
from vzpy.model import CTID_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import NodePaths


def is_legal(name: str) -> bool:
    """ASCII letters, digits, blank, - + _ . ; and a file name."""
    plain = name.isascii() and all(char.isalnum() or char in " -+_." for char in name)
    return plain and 0 < len(name) < 256 and name not in (".", "..")


def lookup(folder: str, word: str) -> int | None:
    """What a command's CTID or name means: a number is itself, whatever names there are."""
    return int(word) if _is_number(word) and len(word) < 20 else _target(folder, word)


def resolve(paths: NodePaths, word: str) -> int:
    """lookup() for whoever needs an answer. Raises VzError 21."""
    ctid = lookup(paths.names, word)
    if ctid is None or ctid > CTID_MAX:
        raise VzError(f"Bad CT ID {word}", Exit.INVALID_PARAMETER_VALUE)
    return ctid


def find(paths: NodePaths, name: str) -> int | None:
    """The number of the VPS that a name's link points at."""
    return _target(paths.names, name)


def _target(folder: str, name: str) -> int | None:
    if not is_legal(name):
        return None
    try:
        target = os.readlink(f"{folder}/{name}")
    except OSError:
        return None
    number, dot, rest = os.path.basename(target).partition(".")
    return int(number) if (dot, rest) == (".", "conf") and _is_number(number) else None


def assign(paths: NodePaths, ctid: int, name: str, before: str | None = None) -> None:
    """Give a VPS a name; its link of the name `before` goes.

    Raises VzError 131 when another VPS has it."""
    if not is_legal(name):
        raise VzError(f"Error: invalid name {name}", Exit.SET_NAME)
    link = f"{paths.names}/{name}"
    try:
        os.makedirs(paths.names, exist_ok=True)
        if find(paths, name) != ctid:
            _claim(paths, link, ctid, name)
    except OSError as err:
        raise VzError.of(f"Unable to assign name {name}", err, Exit.SET_NAME) from err
    if before and before != name:
        release(paths, ctid, before)


def _claim(paths: NodePaths, link: str, ctid: int, name: str) -> None:
    try:
        os.symlink(f"{paths.conf}/{ctid}.conf", link)
    except FileExistsError:
        holder = find(paths, name)
        if holder is None or os.path.exists(link):
            whose = f"container {holder}" if holder is not None else f"the file {link}"
            raise VzError(
                f"Conflict: name {name} already used by {whose}", Exit.SET_NAME
            ) from None
        # Left by a VPS whose configuration is gone. Who replaces it second finds us.
        os.unlink(link)
        _claim(paths, link, ctid, name)


def release(paths: NodePaths, ctid: int, name: str) -> None:
    """Take a name away from a VPS, if it is that one's. Absence is success."""
    if find(paths, name) == ctid:
        os.unlink(f"{paths.names}/{name}")


def release_all(paths: NodePaths, ctid: int) -> None:
    """Take away every name of a VPS."""
    try:
        names = os.listdir(paths.names)
    except FileNotFoundError:
        return
    for name in names:
        release(paths, ctid, name)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
