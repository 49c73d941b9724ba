"""The story of `vzctl create`: from an OS template to a VPS that can be started (vzctl-cli 4).

Everything is built beside its place: the private area in VE_PRIVATE.tmp, the configuration in
N.conf.creating. That file is the journal too. It appears before anything of the VPS does and
becomes N.conf by one rename(2), so a create that was killed is told from one that was finished,
and the next one takes back what the first had made."""

from __future__ import annotations

import errno
import os

from vzpy import config, ids, names, rootfs, scripts, template, vztmp
from vzpy.errors import Exit, VzError
from vzpy.events import (
    ConfigSaved,
    Created,
    CreateScriptFailed,
    Creating,
    NameAssigned,
    Step,
    Warned,
)
from vzpy.fault import fault
from vzpy.kernel.syncfs import fsync, sync_tree
from vzpy.story import area
from vzpy.story.create_plan import plan, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vzpy.events import Report
    from vzpy.model import IdRange
    from vzpy.node import Node
    from vzpy.story.create_plan import Plan
    from vzpy.template import Progress

    Undo = list[tuple[Callable[..., object], tuple[object, ...]]]

STEPS = (
    "ids",
    "scratch",
    "journal",
    "name",
    "build",
    "root",
    "private",
    "tree",
    "config",
    "create-script",
)
FAILED = "Creation of container private area failed"
DESTROYED = ("conf", "premount", "mount", "umount", "postumount", "start", "stop")


def create(
    node: Node,
    ctid: int,
    given: Mapping[str, object],
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Make VPS `ctid`; its lock is the caller's matter.

    given     parameters by the names of their options, values or texts
    progress  called with (done, total) while a template is built or unpacked
    Whatever goes wrong, an interrupt too, leaves things as they were. Raises VzError: 21, 22, 23,
    24, 29, 44, 46, 47, 48, 79, 82, 91, 99, 131 and what building a template raises."""
    asked, sample = settings(given)

    def fill(planned: Plan, mine: IdRange) -> None:
        new = area.Area(planned.scratch, planned.layout, mine)
        area.fill(
            new, planned.template_dir, planned.template, report, progress, planned.disk
        )

    make(node, ctid, lambda: plan(node, ctid, asked, sample, report), fill, report)


def make(
    node: Node,
    ctid: int,
    planned: Callable[[], Plan],
    fill: Callable[[Plan, IdRange], None],
    report: Report,
    restored: bool = False,
) -> None:
    """The story itself, whatever the private area is filled with.

    fill      called with what is planned, whose `scratch` is an empty directory, and the ids
    restored  from an archive: no template is told of, and the hook vps.create is not run"""
    undo: Undo = []
    try:
        recover(node, ctid)
        try:
            _steps(node, planned(), fill, undo, report, restored)
        except BaseException:
            while undo:
                _undo(report, *undo.pop())
            raise
    except VzError as err:
        err.message = f"{err.message}\n{FAILED}" if err.message else FAILED
        raise
    report(Created())


# The steps


def _steps(
    node: Node,
    plan: Plan,
    fill: Callable[[Plan, IdRange], None],
    undo: Undo,
    report: Report,
    restored: bool,
) -> None:
    current = ""

    def step(name: str) -> None:
        nonlocal current
        current = name
        report(Step(name=name))
        fault(name)

    def undone(what: Callable[..., object], *args: object) -> None:
        undo.append((what, args))

    paths, ctid = node.paths, plan.ctid
    owner = ids.Owner(paths.etc, ctid, plan.private)
    registry = ids.Registry()
    try:
        step("ids")
        undone(registry.free, owner)
        mine = ids.range_of(*plan.local)
        if mine is None:
            mine = registry.allocate(owner, ids.count_of(plan.local[2]))
        else:
            registry.claim(owner, mine)
        changes = {**plan.changes, "LOCAL_UID": str(mine.base), "LOCAL_GID": str(mine.base)}

        step("scratch")
        os.makedirs(os.path.dirname(plan.private), 0o700, exist_ok=True)
        if os.path.lexists(plan.scratch):
            report(Warned(text=f"Warning: Temp dir {plan.scratch} already exists, deleting"))
            _discard(plan.scratch)
        os.mkdir(plan.scratch, 0o700)
        undone(_discard, plan.scratch)
        step("journal")
        _write_journal(plan, changes)
        undone(_unlink, plan.journal)

        step("name")
        if plan.name:
            names.assign(paths, ctid, plan.name)
            undone(names.release, paths, ctid, plan.name)
            report(NameAssigned(name=plan.name))
        step("build")
        if not restored:
            report(Creating(template=plan.template))
        if plan.quota:
            from vzpy.story import disk

            undone(disk.drop, paths, ctid)
            disk.made(paths, ctid, plan, mine, report)
        fill(plan, mine)
        step("root")
        if not os.path.isdir(plan.root):
            _make_root(plan.root)
            undone(os.rmdir, plan.root)

        step("private")
        os.rename(plan.scratch, plan.private)
        undone(_discard, plan.private)
        if plan.quota:
            disk.moved(paths, ctid, plan)
        step("tree")
        if plan.layout == "overlay":
            undone(template.release_tree, plan.private)
            template.record_tree(plan.private, os.readlink(f"{plan.private}/tree"))
        step("config")
        sync_tree(plan.private)  # else a power cut may leave N.conf, and empty files
        fsync(plan.journal)
        registry.sync()
        before = _commit(plan, changes, undone)
        report(ConfigSaved(path=plan.conf))
        step("create-script")
        if not restored:
            _run_hook(node, plan, report)
        if before:
            os.unlink(before)
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT)
        code = Exit.FS_NO_DISK_SPACE if full else Exit.FS_NEW_VE_PRVT
        raise VzError.of("Unable to create the container", err, code, step=current) from err
    for kind in DESTROYED:
        _unlink(f"{paths.conf}/{ctid}.{kind}.destroyed")


def _undo(report: Report, what: Callable[..., object], args: tuple[object, ...]) -> None:
    """An undo that fails hides neither the first error nor the undos after it."""
    try:
        what(*args)
    except (OSError, VzError) as err:
        report(Warned(text=f"Warning: cannot undo: {err}"))


def _write_journal(plan: Plan, changes: dict[str, str]) -> None:
    """N.conf as it will be, under the name that says that it is not one yet; by one rename."""
    new = f"{plan.journal}.new"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(config.edited(plan.base, changes))
    os.rename(new, plan.journal)


def _make_root(root: str) -> None:
    try:
        os.makedirs(root, 0o755)
    except OSError as err:
        raise VzError.of(f"Can't create mount point {root}", err, Exit.FS_MPOINTCREATE) from err


def _commit(plan: Plan, changes: dict[str, str], undone: Callable[..., None]) -> str | None:
    """N.conf is there. One that was there before keeps its place, links and all; where its text is
    kept, in case it has to be put back."""
    if not os.path.lexists(plan.conf):
        undone(_unlink, plan.conf)
        os.rename(plan.journal, plan.conf)
        config.sync_folder(os.path.dirname(plan.conf))
        return None
    target = os.path.realpath(plan.conf)
    before = f"{target}.before"
    _unlink(before)
    os.link(target, before)
    undone(os.rename, before, target)
    config.save(target, changes)
    _unlink(plan.journal)
    return before


def _run_hook(node: Node, plan: Plan, report: Report) -> None:
    script = scripts.create_script(node.paths)
    if script and (why := scripts.execute(script, node.paths, plan.ctid)):
        report(CreateScriptFailed(path=script))
        raise VzError("", Exit.ACTIONSCRIPT, step="create-script", hint=f"{script}: {why}")


# What a create that was killed left


def recover(node: Node, ctid: int) -> None:
    """Take back what a create of this number left that was killed. Its lock is the caller's matter.

    A private area that N.conf names is a VPS, whatever was going on, and stays."""
    conf = f"{node.paths.conf}/{ctid}.conf"
    journal = f"{conf}.creating"
    if not os.path.exists(journal):
        return
    left, now = node.config.vps(ctid, journal), node.config.vps(ctid, conf)
    private, root, name = left.raw("VE_PRIVATE"), left.raw("VE_ROOT"), left.own("NAME")
    try:
        if private:
            is_vps = now.exists and now.raw("VE_PRIVATE") == private
            if not is_vps and not os.path.exists(f"{private}.tmp"):
                template.release_tree(private)
                _discard(private)
            _discard(f"{private}.tmp")
        if name and now.own("NAME") != name:
            names.release(node.paths, ctid, name)
        if not now.exists and os.path.exists(node.paths.quota_file(ctid)):
            from vzpy.story import disk

            disk.drop(node.paths, ctid)
        if root and not now.exists and os.path.isdir(root) and not rootfs.is_mounted(root):
            os.rmdir(root)
        _unlink(journal)
    except OSError as err:
        raise VzError.of(
            f"Unable to take back an unfinished creation of container {ctid}",
            err,
            Exit.FS_NEW_VE_PRVT,
        ) from err


def _discard(path: str) -> None:
    """Remove an unfinished private area. Absence is success."""
    rootfs.umount(path)  # the moment of a lower layer, when we were killed in it
    vztmp.remove(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
