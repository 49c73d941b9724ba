"""vzpkg: caches of OS templates, made from recipes (templates.md 3). Exit codes are vztt's."""

from __future__ import annotations

import os
import sys

from vzpy import events
from vzpy.errors import Exit, UsageError, VzError
from vzpy.events import ERROR, NORMAL
from vzpy.option import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.events import Event

# vztt_error.h
SYSTEM = 1
NOT_ROOT = 10
NOT_CACHED = 23
NOT_FOUND = 24
BROKEN = 25
CACHE_EXISTS = 29
BAD_ARGUMENT = 35
NO_TEMPLATE_DIR = 37
NOT_AVAILABLE_YET = 28
CODES = {
    Exit.OSTEMPLATE_NOT_FOUND: NOT_FOUND,
    Exit.FS_BAD_TMPL: BROKEN,
    Exit.VE_TMPL_NOTSET: NO_TEMPLATE_DIR,
    Exit.INVALID_PARAMETER_VALUE: BAD_ARGUMENT,
}

NAME_WIDTH = 34
OPTIONS = (
    Option("force", short="f"),
    Option("quiet", short="q"),
    Option("debug", "text", short="d"),
    Option("cache", short="C"),
    Option("remote", short="r"),
    Option("cached", short="c"),
    Option("with-summary", short="S"),
    Option("pkgid", short="i"),
    Option("os", short="O"),
    Option("app", short="A"),
    Option("update-cache"),
)
LATER = (
    "install", "update", "remove", "localinstall", "localupdate", "upgrade", "info", "clean",
    "fetch", "status", "link", "update metadata", "create appcache", "update appcache",
    "list appcache", "remove appcache", "create image", "install template", "update template",
    "remove template", "upgrade area",
)  # fmt: skip
USAGE = """vzpy EZ template management tool.
Usage:
vzpkg create cache | update cache | remove cache | list | help
vzpkg create cache [-f] [-q|-d <level>] [<OS template> [...]]
vzpkg update cache [-q|-d <level>] [<OS template> [...]]
vzpkg remove cache [-q|-d <level>] [<OS template> [...]]
vzpkg list [-c] [-S] [-i] [-q|-d <level>] [<OS template>|<VEID>|<VENAME> [...]]
vzpkg help
  Options:
    -f/--force           create a cache that is there again
    -q/--quiet           quiet mode
    -d/--debug n         set debug level
    -c/--cached          list only the OS templates that have a cache
    -S/--with-summary    list with summary
    -i/--pkgid           list names with a leading dot
Not available yet: install, update, remove, info, status, fetch, clean, link, upgrade."""


def main(argv: list[str]) -> int:
    """Run `vzpkg ARGV...`; returns the exit code."""
    from vzpy.options import getopt

    try:
        pairs, words = getopt("vzpkg", argv, OPTIONS, BAD_ARGUMENT)
        return run({option.name for _, option, _ in pairs}, words)
    except UsageError as err:
        print(err, file=sys.stderr)
        return err.code
    except VzError as err:
        print(f"Error: {err}", file=sys.stderr)
        return CODES.get(err.code, SYSTEM)


def run(flags: set[str], words: list[str]) -> int:
    command, names = " ".join(words[:2]), words[2:]
    if words[:1] == ["list"] and command != "list appcache":
        return list_templates(flags, words[1:])
    if command in ACTIONS:
        if os.geteuid() != 0:
            print("Error: You must be root to run this program", file=sys.stderr)
            return NOT_ROOT
        return ACTIONS[command](flags, names)
    if words[:1] == ["help"]:
        print(USAGE, file=sys.stderr)
        return 0
    later = next((c for c in reversed(LATER) if c in (command, *words[:1])), None)
    if later:
        print(f"Error: vzpkg {later} is not available yet", file=sys.stderr)
        return NOT_AVAILABLE_YET
    print(USAGE, file=sys.stderr)
    return BAD_ARGUMENT


def template_dir() -> str:
    from vzpy.node import Node

    folder = Node(program="vzpkg").config.raw("TEMPLATE")
    if not folder:
        raise VzError("TEMPLATE is not set", Exit.VE_TMPL_NOTSET)
    return folder


def create_cache(flags: set[str], names: list[str]) -> int:
    """Build what is named, or all that have a recipe and no cache; -f builds again."""
    from vzpy import recipe, template

    folder = template_dir()
    if not names and "force" not in flags:
        names = [n for n in recipe.names(folder) if not template.cached(folder, n)]
    for name in names or recipe.names(folder):
        name = template.resolve_name(folder, name)
        there = template.cached(folder, name)
        if there and "force" not in flags:
            print(f"Error: the cache of {name} exists: {there}", file=sys.stderr)
            return CACHE_EXISTS
        _build(folder, name, flags, again=bool(there))
    return 0


def update_cache(flags: set[str], names: list[str]) -> int:
    """Build again, from what the distribution has now, what is named or has a cache; the old
    tarball is kept as FILE-old. One that is not there is created."""
    from vzpy import recipe, template

    folder = template_dir()
    if not names:
        names = [n for n in recipe.names(folder) if template.cached(folder, n)]
    for name in names:
        _build(folder, template.resolve_name(folder, name), flags, again=True)
    template.gc(folder, _privates())
    return 0


def remove_cache(flags: set[str], names: list[str]) -> int:
    """Remove the tarballs of what is named, or all; trees go when no VPS stands on them."""
    from vzpy import template

    folder = template_dir()
    for name in names or template.cached_names(folder):
        name = template.resolve_name(folder, name)
        if not template.cached(folder, name):
            print(f"Error: {name} is not cached", file=sys.stderr)
            return NOT_CACHED
        template.remove_cache(folder, name)
    template.gc(folder, _privates())
    return 0


def _build(folder: str, name: str, flags: set[str], again: bool) -> None:
    from vzpy import template
    from vzpy.commands.bar import Bar

    level = ERROR if "quiet" in flags else NORMAL

    def tell(event: Event) -> None:
        if event.level <= level:
            print(event, file=sys.stderr if event.level < 0 else sys.stdout, flush=True)

    with Bar(f"Building {name}", wanted="quiet" not in flags) as progress:
        path = template.build_cache(folder, name, tell, progress, again=again)
    size = os.path.getsize(path) / (1 << 20)
    tell(events.Note(text=f"Cache file {os.path.basename(path)} [{size:.1f}M] created."))


def _privates() -> list[str]:
    from vzpy.node import Node

    areas = (vps.config.raw("VE_PRIVATE") for vps in Node(program="vzpkg"))
    return [area for area in areas if area]


def list_templates(flags: set[str], words: list[str]) -> int:
    """All OS templates, or those named, or that of a VPS (templates.md 3.3)."""
    from vzpy import recipe, template

    folder = template_dir()
    known = sorted({*recipe.names(folder), *template.cached_names(folder)})
    wanted = known
    if words:
        wanted = []
        for word in words:
            name = template.resolve_name(folder, word)
            name = name if name in known else _ostemplate(word)
            wanted.append(name)
    if "app" in flags:
        return 0  # there are no application templates yet
    for name in wanted:
        cache = template.cached(folder, name)
        if "cached" in flags and not cache:
            continue
        tail = ""
        if "with-summary" in flags:
            source = recipe.find(folder, name)
            tail = f":{recipe.load(source)['summary']}" if source else ""
        elif cache and "quiet" not in flags:
            tail = _timestamp(cache)
        dot = "." if "pkgid" in flags else ""
        print(f"{dot + name:<{NAME_WIDTH}} {tail}")
    return 0


def _ostemplate(word: str) -> str:
    """OSTEMPLATE of the VPS that `word` numbers or names. Raises VzError when there is none."""
    from vzpy import names
    from vzpy.node import Node

    node = Node(program="vzpkg")
    ctid = names.lookup(node.paths.names, word)
    if ctid is None or not node.vps(ctid).config.exists:
        raise VzError(f"OS template {word} not found", Exit.OSTEMPLATE_NOT_FOUND)
    return node.vps(ctid).config.raw("OSTEMPLATE") or ""


def _timestamp(path: str) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(os.path.getmtime(path)))


ACTIONS: dict[str, Callable[[set[str], list[str]], int]] = {
    "create cache": create_cache,
    "update cache": update_cache,
    "remove cache": remove_cache,
}
