"""The story of `vzctl convert`: the private area in another layout (vzctl-cli 2.11).

The new area is made beside the old one. A journal, N.conf.converting, says how far it has come:
while it says COPYING the old area is the VPS, and what was made is thrown away; once it says DONE,
the new one is, and whoever comes next finishes what is left."""

from __future__ import annotations

import os

from vzpy import config, rootfs, statecopy, template, vztmp
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import Converted, CopyingContent, CreatingImage, Step
from vzpy.fault import fault
from vzpy.image import Disk, path_of
from vzpy.model import IdRange, layout_name
from vzpy.story import owner, thinning
from vzpy.story.area import Area

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.statecopy import Progress
    from vzpy.vps import VPS

STEPS = ("copying", "copy", "thin", "done", "aside", "in-place", "tree", "config", "remove-old")
COPYING, DONE = "copying", "done"


def convert(vps: VPS, spec: str, report: Report, progress: Progress | None = None) -> bool:
    """Give a VPS the layout `spec` (a VE_LAYOUT; modes are an image's); its lock is held.

    False when it has it already. Raises VzError: 32 running, 41 mounted, 63 no DISKSPACE for an
    image, 155."""
    layout, before = layout_name(spec), vps.layout
    if layout == before:
        return False
    if vps.facts():
        raise AlreadyRunning("CT is running (stop it first)")
    if rootfs.is_mounted(vps.root):
        raise VzError("CT is mounted (umount it first)", Exit.FS_MOUNTED)
    disk = disk_of(vps, spec) if layout == "image" else None
    private = os.path.realpath(vps.private)
    if rootfs.is_mounted(private):
        raise VzError(f"{private} is a mount point, it cannot be replaced", Exit.CONVERT)
    if os.path.lexists(_old(private)):
        raise VzError(f"{_old(private)} is in the way", Exit.CONVERT, hint="It is none of ours.")
    _refuse_snapshots(vps)
    owner.settle(vps, report)
    called = spec.partition(":")[0]
    try:
        _journal(vps, COPYING, layout)
        try:
            _step("copying", report)
            vztmp.remove(_new(private))
            os.mkdir(_new(private), 0o700)
            if disk:
                path = path_of(private)
                report(CreatingImage(path=path, kib=disk.size >> 10))
            report(CopyingContent(layout=called))
            _fill(vps, private, layout, disk, report, progress)
            _step("done", report)
            _journal(vps, DONE, layout)
        except BaseException as failure:
            try:
                recover(vps)
            except VzError as left:  # the next command tries again
                failure.add_note(str(left))
            raise
        _finish(vps, layout)
    except OSError as err:
        raise VzError.of(f"Unable to convert the container to {called}", err, Exit.CONVERT) from err
    except VzError as err:
        err.code = Exit.CONVERT
        raise
    report(Converted(layout=called))
    return True


def disk_of(vps: VPS, spec: str) -> Disk:
    """Raises VzError 63."""
    space = vps.config.value("DISKSPACE")
    if not space:
        raise VzError("Error: diskspace not set", Exit.DISKSPACE_NOT_SET)
    return Disk.of(space[1], tuple(spec.partition(":")[2].split(",")))


def _refuse_snapshots(vps: VPS) -> None:
    from vzpy.story import snapshot

    if snapshot.tree_of(vps).all:
        raise VzError(
            "The container has snapshots, which stay in their layout",
            Exit.CONVERT,
            hint="Delete them (vzctl snapshot-delete), and try again.",
        )


def _new(private: str) -> str:
    return f"{private}.tmp"


def _old(private: str) -> str:
    return f"{private}.old"


def _fill(
    vps: VPS,
    private: str,
    layout: str,
    disk: Disk | None,
    report: Report,
    progress: Progress | None,
) -> None:
    """Make the new area from the old one. Raises OSError, VzError."""
    tree = ""
    if layout == "overlay":
        folder, name = vps.config.raw("TEMPLATE") or "", vps.config.raw("OSTEMPLATE") or ""
        tree = template.ensure_tree(folder, template.resolve_name(folder, name), report)
    old = Area(private, vps.layout, vps.ids)
    transfer(old, Area(_new(private), layout, vps.ids), disk, tree, report, progress)


def transfer(
    old: Area,
    new: Area,
    disk: Disk | None,
    tree: str,
    report: Report,
    progress: Progress | None,
) -> None:
    """Fill the empty area `new` with what `old` shows, which nobody has mounted.

    disk, tree  what an image is to be, what an overlay stands on
    Raises OSError, VzError."""
    from vzpy.kernel.syncfs import syncfs
    from vzpy.story import moving

    _step("copy", report)
    source = old.open()
    try:
        target = new.begin(disk, tree)
        try:
            total = statecopy.measure(source) if progress else 0
            moving.copy(source, target, old.ids, new.ids, progress, total)
            if new.layout == "overlay":
                _step("thin", report)
                thinning.thin(f"{new.path}/upper", tree, IdRange(0, new.ids.count), new.ids)
            syncfs(".", target)
        finally:
            os.close(target)
    finally:
        os.close(source)


# The journal


def journal_of(vps: VPS) -> str:
    return f"{vps.conf_path}.converting"


def _journal(vps: VPS, state: str, layout: str) -> None:
    path = journal_of(vps)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(f"{state} {layout}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)
    config.sync_folder(os.path.dirname(path))


def recover(vps: VPS) -> None:
    """Take back, or finish, a conversion that was cut short; the lock is held.

    Raises VzError 155."""
    try:
        with open(journal_of(vps), encoding="ascii") as file:
            state, _, layout = file.read().strip().partition(" ")
        if state == DONE:
            _finish(vps, layout)
            return
        private = os.path.realpath(vps.private)
        rootfs.umount(_new(private))  # the moment of a lower layer, when we were killed in it
        vztmp.remove(_new(private))
        os.unlink(journal_of(vps))
    except OSError as err:
        raise VzError.of("Unable to end a conversion of the layout", err, Exit.CONVERT) from err


def _finish(vps: VPS, layout: str) -> None:
    """From DONE on; each part may have been done before."""
    private = os.path.realpath(vps.private)
    new, old = _new(private), _old(private)
    fault("aside")
    if os.path.lexists(new):
        if os.path.lexists(private):
            os.rename(private, old)
        fault("in-place")
        os.rename(new, private)
    fault("tree")
    if layout == "overlay":
        template.record_tree(private, os.readlink(f"{private}/tree"))
    elif tree := template.named_tree(old):
        template.release_tree(private, tree)
    if os.path.exists(vps.node.paths.quota_file(vps.ctid)):
        from vzpy.story import disk

        disk.drop(vps.node.paths, vps.ctid)  # of the old area; the next start begins one
    fault("config")
    config.save(vps.conf_path, {"VE_LAYOUT": layout})
    vps.reload()
    fault("remove-old")
    vztmp.remove(old)
    os.unlink(journal_of(vps))


def _step(name: str, report: Report) -> None:
    report(Step(name=name))
    fault(name)
