"""vzdqload: what vzdqdump has written, into a quota file."""

from __future__ import annotations

import sys

from vzpy import quotatext
from vzpy.commands import vzdq
from vzpy.quotafile import QuotaError

OPTIONS = (*vzdq.COMMON, *vzdq.DUMPED)


def main(argv: list[str]) -> int:
    return vzdq.run("vzdqload", argv, "QUOTA_ID", OPTIONS, _load)


def _load(word: str, given: dict[str, str]) -> None:
    quota = vzdq.quota_of(word, given)
    had = quota.loadable()
    try:
        new = quotatext.undump(sys.stdin.read(), vzdq.parts(given), had)
    except ValueError as err:
        raise QuotaError(f"The dump cannot be read: {err}", QuotaError.FILE) from None
    quota.replace(new)
