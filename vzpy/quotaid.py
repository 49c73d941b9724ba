"""One quota, by its number: the life of its file and of the limits in the kernel (quota.md 6.4).

    init -> on <-> off -> drop        setlimit, setlimit2, stat, show in between

Counting never stops, since the kernel cannot; `off` takes the limits away. The file is the record:
what it says is on, but was not switched on in this boot, is dirty, and the kernel's count, which
its journal keeps right, is taken. Everything is idempotent, so one that was cut short is repeated.
"""

from __future__ import annotations

import os

from vzpy import qgroup, quota, quotatree
from vzpy.fault import fault
from vzpy.kernel.proc import boot_id, mounts_below
from vzpy.lockfile import Flock
from vzpy.projects import Registry
from vzpy.quotafile import QuotaError, QuotaFile, Row, is_on, load, range_of, save
from vzpy.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import IdRange

STEPS = ("quota-attach", "quota-limit", "quota-file", "quota-saved", "quota-unlimit", "quota-drop")


@record
class Asked:
    """Limits to be stored; None leaves what there is. Space in KiB, times in seconds.

    ids  the range of the VPS whose users and groups are the second level"""

    bsoft: int | None = None
    bhard: int | None = None
    isoft: int | None = None
    ihard: int | None = None
    bgrace: int | None = None
    igrace: int | None = None
    sub_quotas: bool | None = None
    ugid_limit: int | None = None
    ids: IdRange | None = None

    def over(self, had: QuotaFile) -> QuotaFile:
        space = Row(had.space.used, *_merged(
            (self.bsoft, had.space.soft), (self.bhard, had.space.hard),
            (None, had.space.expires), (self.bgrace, had.space.grace),
        ))
        inodes = Row(had.inodes.used, *_merged(
            (self.isoft, had.inodes.soft), (self.ihard, had.inodes.hard),
            (None, had.inodes.expires), (self.igrace, had.inodes.grace),
        ))
        # A new grace counts from now.
        if space.grace != had.space.grace:
            space = replace(space, expires=0)
        if inodes.grace != had.inodes.grace:
            inodes = replace(inodes, expires=0)
        return replace(
            had,
            space=space,
            inodes=inodes,
            ugid_on=had.ugid_on if self.sub_quotas is None else self.sub_quotas,
            ugid_limit=had.ugid_limit if self.ugid_limit is None else self.ugid_limit,
            base=self.ids.base if self.ids else had.base,
            count=self.ids.count if self.ids else had.count,
        )


def _merged(*pairs: tuple[int | None, int]) -> list[int]:
    return [had if new is None else new for new, had in pairs]


class NotPossible(QuotaError):
    """The file system has no project quota, or it is not switched on."""

    code = QuotaError.SYSCALL


class Quota:
    """file    where its record is
    folder  of the node's quota files, when it lies elsewhere

    Methods raise QuotaError, OSError."""

    def __init__(
        self, number: int, file: str, registry: Registry | None = None, folder: str = ""
    ) -> None:
        self.number, self.file = number, file
        self.folder = folder or os.path.dirname(file)
        self.registry = registry or Registry()

    def locked(self) -> Flock:
        """One change of a node's quotas at a time."""
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            return Flock(f"{self.folder}/.lock")
        except OSError as err:
            raise QuotaError.of(f"Cannot lock quota {self.number}", err, QuotaError.LOCK) from err

    def load(self, command: str) -> QuotaFile:
        found = load(self.file, self.number)
        if found is None:
            raise QuotaError(f"Quota file must exist for {command} command", QuotaError.NO_FILE)
        return found

    def running(self) -> QuotaFile:
        """Raises QuotaError 6 when it is off, or was on when the machine stopped."""
        found = load(self.file, self.number)
        if found is None or not is_on(found):
            raise QuotaError(
                "Quota accounting is off, try vzquota show id", QuotaError.NOT_RUNNING
            )
        return found

    def require(self, path: str) -> None:
        """Raises NotPossible."""
        fd = self.open(path)
        try:
            if not quota.enforced(fd):
                raise NotPossible(quota.why_not(path))
        finally:
            os.close(fd)

    # The life of a quota

    def attach(self, path: str) -> int:
        """Put the tree under a project of its own; the project. A tree that has one is not walked.

        Raises NotPossible; QuotaError 8: something is mounted in it."""
        self.require(path)
        if qgroup.is_btrfs_path(path):
            if found := qgroup.ensure(path):
                return found
            raise NotPossible(f"{path} is no subvolume: btrfs can limit nothing else")
        fd = self.open(path)
        try:
            present = quota.project_of(fd)
            project = self.registry.claim(
                self.file, self.number, present, lambda n: quota.is_unused(fd, n)
            )
            if present != project:
                self._walk(path, project)
            return project
        finally:
            os.close(fd)

    def _walk(self, path: str, project: int) -> None:
        if qgroup.is_btrfs_path(path):
            return
        inside = [point for point in mounts_below(path) if point != os.path.realpath(path)]
        if inside:
            raise QuotaError(
                f"{path} crosses a mount point: {inside[0]}", QuotaError.MOUNTPOINTS
            )
        fault("quota-attach")
        quotatree.attach(path, project)

    def init(self, path: str, asked: Asked) -> QuotaFile:
        """Make the file anew, off. Raises QuotaError 5 when it is on."""
        path = os.path.abspath(path)
        with self.locked():
            old = load(self.file, self.number)
            if old and is_on(old):
                raise QuotaError("Quota is running, stop it first", QuotaError.RUNNING)
            made = asked.over(QuotaFile(path, self.attach(path), Row(), Row()))
            made = self._counted(made, path)
            if old is None:  # what a VPS left that had these ids and was removed by hand
                self._clear(made)
            fault("quota-file")
            save(self.file, made)
            return made

    def on(
        self, asked: Asked, path: str = "", force: bool = False, rescan: bool = True,
        slack: int = 0,
    ) -> QuotaFile:
        """slack  see quota.limit(); taken back by tighten()

        Raises QuotaError: 11 no file, 5 it is on (and no force), 3 the kernel refuses."""
        with self.locked():
            had = self.load("on")
            if is_on(had) and not force:
                raise QuotaError("Quota is already running", QuotaError.RUNNING)
            found = asked.over(replace(had, path=os.path.abspath(path) if path else had.path))
            project = self.attach(found.path)
            if force or (had.dirty and rescan):
                self._walk(found.path, project)
            found = replace(found, project=project, dirty=False)
            fd = self.open(found.path)
            try:
                fault("quota-limit")
                self._limit(fd, found)
                active = bool(found.ugid_on and found.ugid_limit and found.base) and all(
                    quota.enforced(fd, kind) for kind in quota.KINDS
                )
                if active and not had.on:
                    # What an earlier holder of these ids left must not hold for these users.
                    quota.unlimit_range(fd, range_of(found))
                    for ugid in found.ugids:
                        quota.limit_ugid(fd, range_of(found), ugid)
            finally:
                os.close(fd)
            found = replace(found, on=True, boot=boot_id(), ugid_active=active)
            found = self._counted(found, found.path)
            fault("quota-file")
            save(self.file, found)
            if slack:
                self._limit_again(found, slack)
            return found

    def tighten(self) -> None:
        """The limits without slack. One that is off is success."""
        with self.locked():
            found = load(self.file, self.number)
            if found and is_on(found):
                self._limit_again(found)

    def _limit_again(self, found: QuotaFile, slack: int = 0) -> None:
        fd = self.open(found.path)
        try:
            self._limit(fd, found, slack)
        finally:
            os.close(fd)

    def off(self, force: bool = False) -> None:
        """Write the use back, take the limits away. Raises QuotaError: 6 it is off, 3."""
        with self.locked():
            had = load(self.file, self.number)
            if had is None or not had.on or not (force or is_on(had)):
                raise QuotaError("Quota is not running", QuotaError.NOT_RUNNING)
            self._off(had)

    def _off(self, had: QuotaFile) -> None:
        """Limits stay in the kernel until the file has them; on repeats a half of this."""
        try:
            fd = self.open(had.path)
        except QuotaError:  # the tree is gone, with all that was counted
            save(self.file, replace(had, on=False, boot="", ugid_active=False))
            return
        try:
            quota.shorten_all(fd, had)  # who tells of a soft limit may not have come to it
            found = self._counted(had, had.path)
            if had.ugid_active:
                found = replace(found, ugids=tuple(quota.ugids(fd, range_of(had))))
            save(self.file, found)
            fault("quota-saved")
            if had.ugid_active:
                quota.unlimit_range(fd, range_of(had))
            fault("quota-unlimit")
            quota.unlimit(fd, had.project)
            save(self.file, replace(found, on=False, boot="", ugid_active=False))
        finally:
            os.close(fd)

    def drop(self, force: bool = False, detach: bool = True) -> None:
        """Remove the file, and the tree from its project. Raises QuotaError 5 when it is on.

        detach  walk the tree; one that is about to be removed needs none"""
        with self.locked():
            try:
                had = load(self.file, self.number)
            except QuotaError:
                had = None  # a broken one
            if had and is_on(had) and not force:
                raise QuotaError("Quota is running, stop it first", QuotaError.RUNNING)
            if had is None and not os.path.exists(self.file):
                raise QuotaError(
                    "Quota file must exist for drop command", QuotaError.NO_FILE
                )
            if had:
                self._clear(had)
                if detach and os.path.isdir(had.path) and not qgroup.is_btrfs_path(had.path):
                    quotatree.attach(had.path, 0)
            fault("quota-drop")
            os.unlink(self.file)
            self.registry.release(self.file)

    def _clear(self, had: QuotaFile) -> None:
        """No limit of this quota is left in the kernel, whatever the file says of on and off."""
        folder = had.path
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        fd = quota.open_tree(folder)
        try:
            quota.unlimit(fd, had.project)
            if had.base:
                quota.unlimit_range(fd, range_of(had))
        finally:
            os.close(fd)

    def setlimit(self, asked: Asked, path: str = "", dirty: bool = False) -> QuotaFile:
        """Store limits, and apply them when it is on."""
        with self.locked():
            had = self.load("setlimit")
            found = asked.over(had)
            if path:
                found = replace(found, path=os.path.abspath(path))
            if is_on(had):
                fd = self.open(found.path)
                try:
                    now = quota.rows(fd, found.project, found.space, found.inodes)
                    found = replace(
                        found, space=_timed(found.space, now[0], 10),
                        inodes=_timed(found.inodes, now[1]),
                    )
                    fault("quota-limit")
                    self._limit(fd, found)
                finally:
                    os.close(fd)
            found = self._counted(found, found.path)
            found = replace(found, dirty=found.dirty or dirty)
            fault("quota-file")
            save(self.file, found)
            return found

    # Looking

    def stat(self, update: bool = True) -> QuotaFile:
        """What the kernel has now; the file is brought up to date. Raises QuotaError 6."""
        found = self.running()
        self.shorten(found)
        found = self.with_ugids(self._counted(found, found.path))
        if update:
            with self.locked():
                save(self.file, found)
        return found

    def shorten(self, found: QuotaFile, just: bool = False) -> None:
        """The grace of the quota in place of that of the file system (quota.shorten_project)."""
        fd = self.open(found.path)
        try:
            quota.shorten_project(fd, found, just)
        finally:
            os.close(fd)

    def with_ugids(self, found: QuotaFile) -> QuotaFile:
        """With the users and groups as the kernel has them now, when they are limited."""
        if not found.ugid_active:
            return found
        fd = self.open(found.path)
        try:
            return replace(found, ugids=tuple(quota.ugids(fd, range_of(found))))
        finally:
            os.close(fd)

    # Parts

    def replace(self, new: QuotaFile) -> None:
        """What vzdqload has read. Raises QuotaError 5 when it is on."""
        with self.locked():
            self.loadable()
            save(self.file, new)

    def loadable(self) -> QuotaFile:
        """What vzdqload is to change. Raises QuotaError 5 when it is on."""
        found = self.load("load")
        if is_on(found):
            raise QuotaError("Quota is running, stop it first", QuotaError.RUNNING)
        return found

    def open(self, path: str) -> int:
        try:
            return quota.open_tree(path)
        except OSError as err:
            raise QuotaError.of(f"Cannot open {path}", err, QuotaError.SYSTEM) from err

    def _limit(self, fd: int, found: QuotaFile, slack: int = 0) -> None:
        try:
            quota.limit(fd, found.project, found.space, found.inodes, slack)
        except OSError as err:
            raise QuotaError.of(
                f"Quota on syscall for id {self.number}", err, QuotaError.SYSCALL
            ) from err

    def _counted(self, found: QuotaFile, path: str) -> QuotaFile:
        fd = self.open(path)
        try:
            space, inodes = quota.rows(fd, found.project, found.space, found.inodes)
            return replace(found, space=space, inodes=inodes)
        finally:
            os.close(fd)


def _timed(asked: Row, now: Row, shift: int = 0) -> Row:
    """The time that runs goes on, unless the grace is another (then asked.expires is 0)."""
    over = quota.is_over(now.used, asked, shift)
    return replace(asked, used=now.used, expires=now.expires if over and asked.expires else 0)


def counted(number: int, file: str) -> QuotaFile | None:
    """A quota with what the kernel counts now, for those who only look: None when it is off, or
    cannot be read."""
    try:
        found = load(file, number)
        return Quota(number, file)._counted(found, found.path) if found and is_on(found) else None
    except (QuotaError, OSError):
        return None
