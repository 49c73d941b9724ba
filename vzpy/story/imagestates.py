"""States of the layout image: copies of VE_PRIVATE/root.img (see states.py)."""

from __future__ import annotations

import os

from vzpy import image, statecopy
from vzpy.fault import fault
from vzpy.story.states import Change, States

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.snapshots import Snapshot
    from vzpy.statecopy import Progress


class Image(States):
    @property
    def path(self) -> str:
        return image.path_of(self.private)

    def take(
        self,
        ident: str,
        in_use: bool,
        progress: Progress | None,
        draft: statecopy.Copy | None = None,
    ) -> Change:
        fault("copy")
        statecopy.copy_file(self.path, f"{self.folder}/{ident}", progress)
        return Change(layers=(ident,), copied=True)

    def back(self, snapshot: Snapshot, ident: str, progress: Progress | None) -> Change:
        fault("copy")
        new, gone = f"{self.folder}/{ident}.new", f"{self.folder}/{ident}.gone"
        statecopy.copy_file(f"{self.folder}/{snapshot.layers[0]}", new, progress)
        return Change(((self.path, gone), (new, self.path)), copied=True)

    def view(self, names: tuple[str, ...], mark: str) -> int:
        """By a read-only file system: not even the journal of a snapshot is written to.

        Two XFS with one uuid are refused otherwise."""
        path = os.path.join(self.folder, names[0])
        options = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}[image.fs_of(path)]
        return image.mount(path, options, read_only=True)

    def present(self) -> int:
        return image.mount(self.path, read_only=True)
