"""Recipes of OS templates: YAML files that say how a cache is built when there is none.

    $TEMPLATE/recipes/NAME.yaml     the node's own, looked at first
    templates/recipes/NAME.yaml     ours

A recipe is trusted as a script of the host's root is (templates.md 6.8)."""

from __future__ import annotations

import os

from vzpy import data
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[int, int], None]

# key -> the type it has to have; every builder checks these, and its own REQUIRED
KEYS = {
    "summary": str,
    "builder": str,
    "arch": str,
    "without": list,
    "directories": dict,
    "links": dict,
    "files": dict,
    "suite": str,
    "variant": str,
    "packages": list,
    "exclude": list,
    "options": list,
    "setup": str,
}


def folders(template_dir: str) -> tuple[str, ...]:
    return (os.path.join(template_dir, "recipes"), data.path("recipes"))


def find(template_dir: str, name: str) -> str | None:
    """Path of the recipe of this name, if there is one."""
    paths = (os.path.join(folder, name + ".yaml") for folder in folders(template_dir))
    return next((path for path in paths if os.path.isfile(path)), None)


def names(template_dir: str) -> list[str]:
    """The names that a cache can be built for, sorted."""
    found: set[str] = set()
    for folder in folders(template_dir):
        try:
            files = os.listdir(folder)
        except FileNotFoundError:
            continue
        found.update(f.removesuffix(".yaml") for f in files if f.endswith(".yaml"))
    return sorted(found)


def load(path: str) -> dict[str, object]:
    """A recipe, its keys and their types checked.

    Raises VzError 47 with file and line."""
    import yaml

    def wrong(text: str, line: int = 0) -> VzError:
        where = f"{path}:{line}" if line else path
        return VzError(f"{where}: {text}", Exit.FS_BAD_TMPL)

    try:
        with open(path, encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
    except OSError as err:
        raise VzError.of("Cannot read the recipe", err, Exit.FS_BAD_TMPL) from None
    except (yaml.YAMLError, ValueError) as err:
        mark, problem = getattr(err, "problem_mark", None), getattr(err, "problem", None)
        raise wrong(problem or str(err), mark.line + 1 if mark else 0) from None
    if not isinstance(recipe, dict):
        raise wrong("a recipe is a mapping of keys to values")
    for key, value in recipe.items():
        kind = KEYS.get(key)
        if kind is None:
            raise wrong(f"unknown key {key!r}, known: {', '.join(KEYS)}", _line(path, key))
        if not isinstance(value, kind):
            raise wrong(f"{key} has to be a {kind.__name__}", _line(path, key))
    for key in ("builder", "arch"):
        if key not in recipe:
            raise wrong(f"{key} is missing")
    return recipe


def _line(path: str, key: object) -> int:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.startswith(f"{key}:"):
                return number
    return 0


def build(path: str, scratch: str, progress: Progress | None = None) -> str:
    """Build the cache that the recipe `path` describes.

    scratch  an empty directory, for the tarball and what is only needed meanwhile
    Returns the tarball: SCRATCH/cache.tar or cache.tar.zst, cache.tar.gz. Raises VzError."""
    recipe = load(path)
    builder = recipe["builder"]
    if builder == "busybox":
        from vzpy import busybox

        return busybox.build(recipe, scratch)
    if builder == "mmdebstrap":
        from vzpy import mmdebstrap

        return mmdebstrap.build(recipe, scratch, progress)
    raise VzError(
        f"{path}:{_line(path, 'builder')}: unknown builder {builder!r}",
        Exit.FS_BAD_TMPL,
        hint="Known are busybox and mmdebstrap.",
    )
