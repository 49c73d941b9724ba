"""What vzdqcheck, vzdqdump and vzdqload share: their command lines and errors (quota.md 4.3)."""

from __future__ import annotations

import os
import sys

import vzpy
from vzpy import options
from vzpy.errors import UsageError, VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.quotafile import QuotaError
from vzpy.quotaid import Quota

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COMMON = (
    Option("help", help="usage", short="h"),
    Option("version", help="the version", short="V"),
    Option("quiet", help="only fatal errors", short="q"),
    Option("verbose", help="say more", short="v"),
)
DUMPED = (
    Option("force", help="do it all the same", short="f"),
    Option("quota-file", "path", "the quota file", short="c"),
    Option("grace", help="grace times of users and groups", short="G"),
    Option("limits", help="limits of users and groups", short="U"),
    Option("times", help="when soft limits turn hard", short="T"),
    Option("first-level", help="the limits of the tree", short="F"),
)


def run(
    tool: str, argv: list[str], what: str, known: tuple[Option, ...],
    act: Callable[[str, dict[str, str]], None],
) -> int:
    """act(the one word, options by their short letters); returns the exit code.

    what  name of that word in the usage"""
    usage = f"Usage: {tool} [-{''.join(o.short for o in known if not o.kind)}] {what}"
    try:
        pairs, words = options.getopt(tool, argv, known, QuotaError.USAGE)
        given = {option.short: text for _, option, text in pairs}
        if "V" in given:
            print(f"Vzquota version {vzpy.__version__}")
            return 0
        if "h" in given or len(words) != 1:
            raise UsageError("", QuotaError.USAGE)
        act(words[0], given)
    except UsageError as err:
        print(f"{err.message}\n{usage}".lstrip("\n"), file=sys.stderr)
        return QuotaError.USAGE
    except VzError as err:
        print(f"{tool} : (error) {err}", file=sys.stderr)
        return err.code
    except OSError as err:
        print(f"{tool} : (error) {err.filename or tool}: {err.strerror}", file=sys.stderr)
        return QuotaError.SYSTEM
    return 0


def quota_of(word: str, given: dict[str, str]) -> Quota:
    """Raises UsageError 2 when the word is no number."""
    if not (word.isascii() and word.isdigit() and 0 < int(word) < 2**31):
        raise UsageError(f"Quota id is no number from 1: {word}", QuotaError.USAGE)
    file = given.get("c")
    paths = NodePaths.of()
    path = os.path.abspath(file) if file else paths.quota_file(int(word))
    return Quota(int(word), path, folder=paths.vzquota)


def parts(given: dict[str, str]) -> str:
    return "".join(letter for letter in "GUTF" if letter in given)
