"""Write docs/man/* from docs/*.md, and a completion for each tool."""

from __future__ import annotations

import sys
from pathlib import Path

from vzpy.manpages import build


def main() -> None:
    docs, completions = map(Path, sys.argv[1:3])
    for folder, files in ((docs / "man", build.pages(docs)), (completions, build.completions())):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.name not in files:
                old.unlink()
        for name, text in files.items():
            (folder / name).write_text(text)
    for name, text in build.tables_of_docs().items():
        (docs / name).write_text(text)


main()
