"""The journal of a snapshot operation: what is still to do once it has been decided.

One JSON file that appears whole, by rename(2), and goes when all in it is done. Each part can be
done again, so that finish() may be cut off anywhere too."""

from __future__ import annotations

import json
import os

from vzpy.config import sync_folder
from vzpy.fault import fault
from vzpy.kernel.syncfs import syncfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.story.states import Change

STEPS = ("journal", "moves", "move", "stack", "files", "file", "journal-end")
NAME = "Snapshots.journal"


def path_of(store: str) -> str:
    return f"{store}/{NAME}"


def pending(store: str) -> bool:
    return os.path.exists(path_of(store))


def commit(store: str, change: Change, files: Mapping[str, str | None]) -> None:
    """Do a change, whole or not at all.

    files  path -> its new text, None: it goes. Raises OSError."""
    entry = {
        "moves": change.moves,
        "stack": None if change.stack is None else ":".join(change.stack),
        "files": dict(files),
    }
    fault("journal")
    if change.copied:
        syncfs(store)  # on the disk before it counts
    _write(path_of(store), json.dumps(entry))
    finish(store)


def finish(store: str) -> None:
    """Raises OSError; ValueError when the journal is none."""
    with open(path_of(store), encoding="ascii") as file:
        entry = json.load(file)
    fault("moves")
    for source, target in entry["moves"]:
        if not os.path.lexists(target):  # else it is done
            os.rename(source, target)
            fault("move")
    fault("stack")
    if entry["stack"] is not None:
        _link(entry["stack"], f"{store}/layers/stack")
    fault("files")
    for path, text in entry["files"].items():
        if text is None:
            _unlink(path)
        else:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            _write(path, text)
        fault("file")
    fault("journal-end")
    os.unlink(path_of(store))


def _write(path: str, text: str) -> None:
    new = f"{path}.new"
    _unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.path.exists(path):
            os.fchmod(fd, os.stat(path).st_mode & 0o7777)
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(new, path)
    sync_folder(os.path.dirname(path))


def _link(text: str, path: str) -> None:
    _unlink(f"{path}.new")
    if text:
        os.symlink(text, f"{path}.new")
        folder = os.stat(os.path.dirname(path))
        os.lchown(f"{path}.new", folder.st_uid, folder.st_gid)
        os.rename(f"{path}.new", path)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
