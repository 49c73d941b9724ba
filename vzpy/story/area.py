"""Private areas: how each layout lies in VE_PRIVATE.

overlay   VE_PRIVATE/upper and work, closed to all but root, and tree, a link to the template's tree
simfs     VE_PRIVATE is the root directory of the VPS, a full copy of the template
image     VE_PRIVATE/root.img, closed to all but root: a file system (image.py)

Owners on disk are the VPS's ids as the host sees them, but in an image as the VPS does."""

from __future__ import annotations

import os
import stat

from vzpy import dist, ns, rootfs, template, treecheck, unpack
from vzpy.events import PostCreate
from vzpy.model import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.image import Disk
    from vzpy.template import Progress


def fill(
    area: str,
    layout: str,
    template_dir: str,
    name: str,
    owner: IdRange,
    report: Report,
    progress: Progress | None = None,
    disk: Disk | None = None,
) -> None:
    """Make a new VPS in the empty directory `area`, from the template `name`.

    disk  what an image is to be
    A cache or tree that is missing is made first. Raises VzError: 91 no such template, 46, 47, 151;
    OSError."""
    if layout == "overlay":
        _overlay(area, template.ensure_tree(template_dir, name, report, progress), owner)
    elif layout == "simfs" and not _shares_blocks(template_dir, area):
        _simfs(area, template.ensure_cache(template_dir, name, report, progress), owner, progress)
    else:
        tree = template.ensure_tree(template_dir, name, report, progress)
        _copied(area, layout, tree, owner, disk, progress)
    report(PostCreate())
    root = open_root(area, layout, owner)
    try:
        dist.post_create(root, ids_in(layout, owner))
    finally:
        os.close(root)


def _overlay(area: str, tree: str, owner: IdRange) -> None:
    about = os.stat(tree)
    os.mkdir(f"{area}/work", 0o700)
    os.mkdir(f"{area}/upper", 0o700)
    # What VPS and host see of "/" itself is upper's.
    os.chown(f"{area}/upper", owner.base + about.st_uid, owner.base + about.st_gid)
    os.chmod(f"{area}/upper", stat.S_IMODE(about.st_mode))
    os.symlink(tree, f"{area}/tree")


def _simfs(area: str, tarball: str, owner: IdRange, progress: Progress | None) -> None:
    unpack.unpack(tarball, area, owner, progress)
    treecheck.check(area, tarball)
    if os.stat(area).st_uid == 0:  # a tarball without an entry for its top
        os.chown(area, owner.base, owner.base)
        os.chmod(area, 0o755)


def _shares_blocks(one: str, other: str) -> bool:
    """A copy between these folders costs no data."""
    from vzpy import statecopy

    return statecopy.can_reflink(one, other)


def _copied(
    area: str,
    layout: str,
    tree: str,
    owner: IdRange,
    disk: Disk | None,
    progress: Progress | None,
) -> None:
    from vzpy import statecopy
    from vzpy.story import moving

    source = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    root = empty_root(area, layout, owner, disk)
    try:
        total = statecopy.measure(source) if progress else 0
        template_ids = IdRange(0, owner.count)
        moving.copy(source, root, template_ids, ids_in(layout, owner), progress, total)
    finally:
        os.close(root)
        os.close(source)


def empty_root(
    area: str, layout: str, owner: IdRange, disk: Disk | None = None, tree: str = ""
) -> int:
    """A descriptor of the directory that a new root is copied into, for an overlay its upper layer.

    disk, tree  what an image is to be, what an overlay stands on"""
    if layout == "image":
        from vzpy import image

        assert disk
        return image.new(image.path_of(area), disk)
    if layout == "overlay":
        _overlay(area, tree, owner)
        area = f"{area}/upper"
    return os.open(area, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def ids_in(layout: str, owner: IdRange) -> IdRange:
    """Whose the files are in the root that open_root() gives."""
    return IdRange(0, owner.count) if layout == "image" else owner


def open_root(area: str, layout: str, owner: IdRange) -> int:
    """The root directory of an area that is not mounted; no mount of it shows on the host."""
    if layout == "simfs":
        return os.open(area, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if layout == "image":
        from vzpy import image

        return image.mount(image.path_of(area))
    view = ns.idmap_userns(owner.map_text())
    try:
        return rootfs.overlay(template.tree_of(area), area, view)
    finally:
        os.close(view)


def is_free(private: str) -> bool:
    """Nothing is there, or an empty directory, which the contract accepts."""
    try:
        return not os.path.islink(private) and not os.listdir(private)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
