"""Private areas: how each layout lies in VE_PRIVATE.

overlay   VE_PRIVATE/upper and work, closed to all but root, and tree, a link to the template's tree
simfs     VE_PRIVATE is the root directory of the VPS, a full copy of the template
image     VE_PRIVATE/root.img, closed to all but root: a file system (image.py)

Owners on disk are the VPS's ids as the host sees them, but in an image as the VPS does."""

from __future__ import annotations

import _stat as stat
import os

from vzpy import dist, ns, rootfs, template
from vzpy.events import PostCreate
from vzpy.model import IdRange
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.image import Disk
    from vzpy.template import Progress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

@record
class Area:
    """A private area.

    owner  the ids of its VPS on the host"""

    path: str
    layout: str
    owner: IdRange

    @property
    def ids(self) -> IdRange:
        """Whose the files are in the root that open() gives."""
        return IdRange(0, self.owner.count) if self.layout == "image" else self.owner

    def open(self) -> int:
        """Its root directory, where that is not mounted; no mount of it shows on the host."""
        if self.layout == "simfs":
            return os.open(self.path, _DIRECTORY)
        if self.layout == "image":
            from vzpy import image

            return image.mount(image.path_of(self.path))
        view = ns.idmap_userns(self.owner.map_text())
        try:
            return rootfs.overlay(template.tree_of(self.path), self.path, view)
        finally:
            os.close(view)

    def begin(self, disk: Disk | None = None, tree: str = "") -> int:
        """Lay it out in an empty directory: the directory that a root is to be copied into, for an
        overlay its upper layer.

        disk, tree  what an image is to be, what an overlay stands on"""
        path = self.path
        if self.layout == "image":
            from vzpy import image

            assert disk
            return image.new(image.path_of(path), disk)
        if self.layout == "overlay":
            _overlay(path, tree, self.owner)
            path = f"{path}/upper"
        return os.open(path, _DIRECTORY)


def fill(
    area: Area,
    template_dir: str,
    name: str,
    report: Report,
    progress: Progress | None = None,
    disk: Disk | None = None,
) -> None:
    """Make a new VPS in the empty directory of `area`, from the template `name`.

    disk  what an image is to be
    A cache or tree that is missing is made first. Raises VzError: 91 no such template, 46, 47, 151;
    OSError."""
    if area.layout == "overlay":
        tree = template.ensure_tree(template_dir, name, report, progress)
        _overlay(area.path, tree, area.owner)
    elif area.layout == "image" or _shares_blocks(template_dir, area.path):
        tree = template.ensure_tree(template_dir, name, report, progress)
        _copy(tree, area, disk, progress)
    else:
        tarball = template.ensure_cache(template_dir, name, report, progress)
        _unpack(tarball, area.path, area.owner, progress)
    report(PostCreate())
    root = area.open()
    try:
        dist.post_create(root, area.ids)
    finally:
        os.close(root)


def _overlay(path: str, tree: str, owner: IdRange) -> None:
    about = os.stat(tree)
    os.mkdir(f"{path}/work", 0o700)
    os.mkdir(f"{path}/upper", 0o700)
    # What VPS and host see of "/" itself is upper's.
    os.chown(f"{path}/upper", owner.base + about.st_uid, owner.base + about.st_gid)
    os.chmod(f"{path}/upper", stat.S_IMODE(about.st_mode))
    os.symlink(tree, f"{path}/tree")


def _unpack(tarball: str, path: str, owner: IdRange, progress: Progress | None) -> None:
    from vzpy import treecheck, unpack

    unpack.unpack(tarball, path, owner, progress)
    treecheck.check(path, tarball)
    if os.stat(path).st_uid == 0:  # a tarball without an entry for its top
        os.chown(path, owner.base, owner.base)
        os.chmod(path, 0o755)


def _shares_blocks(one: str, other: str) -> bool:
    """A copy between these folders costs no data."""
    from vzpy import statecopy

    return statecopy.can_reflink(one, other)


def _copy(tree: str, area: Area, disk: Disk | None, progress: Progress | None) -> None:
    from vzpy import statecopy
    from vzpy.story import moving

    source = os.open(tree, _DIRECTORY)
    root = area.begin(disk)
    try:
        total = statecopy.measure(source) if progress else 0
        moving.copy(source, root, IdRange(0, area.owner.count), area.ids, progress, total)
    finally:
        os.close(root)
        os.close(source)


def is_free(private: str) -> bool:
    """Nothing is there, or an empty directory, which the contract accepts; and no snapshots that
    somebody else has left."""
    if os.path.lexists(f"{private}.snapshots"):
        return False
    try:
        return not os.path.islink(private) and not os.listdir(private)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
