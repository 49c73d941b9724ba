"""The limits that VPSs ran into, as vzeventd wrote them down."""

from __future__ import annotations

import time

from vzpy import limitlog
from vzpy.errors import VzError
from vzpy.eventd import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vzpy.limitlog import Hit
    from vzpy.model import NodePaths

_PAUSE = 0.5  # seconds between looks for what is new
_AGAIN = 10.0  # seconds between questions after what wakes nobody


def hits(paths: NodePaths, ctid: int, follow: bool) -> Iterator[Hit]:
    """Of one VPS or of all (0), the oldest first; see Node.events. Raises VzError (3)."""
    try:
        yield from _hits(paths, ctid, follow)
    except OSError as err:
        raise VzError.of("Unable to read events", err) from err


def _hits(paths: NodePaths, ctid: int, follow: bool) -> Iterator[Hit]:
    _ask(paths, ctid)
    path = limitlog.path_of(paths.state)
    coming = limitlog.Tail(path)
    asked = time.monotonic()
    yield from _of(ctid, limitlog.older(path))
    yield from _of(ctid, coming.more())
    while follow:
        time.sleep(_PAUSE)
        if time.monotonic() > asked + _AGAIN:
            _ask(paths, ctid)
            asked = time.monotonic()
        yield from _of(ctid, coming.more())


def _of(ctid: int, found: Iterator[Hit]) -> Iterator[Hit]:
    return (hit for hit in found if ctid in (0, hit.ctid))


def _ask(paths: NodePaths, ctid: int) -> None:
    """Have the daemon look at what programs of ours count in the kernel, too."""
    try:
        daemon = client.Daemon.open(paths, start=False)
        daemon.request({"op": "limits", "ctid": ctid})
        daemon.close()
    except OSError:
        pass  # without a daemon nothing is written down
