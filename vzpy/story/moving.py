"""Trees of files that go from one VPS or layout to another: a copy whose owners are of another id
range. Device nodes that a VPS could not have made are left behind."""

from __future__ import annotations

import os
import stat
from errno import ENOTSUP

from vzpy.kernel.caps import make_files_as
from vzpy.reshift import Move
from vzpy.statecopy import Copy, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import IdRange
    from vzpy.statecopy import Progress

# null zero full random urandom, tty console ptmx; 0:0 is what mknod(2) makes in a VPS
_HARMLESS = {(0, 0)} | {(1, n) for n in (3, 5, 7, 8, 9)} | {(5, n) for n in (0, 1, 2)}
_ACL, _CAPABILITY = "system.posix_acl_", "security.capability"


def copy(
    source: int,
    target: int,
    old: IdRange,
    new: IdRange,
    progress: Progress | None = None,
    total: int = 0,
    is_layer: bool = False,
) -> None:
    """Fill the empty directory `target` with what is in `source`, and give it its attributes.

    source, target  descriptors of directories, O_PATH will do
    old, new        whose ids the owners are, and whose they become
    progress        called with (bytes done, total)
    is_layer        an upper layer of ours: with overlayfs's own marks
    Raises OSError with the path below the top: EOVERFLOW for an owner outside of `old`."""
    # "." because a link in /proc is not followed as a last component
    moved = _Moved(old, new, progress, total, is_layer)
    make_files_as(new.base)  # most are root's
    try:
        moved.tree(source, f"/proc/self/fd/{target}/.")
    finally:
        make_files_as(0)


class _Moved(Copy):
    def __init__(
        self, old: IdRange, new: IdRange, progress: Progress | None, total: int, is_layer: bool
    ) -> None:
        super().__init__(progress, total)
        self._move = Move(old, new)
        self._kept: tuple[str, ...] = ("user.", _ACL, _CAPABILITY)
        if is_layer:
            self._kept = (*self._kept, "trusted.overlay.")

    def wants(self, status: os.stat_result) -> bool:
        return not _is_harmful(status)

    def keep(
        self, source: int | str, target: int | str, status: os.stat_result, *, follow: bool
    ) -> None:
        """Owner, then mode (chown clears set-id bits), then the rest (and capabilities)."""
        if stat.S_ISCHR(status.st_mode) and not status.st_rdev and not status.st_uid:
            uid = gid = 0  # a whiteout that the kernel made for overlayfs
        else:
            uid, gid = self._move.id(status.st_uid), self._move.id(status.st_gid)
        own(target, uid, gid, status.st_mode, follow=follow)
        if not stat.S_ISLNK(status.st_mode):
            for name in os.listxattr(source, follow_symlinks=follow):
                if name.startswith(self._kept):
                    value = os.getxattr(source, name, follow_symlinks=follow)
                    self._put(target, name, value, follow)
        times = status.st_atime_ns, status.st_mtime_ns
        os.utime(target, ns=times, follow_symlinks=follow)

    def _put(self, target: int | str, name: str, value: bytes, follow: bool) -> None:
        if name.startswith(_ACL):
            value = self._move.acl(value)
        elif name == _CAPABILITY:
            value = self._move.capability(value)
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as err:
            # A file system without ACLs or user attributes serves; a program without its
            # capability does not.
            if err.errno != ENOTSUP or name == _CAPABILITY:
                raise


def _is_harmful(status: os.stat_result) -> bool:
    device = os.major(status.st_rdev), os.minor(status.st_rdev)
    mode = status.st_mode
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode) and device not in _HARMLESS
