"""The story of `vzctl destroy` (vzctl-cli 2.6).

The private area moves aside by one rename and is removed later, by a process of its own. N.conf
goes last: until then whatever was cut short can be done again."""

from __future__ import annotations

import errno
import os

from vzpy import cgroups, ids, names, rootfs, state, template, traffic, vztmp
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import Destroyed, Destroying, Note, Step, Warned
from vzpy.fault import fault
from vzpy.story.create import DESTROYED, recover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS

STEPS = (
    "drop-quota", "remove-private", "release-names", "remove-root", "remove-dump", "rename-config",
    "sweep",
)  # fmt: skip


def destroy(vps: VPS, report: Report) -> None:
    """Remove a VPS that is neither running nor mounted; its lock is the caller's matter.

    Raises VzError: 22, 23, 32 running, 41 mounted, 52 something could not be removed."""

    def step(name: str) -> None:
        report(Step(name=name))
        fault(name)

    private, root, paths = vps.private, vps.root, vps.node.paths
    _refuse_in_use(vps, private, root)
    recover(vps.node, vps.ctid)
    report(Destroying(path=private))
    try:
        step("drop-quota")
        if os.path.exists(paths.quota_file(vps.ctid)):
            from vzpy.story import disk

            disk.drop(paths, vps.ctid)
        step("remove-snapshots")
        beside = _remove_snapshots(vps, private, report)
        step("remove-private")
        area = _remove_private(vps, private, report) or beside
        step("release-names")
        names.release_all(paths, vps.ctid)
        step("remove-root")
        _remove_root(root, report)
        step("remove-dump")
        _remove_dump(vps, report)
        state.forget(paths, vps.ctid)
        state.forget_console(paths, vps.ctid)
        traffic.forget(paths.state, vps.ctid)
        step("rename-config")
        for kind in reversed(DESTROYED):  # conf, the first of them, last
            _rename(f"{paths.conf}/{vps.ctid}.{kind}")
        step("sweep")
        ids.Registry().free(vps.owner)
        if area:
            vztmp.sweep(area)
    except OSError as err:
        raise VzError.of(
            f"Unable to destroy container {vps.ctid}", err, Exit.FS_DEL_PRVT
        ) from err
    report(Destroyed())


def _refuse_in_use(vps: VPS, private: str, root: str) -> None:
    if vps.facts() or _has_processes(vps):
        raise AlreadyRunning("Container is currently running. Stop it first.", stdout=True)
    if rootfs.is_mounted(root):
        raise VzError(
            "Container is currently mounted (umount first)", Exit.FS_MOUNTED, stdout=True
        )
    rootfs.drop_lower(private)
    if any(os.path.isdir(f"{private}{x}/layers") for x in ("", ".snapshots")):
        from vzpy.story import snapshot

        snapshot.refuse_mounted(vps)
    if inside := rootfs.mounts_below(private):
        raise VzError(
            f"Unable to destroy container {vps.ctid}: {inside[0]} is a mount point",
            Exit.FS_DEL_PRVT,
            hint=f"Unmount it (umount {inside[0]}), and try again.",
        )


def _has_processes(vps: VPS) -> bool:
    """Something lives in its cgroup, though its state is lost."""
    try:
        return cgroups.populated(cgroups.path_of(vps.node.paths.cgroup, vps.ctid))
    except OSError:
        return False  # no cgroup2 at all


def _remove_private(vps: VPS, private: str, report: Report) -> str | None:
    """Returns the staging area that waits for its remover, if there is one."""
    if os.path.islink(private):
        target = os.path.realpath(private)
        text = (
            f"Warning: container private area {private} is a symlink to {target}.\n"
            "Not removing link destination, you have to do it manually."
        )
        report(Warned(text=text))
        # Its files keep the ids: so nobody else may have them.
        ids.Registry().bury(vps.owner, target)
        os.unlink(private)
    elif os.path.isdir(private):
        return _move_aside(vps, private, report)
    elif os.path.lexists(private):
        report(Warned(text=f"Warning: container private area {private} is not a directory"))
        os.unlink(private)
    return None


def _move_aside(vps: VPS, private: str, report: Report) -> str | None:
    registry, owner = ids.Registry(), vps.owner
    area = vztmp.staging(private)
    tree = template.named_tree(private)
    try:
        vztmp.move(private, area, lambda entry: registry.bury(owner, entry))
    except OSError as err:
        if err.errno == errno.EXDEV:
            text = f"directory {private} is not on the same filesystem as {area}"
        else:
            text = f"cannot move {private} to {area} ({err.strerror})"
        report(Note(text=f"Warning: {text} - doing slow/sync removal"))
        template.release_tree(private)
        vztmp.remove(private)
        return None
    if tree:
        template.release_tree(private, tree)
    return area


def _remove_snapshots(vps: VPS, private: str, report: Report) -> str | None:
    """Those of a simfs lie beside its private area, of other layouts in it."""
    store = f"{os.path.realpath(private)}.snapshots"
    return _move_aside(vps, store, report) if os.path.isdir(store) else None


def _remove_root(root: str, report: Report) -> None:
    try:
        os.rmdir(root)
    except FileNotFoundError:
        pass
    except OSError as err:
        report(Warned(text=f"Warning: failed to remove {root}: {err.strerror}"))


def _remove_dump(vps: VPS, report: Report) -> None:
    folder = vps.config.raw("DUMPDIR")
    if not folder:
        return
    try:
        vztmp.remove(f"{folder}/Dump.{vps.ctid}")
    except OSError as err:
        report(Warned(text=f"Warning: failed to remove dump file: {err.strerror}"))


def _rename(path: str) -> None:
    try:
        os.rename(path, f"{path}.destroyed")
    except FileNotFoundError:
        pass
