"""What a running VPS calls itself: its host name."""

from __future__ import annotations

import os

from vzpy import dist
from vzpy.errors import Exit, VzError
from vzpy.kernel import process
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.live import Change


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 18."""
    if "HOSTNAME" in change.keys:
        set_hostname(change.facts, change.after.value("HOSTNAME"))
    return []


def set_hostname(facts: Facts, hostname: str) -> None:
    """Give a running VPS a host name: in its files, then in its UTS namespace."""
    root = os.open(f"/proc/{facts.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    init = os.pidfd_open(facts.pid)
    try:
        dist.set_hostname(root, hostname, IdRange(facts.base, facts.count))
        pid = os.fork()  # the namespace of a thread among others cannot be changed and changed back
        if pid == 0:
            try:
                process.setns(init, process.CLONE_NEWUTS)
                process.sethostname(os.fsencode(hostname))
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            raise VzError(f"Unable to set host name {hostname}", Exit.SETLUID)
    finally:
        os.close(init)
        os.close(root)
