"""Several layers of overlayfs as one (kernel's Documentation/filesystems/overlayfs.rst).

A frozen layer is never written to again, so that what two of them have in common can be one file:
the new layer is made of links, and costs only its directories. Whiteouts and opaque directories
keep their meaning for what lies below. Our mounts make no redirects and no metadata-only copies;
a layer that has one is refused."""

from __future__ import annotations

import _stat as stat
import os
from errno import EMLINK, ENODATA, ENOTSUP, EXDEV

from vzpy import statecopy
from vzpy.kernel.cursor import Cursor

_OPAQUE = "trusted.overlay.opaque"
_REFUSED = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


def merge(layers: list[str], target: str) -> None:
    """Make the empty directory `target` the layer that shows what these show, the topmost first.

    Raises OSError: ENOTSUP for a layer that cannot be merged."""
    cursors = [Cursor(layer) for layer in layers]
    there = Cursor(target)
    try:
        _walk(cursors, there)
    except OSError as err:
        raise OSError(err.errno, err.strerror, f"{target}/{there.path()}") from err
    finally:
        for cursor in (*cursors, there):
            cursor.close()


def _walk(cursors: list[Cursor], there: Cursor) -> None:
    # Of each level: the directories still to come, the layers it is made of, is it opaque
    levels: list[tuple[list[str], list[Cursor], bool]] = []
    here, opaque = cursors, _is_opaque(cursors[-1].fd)
    todo = _entries(here, there)
    while True:
        if todo:
            name = todo.pop()
            os.mkdir(name, 0o700, dir_fd=there.fd)
            levels.append((todo, here, opaque))
            here, opaque = _down(here, name)
            there.down(name)
            todo = _entries(here, there)
            continue
        _finish(here[0].fd, there.fd, opaque)
        if not levels:
            return
        for cursor in here:
            cursor.up()
        there.up()
        todo, here, opaque = levels.pop()


def _entries(here: list[Cursor], there: Cursor) -> list[str]:
    """Link what the topmost layer has of each name; the directories are returned."""
    seen: set[str] = set()
    todo = []
    for cursor in here:
        with os.scandir(cursor.fd) as entries:
            for entry in entries:
                if entry.name in seen:
                    continue
                seen.add(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.name)
                else:
                    _link(cursor, entry.name, there)
    return todo


def _link(cursor: Cursor, name: str, there: Cursor) -> None:
    path = cursor.at(name)
    for attribute in os.listxattr(path, follow_symlinks=False):
        if attribute in _REFUSED:
            raise OSError(ENOTSUP, f"{cursor.path(name)} has {attribute}")
    try:
        os.link(name, name, src_dir_fd=cursor.fd, dst_dir_fd=there.fd, follow_symlinks=False)
    except OSError as err:
        if err.errno not in (EMLINK, EXDEV):  # EXDEV: it counts for another project
            raise
        statecopy.Copy().entry(cursor, name, there)


def _down(here: list[Cursor], name: str) -> tuple[list[Cursor], bool]:
    """The layers that a directory is merged of, each moved into it; nothing below shows through
    when it ends at an opaque directory, a whiteout or a file."""
    inner: list[Cursor] = []
    for cursor in here:
        try:
            status = os.stat(name, dir_fd=cursor.fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            return inner, True
        cursor.down(name)
        inner.append(cursor)
        if _is_opaque(cursor.fd):
            return inner, True
    return inner, False


def _is_opaque(fd: int) -> bool:
    for attribute in os.listxattr(fd):
        if attribute in _REFUSED:
            raise OSError(ENOTSUP, f"a directory has {attribute}")
    try:
        return os.getxattr(fd, _OPAQUE) == b"y"
    except OSError as err:
        if err.errno != ENODATA:
            raise
        return False


def _finish(top: int, target: int, opaque: bool) -> None:
    statecopy.attributes(top, target)
    if opaque:
        os.setxattr(target, _OPAQUE, b"y")
    elif _is_opaque(target):
        os.removexattr(target, _OPAQUE)
