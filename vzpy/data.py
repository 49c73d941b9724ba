"""Where the package's data files lie: in vzpy/templates once installed, else beside vzpy/."""

from __future__ import annotations

import os

_HERE = os.path.dirname(os.path.abspath(__file__))


def path(*parts: str) -> str:
    """The path of a data file, e.g. path("conf", "vz.conf")."""
    installed = os.path.join(_HERE, "templates")
    root = installed if os.path.isdir(installed) else os.path.join(_HERE, "..", "templates")
    return os.path.normpath(os.path.join(root, *parts))


def read(*parts: str) -> str:
    """The text of a data file."""
    with open(path(*parts), encoding="utf-8") as file:
        return file.read()
