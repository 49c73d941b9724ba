"""Names of OS templates and their cache tarballs, $TEMPLATE/cache/NAME.tar[.gz|.bz2|.xz|.zst]."""

from __future__ import annotations

import os

from vzpy import events, recipe, vztmp
from vzpy.errors import Exit, VzError
from vzpy.lockfile import Flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.unpack import Progress

SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


def cache_dir(template_dir: str) -> str:
    return os.path.join(template_dir, "cache")


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
        discard(scratch)  # of a build that was killed
        os.mkdir(scratch, 0o700)
        try:
            report(events.BuildingTemplate(template=name))
            new = recipe.build(source, scratch, progress)
            path = os.path.join(folder, name + new.removeprefix(os.path.join(scratch, "cache")))
            if old:
                os.rename(old, old + "-old")
            os.rename(new, path)
        finally:
            discard(scratch)
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


def discard(path: str) -> None:
    """Remove a tree of ours, however deep, never through a mount; absence is success."""
    try:
        vztmp.remove(path)
    except OSError as err:
        raise VzError.of("Cannot remove what is of no use any more", err) from None
