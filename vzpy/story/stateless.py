"""A VPS without connection tracking (netfilter.py): its table needs a holder for its life."""

from __future__ import annotations

import os

from vzpy import netfilter
from vzpy.errors import Exit, VzError
from vzpy.kernel import process
from vzpy.sync import READY, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.story.parent import Caller

NAME = "netfilter"  # of the descriptor that vzeventd holds


def confine(pid: int, keeper: Caller) -> list[str]:
    """Make the table in the network namespace of a task that waits for its maps or later.

    Returns the option when nobody can hold the table. Raises VzError 124 when it cannot be made."""
    if not keeper.by_daemon:
        return [NAME]
    fd = -1
    ours, theirs = Channel.pair()
    # The namespace of a thread among others cannot be changed and changed back.
    child = os.fork()
    if child == 0:
        try:
            process.setns(os.pidfd_open(pid), process.CLONE_NEWNET)
            table = netfilter.keep_untracked()
            theirs.send(READY, fd=table.fileno())
        except OSError as err:
            theirs.fail("netfilter", err)
        finally:
            os._exit(0)
    try:
        theirs.close()
        _, _, fd = ours.receive()
        keeper.hold(NAME, fd)
    except OSError as err:
        raise VzError.of("Unable to set netfilter", err, Exit.SET_IPTABLES) from err
    finally:
        ours.close()
        os.waitpid(child, 0)
        if fd >= 0:
            os.close(fd)
    return []
