"""vzrestore: an archive of vzdump into a new VPS (migrate.md 5)."""

from __future__ import annotations

from vzpy.commands import archiver
from vzpy.commands.bar import Bar
from vzpy.errors import UsageError
from vzpy.node import Node
from vzpy.option import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.output import Output

OPTIONS = (
    Option("force", help="destroy a stopped VPS of that number first"),
    Option("trust", help="take host scripts, devices and capabilities of the archive too"),
    Option("quiet", help="tell errors only"),
    Option("help", help="usage", short="h"),
)
_USAGE = "Usage: vzrestore [--force] [--trust] ARCHIVE CTID"


def main(argv: list[str]) -> int:
    """Run `vzrestore ARGV...`; returns the exit code."""
    return archiver.run("vzrestore", argv, OPTIONS, _USAGE, _run)


def _run(given: dict[str, list[str]], words: list[str], out: Output) -> int:
    if len(words) != 2:
        raise UsageError("an archive and a CTID are needed", archiver.FAILED)
    node = Node(program="vzrestore")
    out.log = node.log
    with Bar("Restoring", wanted=not out.quiet) as progress:
        node.restore(
            words[0],
            words[1],
            force="force" in given,
            trust="trust" in given,
            report=out.report,
            progress=progress,
        )
    return 0
