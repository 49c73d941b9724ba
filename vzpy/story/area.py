"""Private areas: how each layout lies in VE_PRIVATE.

overlay   VE_PRIVATE/upper and work, closed to all but root, and tree, a link to the template's tree
simfs     VE_PRIVATE is the root directory of the VPS, a full copy of the template

Owners on disk are the VPS's ids as the host sees them."""

from __future__ import annotations

import os
import stat

from vzpy import dist, ns, rootfs, template, treecheck, unpack
from vzpy.errors import Exit, VzError
from vzpy.events import PostCreate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import IdRange
    from vzpy.template import Progress


def fill(
    area: str,
    layout: str,
    template_dir: str,
    name: str,
    owner: IdRange,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Make a new VPS in the empty directory `area`, from the template `name`.

    A cache or tree that is missing is made first. Raises VzError: 91 no such template, 46, 47, 99;
    OSError."""
    if layout == "overlay":
        _overlay(area, template.ensure_tree(template_dir, name, report, progress), owner)
    elif layout == "simfs":
        _simfs(area, template.ensure_cache(template_dir, name, report, progress), owner, progress)
    else:
        raise VzError(f"Layout {layout} is not supported", Exit.PLOOP_UNSUP)
    report(PostCreate())
    root = _open_root(area, layout, owner)
    try:
        dist.post_create(root, owner)
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


def _open_root(area: str, layout: str, owner: IdRange) -> int:
    """The root directory as the VPS will find it; no mount shows on the host."""
    if layout == "simfs":
        return os.open(area, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
