"""vzrestore: an archive of vzdump into a new VPS (migrate.md 5)."""

from __future__ import annotations

import sys

from vzpy import options
from vzpy.commands.bar import Bar
from vzpy.commands.output import Output
from vzpy.errors import UsageError, VzError
from vzpy.node import Node
from vzpy.params import Option

FAILED = 255
OPTIONS = (
    Option("force", help="destroy a stopped VPS of that number first"),
    Option("trust", help="take host scripts, devices and capabilities of the archive too"),
    Option("quiet", help="tell errors only"),
    Option("help", help="usage", short="h"),
)
_USAGE = "Usage: vzrestore [--force] [--trust] ARCHIVE CTID"


def main(argv: list[str]) -> int:
    """Run `vzrestore ARGV...`; returns the exit code."""
    out = Output()
    try:
        pairs, words = options.getopt("vzrestore", argv, OPTIONS, FAILED)
        given = {option.name for _, option, _ in pairs}
        if "help" in given:
            out.line(_USAGE)
            return 0
        if len(words) != 2:
            raise UsageError("an archive and a CTID are needed", FAILED)
        out.quiet = "quiet" in given
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
    except VzError as err:
        out.quiet = False
        out.error(err)
        if isinstance(err, UsageError):
            print(_USAGE, file=sys.stderr)
        return FAILED
