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

from vzpy import events, recipe, vztmp
from vzpy.errors import Exit, VzError
from vzpy.lockfile import Flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.events import Report
    from vzpy.unpack import Progress as Progress

SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
HASH_DIGITS = 16
CHUNK = 1 << 20


def cache_dir(template_dir: str) -> str:
    return os.path.join(template_dir, "cache")


def tree_dir(template_dir: str) -> str:
    return os.path.join(template_dir, "tree")


# names


def machine_arch() -> str:
    """The machine as template names say it."""
    machine = os.uname().machine
    return "i386" if machine[:1] == "i" and machine.endswith("86") else machine


def resolve_name(template_dir: str, ostemplate: str) -> str:
    """OSTEMPLATE as a name that has a cache or a recipe: vzosname's rules (templates.md 2.2).

    debian-12 -> debian-12-x86_64, fedora-4 -> fedora-4-i386-default; an old absolute path is cut
    to its last part; what cannot be expanded is returned as it is."""
    name = os.path.basename(ostemplate.rstrip("/"))
    if not name or name in (".", "..") or "\0" in name:
        raise VzError(f"Bad OS template name: {ostemplate!r}", Exit.OSTEMPLATE_NOT_FOUND)
    arch = machine_arch()
    known = ("i386", "x86_64", "ia64", "x86", "aarch64", arch)
    *front, last = name.split("-")
    middle = [word for word in front if word in known]
    if last in known:  # os-ver[-set]-arch
        guesses = [f"{name}-default"]
        if len(front) > 2:
            guesses += ["-".join((*front[:-1], last, front[-1]))]
    elif middle:  # os-ver-arch-set: whole
        guesses = []
    else:
        guesses = [f"{name}-{arch}", f"{name}-{arch}-default"]
        if front:
            guesses += ["-".join((*front, arch, last))]
    for guess in (name, *guesses):
        if cached(template_dir, guess) or recipe.find(template_dir, guess):
            return guess
    return name


# caches


def cached(template_dir: str, name: str) -> str | None:
    """Path of the cache tarball, the first in the contract's order."""
    paths = (os.path.join(cache_dir(template_dir), name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if os.path.isfile(path)), None)


def cached_names(template_dir: str) -> list[str]:
    """The names that have a cache tarball, sorted."""
    try:
        files = os.listdir(cache_dir(template_dir))
    except FileNotFoundError:
        return []
    names = {file[: -len(s)] for file in files for s in SUFFIXES if file.endswith(s)}
    return sorted(name for name in names if name and name[0] != ".")


def find_cache(template_dir: str, name: str) -> str:
    """The same, or VzError 91."""
    if path := cached(template_dir, name):
        return path
    raise VzError(
        f"Cached OS template {cache_dir(template_dir)}/{name}.tar[.gz|.bz2|.xz] not found",
        Exit.OSTEMPLATE_NOT_FOUND,
    )


def ensure_cache(
    template_dir: str,
    name: str,
    report: Report = events.silent,
    progress: Progress | None = None,
) -> str:
    """Path of the cache tarball, built from its recipe when there is none. Errors: 91, 47."""
    path = cached(template_dir, name)
    if path:
        return path
    if recipe.find(template_dir, name) is None:
        return find_cache(template_dir, name)
    return build_cache(template_dir, name, report, progress)


def build_cache(
    template_dir: str,
    name: str,
    report: Report = events.silent,
    progress: Progress | None = None,
    *,
    again: bool = False,
) -> str:
    """Build the cache of `name`; `again` replaces one, which is kept as FILE-old.

    Of two that build the same, the second waits and finds it done."""
    source = recipe.find(template_dir, name)
    if source is None:
        raise VzError(f"There is no recipe for {name}", Exit.OSTEMPLATE_NOT_FOUND)
    folder = cache_dir(template_dir)
    os.makedirs(folder, exist_ok=True)
    with Flock(os.path.join(folder, f".{name}.lock")):
        old = cached(template_dir, name)
        if old and not again:
            return old
        scratch = os.path.join(folder, f".{name}.build")
        _remove(scratch)  # of a build that was killed
        os.mkdir(scratch, 0o700)
        try:
            report(events.BuildingTemplate(template=name))
            new = recipe.build(source, scratch, progress)
            path = os.path.join(folder, name + new.removeprefix(os.path.join(scratch, "cache")))
            if old:
                os.rename(old, old + "-old")
            os.rename(new, path)
        finally:
            _remove(scratch)
    return path


def remove_cache(template_dir: str, name: str) -> None:
    """Remove the cache tarballs of `name`; its tree is gc()'s to remove. Raises VzError 91."""
    path: str | None = find_cache(template_dir, name)
    with Flock(os.path.join(cache_dir(template_dir), f".{name}.lock")):
        while path:
            for file in (path, path + "-old"):
                if os.path.lexists(file):
                    os.unlink(file)
            path = cached(template_dir, name)


# trees


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
    os.makedirs(store, 0o700, exist_ok=True)
    if tree := _current(store, name, tarball):
        return tree
    with _lock(store, name):
        if tree := _current(store, name, tarball):
            return tree
        for entry in os.listdir(store):  # of makers that were killed
            if entry.startswith(f".{name}@") and entry.endswith(".tmp"):
                _remove(os.path.join(store, entry))
        before = _identity(tarball)
        digest = _digest(tarball)
        tree = os.path.join(store, f"{name}@{digest}")
        if not os.path.isdir(tree):
            _make_tree(tarball, tree, progress)
        if _identity(tarball) != before:
            raise VzError(f"{tarball} changed while it was unpacked", Exit.FS_BAD_TMPL)
        _write(_stamp(store, name), f"{before} {digest}\n")
    return tree


def _make_tree(tarball: str, tree: str, progress: Progress | None) -> None:
    from vzpy import treecheck, unpack

    store, entry = os.path.split(tree)
    temporary = os.path.join(store, f".{entry}.{os.getpid()}.tmp")
    os.mkdir(temporary, 0o755)
    try:
        unpack.unpack(tarball, temporary, None, progress)
        treecheck.check(temporary, tarball)
        _write_to_disk(temporary)
        os.rename(temporary, tree)
    except BaseException as failure:
        try:
            _remove(temporary)
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
    """The tree that the private area stands on. Errors: 47 when it names none, or is gone."""
    link = os.path.join(private, "tree")
    try:
        tree = os.readlink(link)
    except OSError as err:
        what = "The private area does not name its template tree"
        raise VzError.of(what, err, Exit.FS_BAD_TMPL) from None
    if not os.path.isdir(tree):
        raise VzError(
            f"The template tree {tree}, which {private} stands on, is gone",
            Exit.FS_BAD_TMPL,
            hint=f"Put it back from a backup; it was made from the cache of {_name_of(tree)}.",
        )
    return tree


def release_tree(private: str, moved: str = "") -> None:
    """The private area goes away, or went to `moved`: forget that it stands on its tree.

    No tree at all is fine."""
    private = os.path.abspath(private)
    try:
        store, entry = os.path.split(os.readlink(os.path.join(moved or private, "tree")))
        os.unlink(os.path.join(store, ".refs", entry, _quoted(private)))
    except OSError:
        pass


def gc(template_dir: str, privates: Iterable[str] = ()) -> list[str]:
    """Remove the trees that no cache gives any more and no private area stands on.

    privates  areas known to the caller, for those that lost their entry in .refs
    Returns the paths of what was removed."""
    store = tree_dir(template_dir)
    named = {link for private in privates if (link := _readlink(os.path.join(private, "tree")))}
    removed = []
    for entry in sorted(os.listdir(store)) if os.path.isdir(store) else ():
        name, at, _ = entry.rpartition("@")
        if not at or entry[0] == ".":
            continue
        tree = os.path.join(store, entry)
        with _lock(store, name):
            tarball = cached(template_dir, name)
            if tarball and _current(store, name, tarball) == tree:
                continue
            if tree in named or _referred(store, entry):
                continue
            gone = os.path.join(store, f".{entry}.gone.tmp")
            os.rename(tree, gone)
            _remove(gone)
            _remove(os.path.join(store, ".refs", entry))
            if not tarball and os.path.exists(_stamp(store, name)):
                os.unlink(_stamp(store, name))
        removed.append(tree)
    return removed


def _referred(store: str, entry: str) -> bool:
    """Whether a private area stands on the tree; entries that are surely stale are dropped.

    An area that is not there counts as long as its folder is missing or empty: its disk may not be
    mounted now."""
    tree = os.path.join(store, entry)
    folder = os.path.join(store, ".refs", entry)
    used = False
    for key in os.listdir(folder) if os.path.isdir(folder) else ():
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
        with open(_stamp(store, name), encoding="ascii") as file:
            known, _, digest = file.read().strip().rpartition(" ")
    except (FileNotFoundError, ValueError):
        return None
    tree = os.path.join(store, f"{name}@{digest}")
    return tree if known == _identity(tarball) and os.path.isdir(tree) else None


def _stamp(store: str, name: str) -> str:
    return os.path.join(store, f".{name}.from")


def _lock(store: str, name: str, shared: bool = False) -> Flock:
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


def _name_of(tree: str) -> str:
    return os.path.basename(tree).rpartition("@")[0]


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
    with open(temporary, "w", encoding="ascii") as file:
        file.write(text)
    os.rename(temporary, path)


def _write_to_disk(path: str) -> None:
    """syncfs(2): after a power cut a tree with empty files would be used for ever."""
    from vzpy.kernel.libc import libc, oserror

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd) < 0:
            raise oserror(path)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    """Remove a tree of ours, however deep, never through a mount; absence is success."""
    try:
        vztmp.remove(path)
    except OSError as err:
        raise VzError.of("Cannot remove what is of no use any more", err) from None
