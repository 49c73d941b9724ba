"""What vzdump and vzrestore have in common: how they are asked, and 255 for every failure."""

from __future__ import annotations

import sys

from vzpy.commands.output import Output
from vzpy.errors import UsageError, VzError
from vzpy.options import getopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vzpy.option import Option

    Act = Callable[[dict[str, list[str]], list[str], Output], int]

FAILED = 255


def run(tool: str, argv: list[str], options: Sequence[Option], usage: str, act: Act) -> int:
    """act(texts by option, words, output) unless help is wanted; returns the exit code."""
    out = Output()
    try:
        pairs, words = getopt(tool, argv, options, FAILED)
        given: dict[str, list[str]] = {}
        for _, option, text in pairs:
            given.setdefault(option.name, []).append(text)
        if "help" in given:
            out.line(usage)
            return 0
        out.quiet = "quiet" in given
        return act(given, words, out)
    except VzError as err:
        out.quiet = False
        out.error(err)
        if isinstance(err, UsageError):
            print(usage, file=sys.stderr)
        return FAILED
