"""`vz setup`: what a new node needs before its first VPS, made once and never written over.

The files come from the package's data (templates/conf, templates/dists); only vz.conf has words
to fill in. What was made is noted in STATE/setup, so that `remove` takes back that and no more."""

from __future__ import annotations

import os

from vzpy import cgroups, config, data, events
from vzpy.errors import Exit, VzError
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.events import Report
    from vzpy.model import NodePaths

VZDIR = "/vz"

# Private areas hold set-user-ID programs of many VPSs: no way in for the host's own users.
_DATA_FOLDERS = (
    ("LOCKDIR", "", 0o755),
    ("DUMPDIR", "", 0o700),
    ("TEMPLATE", "", 0o755),
    ("TEMPLATE", "/cache", 0o755),
    ("VE_ROOT", "/..", 0o700),
    ("VE_PRIVATE", "/..", 0o700),
)


@record
class Item:
    """One thing to make: a folder, or a file with its text."""

    path: str
    mode: int
    text: str | None = None  # None: a folder


def setup(paths: NodePaths, vzdir: str = VZDIR, report: Report = events.silent) -> int:
    """Makes what is missing; returns how many things it made. Nothing that exists is touched.

    vzdir says where a new vz.conf puts the data folders; a vz.conf at hand keeps its own.
    Raises VzError 21 for an unusable vzdir, 54 (CANT_CREATE_DIR) naming the path."""
    if not os.path.isabs(vzdir) or set(vzdir) & set("\"\\$`\n"):
        raise VzError(f"Bad data folder {vzdir}", Exit.INVALID_PARAMETER_VALUE,
                      hint="It is an absolute path without quotes, $ and backslashes.")
    made: list[str] = []
    try:
        for items in (_node_files(paths, os.path.normpath(vzdir)), _data_folders(paths.etc)):
            for item in items:
                _make(item, made, report)
    except OSError as err:
        raise VzError.of("Unable to set up the node", err, Exit.CANT_CREATE_DIR) from err
    finally:
        _note(paths, made)
    return len(made)


def remove(paths: NodePaths, report: Report = events.silent) -> int:
    """Takes back what setup made and nobody has changed since; returns how many things went."""
    note = f"{paths.state}/setup"
    try:
        with open(note, encoding="utf-8") as file:
            made = file.read().splitlines()
    except FileNotFoundError:
        return 0
    lockdir = config.load_global(paths.etc).raw("LOCKDIR") or ""
    wanted = {item.path: item.text for item in _node_files(paths, os.path.dirname(lockdir))}
    os.unlink(note)
    gone = 0
    for path in reversed(made):
        try:
            if os.path.isdir(path):
                os.rmdir(path)
            elif _unchanged(path, wanted.get(path)):
                os.unlink(path)
            else:
                continue
        except OSError:  # in use, or gone already
            continue
        report(events.Removed(path=path))
        gone += 1
    try:
        os.rmdir(f"{cgroups.mountpoint()}/{paths.cgroup}")
    except OSError:  # no VPS ever ran, or one does
        pass
    return gone


def _node_files(paths: NodePaths, vzdir: str) -> Iterator[Item]:
    for folder in (paths.state, paths.etc, paths.conf, paths.names, f"{paths.etc}/dists"):
        yield Item(folder, 0o755)
    log = "/var/log/vzctl.log" if paths.etc == "/etc/vz" else f"{paths.state}/vzctl.log"
    text = data.read("conf", "vz.conf").replace("@VZDIR@", vzdir).replace("@LOGFILE@", log)
    yield Item(f"{paths.etc}/vz.conf", 0o644, text)
    yield Item(f"{paths.etc}/vznet.conf", 0o644, data.read("conf", "vznet.conf"))
    for name in sorted(os.listdir(data.path("conf"))):
        if name not in ("vz.conf", "vznet.conf"):
            yield Item(f"{paths.conf}/{name}", 0o644, data.read("conf", name))
    dists = data.path("dists")
    for folder, subfolders, names in os.walk(dists):
        subfolders.sort()
        below = os.path.relpath(folder, dists)
        target = os.path.normpath(f"{paths.etc}/dists/{below}")
        if below != ".":
            yield Item(target, 0o755)
        for name in sorted(names):
            source = os.path.join(folder, name)
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            yield Item(f"{target}/{name}", mode, data.read("dists", below, name))


def _data_folders(etc: str) -> Iterator[Item]:
    conf = config.load_global(etc)
    for key, suffix, mode in _DATA_FOLDERS:
        if value := conf.raw(key):
            yield Item(os.path.normpath(value + suffix), mode)


def _make(item: Item, made: list[str], report: Report) -> None:
    if os.path.lexists(item.path):
        report(events.Kept(path=item.path))
        return
    if item.text is None:
        parent = os.path.dirname(item.path)
        if not os.path.isdir(parent):
            _make(Item(parent, 0o755), made, report)
        os.mkdir(item.path, item.mode)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(item.path, flags, item.mode), "w", encoding="utf-8") as file:
            file.write(item.text)
    os.chmod(item.path, item.mode)  # whatever the caller's umask
    made.append(item.path)
    report(events.Made(path=item.path))


def _note(paths: NodePaths, made: list[str]) -> None:
    """Remembers what was made; without the note `remove` only leaves more behind."""
    try:
        with open(f"{paths.state}/setup", "a", encoding="utf-8") as file:
            file.writelines(f"{path}\n" for path in made)
    except OSError:
        pass


def _unchanged(path: str, text: str | None) -> bool:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read() == text
