"""What is done to the files of a VPS: snapshots, backups, its layout. Part of vps.VPS."""

from __future__ import annotations

from vzpy.events import silent
from vzpy.identity import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vzpy.backup import Job
    from vzpy.events import Report
    from vzpy.snapshots import Snapshot
    from vzpy.statecopy import Progress
    from vzpy.vps import VPS


class Storage(Identity):
    """Each method is one story, under the lock of the VPS."""

    @property
    def _vps(self) -> VPS:
        return self  # type: ignore[return-value]  # nothing else has this part

    if TYPE_CHECKING:

        def locked(
            self, report: Report = silent, word: str = ""
        ) -> AbstractContextManager[object]: ...

        def _settle(self, report: Report) -> None: ...

    def snapshot(
        self,
        *,
        guid: str = "",
        name: str = "",
        description: str = "",
        skip_suspend: bool = False,
        skip_config: bool = False,
        report: Report = silent,
        progress: Progress | None = None,
    ) -> str:
        """Keep the present state of files and configuration; the new snapshot's guid.

        progress  called with (bytes done, total) while something is copied
        Raises VzError 21, 156."""
        from vzpy.story import snapshot

        self.require()
        with self.locked(report):
            self._settle(report)
            return snapshot.create(
                self._vps, report, guid=guid, name=name, description=description,
                skip_suspend=skip_suspend, skip_config=skip_config, progress=progress,
            )  # fmt: skip

    def snapshot_switch(
        self,
        guid: str,
        *,
        skip_resume: bool = False,
        must_resume: bool = False,
        skip_config: bool = False,
        report: Report = silent,
        progress: Progress | None = None,
    ) -> None:
        """Go back to a snapshot: what the VPS is now is lost. Raises VzError 159, 33, 51, 79."""
        from vzpy.story import snapshot

        self.require()
        with self.locked(report):
            self._settle(report)
            snapshot.switch(
                self._vps, report, guid, skip_resume=skip_resume, must_resume=must_resume,
                skip_config=skip_config, progress=progress,
            )  # fmt: skip
        self.reload()

    def snapshot_delete(self, guid: str, *, report: Report = silent) -> None:
        """Raises VzError 158."""
        from vzpy.story import snapshot

        self.require()
        with self.locked(report):
            self._settle(report)
            snapshot.delete(self._vps, report, guid)

    def snapshot_mount(self, guid: str, target: str, *, report: Report = silent) -> None:
        """Show a snapshot's files on the host, read-only. Raises VzError 160."""
        from vzpy.story import snapshot

        self.require()
        with self.locked(report):
            self._settle(report)
            snapshot.mount(self._vps, report, guid, target)

    def snapshot_umount(self, guid: str, *, report: Report = silent) -> None:
        """Raises VzError 161."""
        from vzpy.story import snapshot

        self.require()
        with self.locked(report):
            self._settle(report)
            snapshot.umount(self._vps, report, guid)

    def snapshots(self) -> list[Snapshot]:
        """What snapshots there are, each after what it stands on."""
        from vzpy.story import snapshot

        return snapshot.tree_of(self._vps).all

    def convert(
        self, layout: str = "image", *, report: Report = silent, progress: Progress | None = None
    ) -> bool:
        """Give a stopped VPS another layout: overlay, simfs or image[:MODE,...].

        False when it has it already. Raises VzError: 32 running, 41 mounted, 63, 155."""
        from vzpy.story.convert import convert

        self.require()
        with self.locked(report):
            self._settle(report)
            done = convert(self._vps, layout, report, progress)
        self.reload()
        return done

    def dump(
        self,
        job: Job,
        *,
        path: str = "",
        hook: Callable[[str], None] = lambda phase: None,
        report: Report = silent,
        progress: Progress | None = None,
    ) -> str:
        """Write an archive that vzrestore takes; its path.

        path      another than one in the dump directory of the job, by number and time
        hook      called with the phases of a stop: pre-stop, pre-restart
        progress  called with (bytes done, total)
        Raises VzError."""
        from vzpy.story.dump import dump

        self.require()
        with self.locked(report):
            self._settle(report)
            return dump(self._vps, job, report, path=path, hook=hook, progress=progress)

    def compact(self, *, report: Report = silent) -> None:
        """Give the free space of an image back to the host, whether it runs or not.

        Raises VzError 166, for another layout too."""
        from vzpy.story.compact import compact

        self.require()
        with self.locked(report):
            self._settle(report)
            compact(self._vps, report)
