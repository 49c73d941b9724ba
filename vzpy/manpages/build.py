"""All generated files as name -> text; the test compares them with what lies in the checkout."""

from __future__ import annotations

from pathlib import Path

from vzpy import __version__
from vzpy.manpages import beancounters, completion, roff, tables


def pages(docs: Path) -> dict[str, str]:
    """roff of every docs/NAME.SECTION.md, by file name."""
    date = _released(docs.parent / "NEWS.md")
    found = {}
    for source in sorted(docs.glob("*.[58].md")):
        expanded = tables.expand(source.read_text())
        found[source.stem] = roff.page(expanded, date, f"vzpy {__version__}")
    return found


def completions() -> dict[str, str]:
    """Bash completion of every tool, by its name."""
    return {tool: completion.script(tool) for tool in completion.TOOLS}


def _released(news: Path) -> str:
    """The date of this version: `## 0.1.0 (2026-11-24)` in NEWS.md."""
    for line in news.read_text().splitlines():
        if line.startswith(f"## {__version__} ("):
            return line.partition("(")[2].rstrip(")")
    raise ValueError(f"{news} has no entry for {__version__}")


def tables_of_docs() -> dict[str, str]:
    """Pages of docs/ that are made of tables alone, by file name."""
    return {"beancounters.md": beancounters.page()}
