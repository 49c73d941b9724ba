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
    from vzpy.unpack import Progress

# builder -> its keys and the type of each; those of EVERY and REQUIRED have to be there
EVERY = {"summary": str, "builder": str, "arch": str}
BUILDERS: dict[str, dict[str, type]] = {
    "busybox": {"without": list, "directories": dict, "links": dict, "files": dict},
    "mmdebstrap": {
        "suite": str,
        "variant": str,
        "packages": list,
        "exclude": list,
        "options": list,
        "setup": str,
    },
}
REQUIRED = {"busybox": ("directories", "files"), "mmdebstrap": ("suite",)}


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
    builder = recipe.get("builder")
    if builder not in BUILDERS:
        known = " and ".join(BUILDERS)
        raise wrong(f"builder is {builder!r}, known are {known}", _line(path, "builder"))
    kinds = EVERY | BUILDERS[builder]
    for key, value in recipe.items():
        if key not in kinds:
            known = ", ".join(kinds)
            raise wrong(f"unknown key {key!r}; {builder} knows {known}", _line(path, key))
        if not isinstance(value, kinds[key]):
            raise wrong(f"{key} has to be a {kinds[key].__name__}", _line(path, key))
    for key in (*EVERY, *REQUIRED[builder]):
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
    if recipe["builder"] == "busybox":
        from vzpy import busybox

        return busybox.build(recipe, scratch)
    from vzpy import mmdebstrap

    return mmdebstrap.build(recipe, scratch, progress)
