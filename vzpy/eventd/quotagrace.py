"""Grace times of VPSs (quota.md 6.3). The kernel has one for each kind of quota of a file system;
whenever somebody exceeds a soft limit it tells, and the time it began is changed to the VPS's own.
A kernel that does not tell, or a daemon in a network namespace, where it is not heard, looks every
few seconds.

While no daemon runs that of the file system holds, until the next daemon or `vzquota stat`."""

from __future__ import annotations

import os
import select

from vzpy import quota, state
from vzpy.errors import VzError
from vzpy.kernel import quotactl, quotanetlink
from vzpy.projects import Registry
from vzpy.quotafile import is_on, load
from vzpy.quotaid import Quota
from vzpy.story.disk import numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.main import Daemon
    from vzpy.quotafile import QuotaFile

# The kernel warns before it has begun the time (xfs: when the transaction ends).
_DELAYS = (0.05, 1.0)
_EVERY = 10  # seconds, where nobody tells


class QuotaGrace:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.registry = Registry()
        self.waiting: set[tuple[int, int]] = set()
        daemon.busy.append(self._is_wanted)
        try:
            self.sock = quotanetlink.subscribe()
        except OSError:
            if os.path.exists("/proc/sys/fs/quota"):
                daemon.loop.after(_EVERY, self._again)
            return
        daemon.loop.watch(self.sock.fileno(), select.EPOLLIN, self._ready)

    def _is_wanted(self) -> bool:
        found = map(self._load, numbers(self.daemon.paths))
        return any(quota and is_on(quota) for quota in found)

    def start(self) -> None:
        """What was exceeded while nobody looked."""
        for number in numbers(self.daemon.paths):
            found = self._load(number)
            if found and is_on(found):
                try:
                    fd = quota.open_tree(found.path)
                    try:
                        quota.shorten_all(fd, found)
                    finally:
                        os.close(fd)
                except OSError:
                    pass  # its tree is gone

    def _again(self) -> None:
        self.start()
        self.daemon.loop.after(_EVERY, self._again)

    def _ready(self, _: int) -> None:
        for kind, qid, warning, _device in quotanetlink.warnings(self.sock):
            if warning in (quotanetlink.ISOFTWARN, quotanetlink.BSOFTWARN):
                key = (kind, qid)
                if key not in self.waiting:
                    self.waiting.add(key)
                    self._later(key, 0)

    def _later(self, key: tuple[int, int], tries: int) -> None:
        def look() -> None:
            try:
                self._exceeded(*key)
            except (VzError, OSError):
                pass  # it has just been switched off
            if tries + 1 < len(_DELAYS):
                self._later(key, tries + 1)
            else:
                self.waiting.discard(key)

        self.daemon.loop.after(_DELAYS[tries], look)

    def _exceeded(self, kind: int, qid: int) -> None:
        if kind == quotactl.PRJQUOTA:
            folder, _, name = self.registry.file_of(qid).rpartition("/quota.")
            if folder == self.daemon.paths.vzquota and name.isdigit():
                found = self._load(int(name))
                if found and is_on(found):
                    self._quota(int(name)).shorten(found, just=True)
            return
        for ctid in state.running_ids(self.daemon.paths):
            facts = state.read_facts(self.daemon.paths, ctid)
            if not facts or not facts.broker or not facts.base <= qid < facts.base + facts.count:
                continue
            found = self._load(ctid)
            if found and found.ugid_active:
                fd = quota.open_tree(found.path)
                try:
                    quota.shorten(fd, kind, qid, found.graces_of(kind), just=True)
                finally:
                    os.close(fd)

    def _quota(self, number: int) -> Quota:
        return Quota(number, self.daemon.paths.quota_file(number), self.registry)

    def _load(self, number: int) -> QuotaFile | None:
        try:
            return load(self.daemon.paths.quota_file(number), number)
        except VzError:
            return None
