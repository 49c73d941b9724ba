"""vzdqdump: the second level of a quota file as text, to be loaded elsewhere."""

from __future__ import annotations

from vzpy import quotatext
from vzpy.commands import vzdq
from vzpy.quotafile import is_on

OPTIONS = (*vzdq.COMMON, *vzdq.DUMPED)


def main(argv: list[str]) -> int:
    return vzdq.run("vzdqdump", argv, "QUOTA_ID", OPTIONS, _dump)


def _dump(word: str, given: dict[str, str]) -> None:
    quota = vzdq.quota_of(word, given)
    found = quota.load("dump")
    if is_on(found):
        found = quota.stat(update=False)
    print(quotatext.dump(found, vzdq.parts(given)), end="")
