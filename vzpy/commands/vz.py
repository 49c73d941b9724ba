"""vz: the node's own tool. The boot service has a contract (config-files 11), the rest is ours."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Event

SERVICE = ("start", "stop", "status", "restart", "force-reload")


def main(argv: list[str]) -> int:
    """Run `vz ARGV...`; returns the exit code."""
    from vzpy.errors import VzError

    try:
        if argv and argv[0] in SERVICE:
            return _service(*argv)
        from vzpy.commands import vznode

        return vznode.main(argv)
    except VzError as err:
        print(err, file=sys.stdout if err.stdout else sys.stderr)
        return err.code


def _service(action: str, *extra: str) -> int:
    """start, stop, status ...: exit codes as an init script has them (LSB)."""
    from vzpy.story import boot

    if extra:
        print("Usage: vz {" + "|".join(SERVICE) + "}", file=sys.stderr)
        return boot.USAGE
    return boot.run(action, tell)


def tell(event: Event) -> None:
    """An event as a line: errors to stderr, progress to stdout, details nowhere."""
    if event.level <= 0:
        print(event, file=sys.stderr if event.level < 0 else sys.stdout, flush=True)
