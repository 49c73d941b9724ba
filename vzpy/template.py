"""OS templates: cache tarballs, and the trees that overlay VPSs share.

    $TEMPLATE/cache/NAME.tar[.gz|.bz2|.xz|.zst]   made by anybody
    $TEMPLATE/tree/NAME@HASH/                     one unpacked, owners from 0; never changed
    $TEMPLATE/tree/.NAME.from                     which tarball gave which tree
    $TEMPLATE/tree/.refs/NAME@HASH/               one link a private area that stands on the tree
    VE_PRIVATE/tree -> $TEMPLATE/tree/NAME@HASH   a private area's own word for it: this one counts

HASH is the tarball's SHA-256, cut to 16 digits: a new tarball is a new tree, and the old one stays
while a private area names it. A tree appears by rename(2), whole and on disk, or not at all; the
lock $TEMPLATE/tree/.NAME.lock keeps makers, users and gc() apart. The store is closed to all but
root: a guest's set-user-id programs lie in it with root as their owner."""

from __future__ import annotations

import os

from vzpy import events
from vzpy.caches import SUFFIXES, cache_dir, discard
from vzpy.caches import build_cache as build_cache
from vzpy.caches import cached as cached
from vzpy.caches import cached_names as cached_names
from vzpy.caches import ensure_cache as ensure_cache
from vzpy.caches import find_cache as find_cache
from vzpy.caches import machine_arch as machine_arch
from vzpy.caches import remove_cache as remove_cache
from vzpy.caches import resolve_name as resolve_name
from vzpy.errors import Exit, VzError
from vzpy.lockfile import Flock
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.events import Report
    from vzpy.unpack import Progress as Progress

HASH_DIGITS = 16
CHUNK = 1 << 20


def tree_dir(template_dir: str) -> str:
    return os.path.join(template_dir, "tree")


def ensure_tree(
    template_dir: str,
    name: str,
    report: Report = events.silent,
    progress: Progress | None = None,
) -> str:
    """Path of the unpacked tree of the cache that `name` has now, made when it is not there yet.

    Errors: 91 no such cache, 46 no space, 47 the cache cannot be used."""
    tarball = ensure_cache(template_dir, name, report, progress)
    store = tree_dir(template_dir)
    if tree := _current(store, name, tarball):
        return tree
    with _lock(store, name):
        if tree := _current(store, name, tarball):
            return tree
        before = _identity(tarball)
        digest = _digest(tarball)
        tree = os.path.join(store, f"{name}@{digest}")
        _make_tree(tarball, tree, progress)
        if _identity(tarball) != before:
            raise VzError(f"{tarball} changed while it was unpacked", Exit.FS_BAD_TMPL)
        _write(_stamp(store, name), f"{before} {digest}\n")
    return tree


def _make_tree(tarball: str, tree: str, progress: Progress | None) -> None:
    """Unpack `tarball` as `tree`, whole or not at all. The lock is held."""
    from vzpy import treecheck, unpack
    from vzpy.kernel.syncfs import syncfs

    store, entry = os.path.split(tree)
    name = entry.rpartition("@")[0]
    for other in os.listdir(store):  # of makers that were killed
        if other.startswith(f".{name}@") and other.endswith(".tmp"):
            discard(os.path.join(store, other))
    if os.path.isdir(tree):
        return
    temporary = os.path.join(store, f".{entry}.{os.getpid()}.tmp")
    os.mkdir(temporary, 0o755)
    try:
        unpack.unpack(tarball, temporary, None, progress)
        treecheck.check(temporary, tarball)
        syncfs(temporary)  # else a power cut leaves a tree with empty files, used for ever
        os.rename(temporary, tree)
    except BaseException as failure:
        try:
            discard(temporary)
        except VzError as left:
            failure.add_note(str(left))
        raise


def record_tree(private: str, tree: str) -> None:
    """Let the private area `private` stand on `tree`: from now on gc() leaves it alone.

    Raises VzError 47 when it was removed since ensure_tree() named it."""
    private = os.path.abspath(private)
    store, entry = os.path.split(tree)
    with _lock(store, entry.rpartition("@")[0], shared=True):
        if not os.path.isdir(tree):
            raise VzError(f"The tree {tree} was just replaced, try again", Exit.FS_BAD_TMPL)
        folder = os.path.join(store, ".refs", entry)
        os.makedirs(folder, exist_ok=True)
        _relink(tree, os.path.join(private, "tree"))
        _relink(private, os.path.join(folder, _quoted(private)))


def tree_of(private: str) -> str:
    """The tree that the private area stands on, made again from its tarball if it is gone.

    Errors: 47 when the area names none, or it is gone and so is its tarball."""
    link = os.path.join(private, "tree")
    try:
        tree = os.readlink(link)
    except OSError as err:
        what = "The private area does not name its template tree"
        raise VzError.of(what, err, Exit.FS_BAD_TMPL) from None
    if not os.path.isdir(tree) and not _made_again(tree):
        raise VzError(
            f"The template tree {tree}, which {private} stands on, is gone",
            Exit.FS_BAD_TMPL,
            hint="Put it back, or the cache tarball that it was made from.",
        )
    return tree


def _made_again(tree: str) -> bool:
    """Whether the tarball was still there: HASH tells it from all others."""
    store, entry = os.path.split(tree)
    name, _, digest = entry.rpartition("@")
    folder = cache_dir(os.path.dirname(store))
    for tarball in (os.path.join(folder, name + s + old) for s in SUFFIXES for old in ("", "-old")):
        if os.path.isfile(tarball) and _digest(tarball) == digest:
            with _lock(store, name):
                _make_tree(tarball, tree, None)
            return True
    return False


def named_tree(private: str) -> str | None:
    """What the link of a private area says, believed or not."""
    return _readlink(os.path.join(private, "tree"))


def release_tree(private: str, tree: str | None = None) -> None:
    """The private area goes away: forget that it stands on its tree.

    tree  what named_tree() told, of an area that has moved: its remover may be quicker than we
    No tree at all is fine."""
    private = os.path.abspath(private)
    try:
        store, entry = os.path.split(tree or os.readlink(os.path.join(private, "tree")))
        os.unlink(os.path.join(store, ".refs", entry, _quoted(private)))
    except OSError:
        pass


@record
class Tree:
    """One of the store. users: private areas that stand on it; is_current: its cache would make
    the same one again, so that it waits for the next create."""

    name: str
    path: str
    users: tuple[str, ...]
    is_current: bool


def trees(template_dir: str, privates: Iterable[str] = ()) -> list[Tree]:
    """What lies in the store; privates as in gc()."""
    store = tree_dir(template_dir)
    areas = {private: _readlink(os.path.join(private, "tree")) for private in privates}
    found = []
    for entry in _entries(store):
        name, path = entry.rpartition("@")[0], os.path.join(store, entry)
        tarball = cached(template_dir, name)
        refs = os.path.join(store, ".refs", entry)
        users = {private for private, tree in areas.items() if tree == path}
        users |= {_readlink(os.path.join(refs, key)) or key for key in _names(refs)}
        is_current = bool(tarball) and _current(store, name, tarball or "") == path
        found.append(Tree(name, path, tuple(sorted(users)), is_current))
    return found


def _entries(store: str) -> list[str]:
    return sorted(name for name in _names(store) if "@" in name and name[0] != ".")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def gc(template_dir: str, privates: Iterable[str] = ()) -> list[str]:
    """Remove the trees that no cache gives any more and no private area stands on.

    privates  areas known to the caller, for those that lost their entry in .refs
    Returns the paths of what was removed."""
    store = tree_dir(template_dir)
    named = {link for private in privates if (link := _readlink(os.path.join(private, "tree")))}
    removed = []
    for entry in _entries(store):
        name, tree = entry.rpartition("@")[0], os.path.join(store, entry)
        with _lock(store, name):
            tarball = cached(template_dir, name)
            if tarball and _current(store, name, tarball) == tree:
                continue
            if tree in named or _referred(store, entry):
                continue
            gone = os.path.join(store, f".{entry}.gone.tmp")
            os.rename(tree, gone)
            discard(gone)
            discard(os.path.join(store, ".refs", entry))
            if not tarball and os.path.exists(_stamp(store, name)):
                os.unlink(_stamp(store, name))
        removed.append(tree)
    for entry in _names(store):  # of a collector that was killed
        if entry[0] == "." and entry.endswith(".gone.tmp"):
            discard(os.path.join(store, entry))
    return removed


def _referred(store: str, entry: str) -> bool:
    """Whether a private area stands on the tree; entries that are surely stale are dropped.

    An area that is not there counts as long as its folder is missing or empty: its disk may not be
    mounted now."""
    tree = os.path.join(store, entry)
    folder = os.path.join(store, ".refs", entry)
    used = False
    for key in _names(folder):
        ref = os.path.join(folder, key)
        private = _readlink(ref) or ""
        link = _readlink(os.path.join(private, "tree"))
        above = os.path.dirname(private)
        away = not os.path.isdir(private) and not (os.path.isdir(above) and os.listdir(above))
        if link == tree or away:
            used = True
        else:
            os.unlink(ref)
    return used


def _current(store: str, name: str, tarball: str) -> str | None:
    """The tree made from `tarball` as it is now, by the stamp; None when it has to be made."""
    try:
        with open(_stamp(store, name), encoding="utf-8") as file:
            known, _, digest = file.read().strip().rpartition(" ")
    except (FileNotFoundError, ValueError):
        return None
    tree = os.path.join(store, f"{name}@{digest}")
    return tree if known == _identity(tarball) and os.path.isdir(tree) else None


def _stamp(store: str, name: str) -> str:
    return os.path.join(store, f".{name}.from")


def _lock(store: str, name: str, shared: bool = False) -> Flock:
    os.makedirs(store, 0o700, exist_ok=True)
    return Flock(os.path.join(store, f".{name}.lock"), shared)


def _identity(path: str) -> str:
    """Changes whenever the file does, without reading it."""
    st = os.stat(path)
    return f"{st.st_dev} {st.st_ino} {st.st_size} {st.st_mtime_ns} {st.st_ctime_ns}"


def _digest(path: str) -> str:
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:HASH_DIGITS]


def _quoted(path: str) -> str:
    """A path as one file name."""
    return path.replace("%", "%25").replace("/", "%2F")


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _relink(target: str, path: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    os.symlink(target, temporary)
    os.rename(temporary, path)


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(temporary, path)
