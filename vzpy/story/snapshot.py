"""Snapshots of a VPS: made, gone back to, deleted, looked at (vzctl-cli 2.12, migrate.md 4).

All that takes time makes new things beside the old. Then a journal appears by one rename(2), and
says what is still to do: renames, the stack of layers, N.conf, Snapshots.xml. What was cut off
before it never was; what was cut off after it is done by the next command. The memory of running
processes is not kept."""

from __future__ import annotations

import errno
import os
import time

from vzpy import config, rootfs, snapshots
from vzpy.errors import Exit, ValueInvalid, VzError
from vzpy.events import (
    DeletingSnapshot,
    MountingSnapshot,
    NoMemoryKept,
    SnapshotCreated,
    SnapshotDeleted,
    Step,
    Storing,
    Switched,
    SwitchingSnapshot,
    TakingSnapshot,
    UmountingSnapshot,
    Warned,
)
from vzpy.fault import fault
from vzpy.kernel import mount as m
from vzpy.kernel.proc import unescape
from vzpy.story import hold, journal, states, stop
from vzpy.story.states import Change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.snapshots import Snapshot, Tree
    from vzpy.statecopy import Progress
    from vzpy.story.states import States
    from vzpy.vps import VPS

STEPS = ("prepare", *states.STEPS, *journal.STEPS, "collect")

UNTIDY = "Snapshots.untidy"  # layers may be left over, or wait to be merged
# What a snapshot's configuration does not bring back: places, names and ids of today.
_TODAYS = ("VE_ROOT", "VE_PRIVATE", "VE_LAYOUT", "NAME", "VEID", "LOCAL_UID", "LOCAL_GID",
           "LOCAL_IDS")


def tree_of(vps: VPS) -> Tree:
    """Raises VzError 167 when Snapshots.xml cannot be used."""
    return _load(states.of(vps), Exit.LIST_SNAPSHOT)


def _text(tree: Tree) -> str | None:
    """Snapshots.xml; none without snapshots."""
    return snapshots.text(tree) if tree.all else None


def _load(area: States, code: int) -> Tree:
    try:
        return snapshots.load(_xml(area))
    except VzError as err:
        err.code = code
        raise


def _xml(area: States) -> str:
    return f"{area.store}/Snapshots.xml"


def _conf(area: States, guid: str) -> str:
    return f"{area.store}/dump/{guid}.ve.conf"


def _step(name: str, report: Report) -> None:
    report(Step(name=name))
    fault(name)


def create(
    vps: VPS,
    report: Report,
    *,
    guid: str = "",
    name: str = "",
    description: str = "",
    skip_suspend: bool = False,
    skip_config: bool = False,
    progress: Progress | None = None,
) -> str:
    """Make a snapshot; returns its guid. Raises VzError 21 for a guid that is taken, 156."""
    area = states.of(vps)
    tree = _load(area, Exit.CREATE_SNAPSHOT)
    guid = guid or snapshots.new_guid()
    if tree.find(guid):
        raise ValueInvalid(f"Invalid guid {guid} specified: already exists")
    _settle_owner(vps, report)
    facts = vps.facts()
    report(TakingSnapshot(guid=guid))
    if facts and not skip_suspend:
        report(NoMemoryKept())
    _step("prepare", report)
    try:
        area.prepare()
        _mark(area)
        change = kept(vps, area, progress, Exit.CREATE_SNAPSHOT)
        new = snapshots.Snapshot(
            guid=guid,
            name=name,
            description=description,
            date=time.strftime("%Y-%m-%d %H:%M:%S"),
            layers=change.layers,
            running=facts is not None and not skip_suspend,
        )
        files = {_xml(area): snapshots.text(tree.added(new))}
        if not skip_config:
            files[_conf(area, guid)] = _read(vps.conf_path)
        report(Storing(path=_xml(area)))
        journal.commit(area.store, change, files)
    except OSError as err:
        full = err.errno in (errno.ENOSPC, errno.EDQUOT)
        raise VzError.of(
            "Failed to create snapshot", err, Exit.CREATE_SNAPSHOT,
            hint="What was copied is removed again by the next command." if full else "",
        ) from err
    tidy(vps, report)
    report(SnapshotCreated(guid=guid))
    return guid


def _settle_owner(vps: VPS, report: Report) -> None:
    """Owners and ids agree, as before a start. Raises VzError 43, 47."""
    if not os.path.isdir(vps.private):
        raise VzError(f"Container private area {vps.private} does not exist", Exit.FS_NOPRVT)
    if vps.facts() is None and not rootfs.is_mounted(vps.root):
        from vzpy.story import owner

        owner.settle(vps, report)


def kept(vps: VPS, area: States, progress: Progress | None, code: int) -> Change:
    """The present state, kept; a running VPS stands still meanwhile, the shorter the more a first
    copy has of it. Raises OSError, VzError with `code`."""
    facts, ident = vps.facts(), states.new_id()
    draft = area.draft(ident, progress) if facts else None
    with hold.still(facts, code):
        in_use = facts is not None or rootfs.is_mounted(vps.root)
        return area.take(ident, in_use, progress, draft)


def switch(
    vps: VPS,
    report: Report,
    guid: str,
    *,
    skip_resume: bool = False,
    must_resume: bool = False,
    skip_config: bool = False,
    progress: Progress | None = None,
) -> None:
    """Give up the present state for that of a snapshot. Raises VzError 159, and what a stop and
    a start raise."""
    area = states.of(vps)
    tree = _load(area, Exit.SWITCH_SNAPSHOT)
    found = _find(tree, guid, Exit.SWITCH_SNAPSHOT)
    if must_resume:
        raise VzError("Error: no dump in snapshot, unable to resume", Exit.SWITCH_SNAPSHOT)
    report(SwitchingSnapshot(guid=guid))
    if vps.facts():
        stop.stop(vps, report, fast=True)
    elif rootfs.is_mounted(vps.root):
        from vzpy.story.mount import umount_root

        umount_root(vps, vps.root, report)
    _step("prepare", report)
    try:
        _mark(area)
        area.collect(_used(tree))
        change = area.back(found, states.new_id(), progress)
        files = {_xml(area): snapshots.text(tree.switched(guid))}
        conf = None if skip_config else _restored(vps, _conf(area, guid))
        if conf is not None:
            files[os.path.realpath(vps.conf_path)] = conf
        journal.commit(area.store, change, files)
    except OSError as err:
        raise VzError.of("Failed to switch to the snapshot", err, Exit.SWITCH_SNAPSHOT) from err
    vps.reload()
    tidy(vps, report)
    report(Switched())
    if found.running and not skip_resume:
        _start(vps, report)


def _start(vps: VPS, report: Report) -> None:
    from vzpy.story.start import start

    try:
        start(vps, report)
    except VzError as err:
        report(Warned(text=f"{err}\nWarning: failed to resume CT, ignoring"
                           " (use --must-resume option to override)"))


def delete(vps: VPS, report: Report, guid: str) -> None:
    """Remove a snapshot; those that stand on it keep what they need. Raises VzError 158."""
    area = states.of(vps)
    tree = _load(area, Exit.DELETE_SNAPSHOT)
    found = _find(tree, guid, Exit.DELETE_SNAPSHOT)
    if mounts := mounts_of(found):
        raise VzError(f"Snapshot {guid} is mounted on {mounts[0][0]}", Exit.DELETE_SNAPSHOT,
                      hint=f"vzctl snapshot-umount {vps.ctid} --id {guid}")
    report(DeletingSnapshot(guid=guid))
    _step("prepare", report)
    try:
        _mark(area)
        files = {_xml(area): _text(tree.removed(guid)), _conf(area, guid): None}
        journal.commit(area.store, Change(), files)
    except OSError as err:
        raise VzError.of("Failed to delete the snapshot", err, Exit.DELETE_SNAPSHOT) from err
    tidy(vps, report)
    report(SnapshotDeleted(guid=guid))


def mount(vps: VPS, report: Report, guid: str, target: str) -> None:
    """Show a snapshot's files, read-only. Raises VzError 160."""
    area = states.of(vps)
    found = _find(_load(area, Exit.MOUNT_SNAPSHOT), guid, Exit.MOUNT_SNAPSHOT)
    report(MountingSnapshot(guid=guid, target=target))
    try:
        fd = view(area, found)
        try:
            m.move_mount(fd, target)
        finally:
            os.close(fd)
    except OSError as err:
        raise VzError.of("Failed to mount the snapshot", err, Exit.MOUNT_SNAPSHOT) from err


def view(area: States, found: Snapshot) -> int:
    """A detached, read-only mount of a snapshot."""
    return area.view(found.layers, f"{area.folder}/{found.layers[0]}")


def umount(vps: VPS, report: Report, guid: str) -> None:
    """Take all of a snapshot's mounts away. Raises VzError 161."""
    area = states.of(vps)
    found = _find(_load(area, Exit.UMOUNT_SNAPSHOT), guid, Exit.UMOUNT_SNAPSHOT)
    mounts = mounts_of(found)
    if not mounts:
        raise VzError(f"Snapshot {guid} is not mounted", Exit.UMOUNT_SNAPSHOT)
    report(UmountingSnapshot(guid=guid))
    try:
        for target, _ in reversed(mounts):
            m.umount2(target, m.UMOUNT_NOFOLLOW)
    except OSError as err:
        raise VzError.of("Failed to umount the snapshot", err, Exit.UMOUNT_SNAPSHOT) from err
    tidy(vps, report)


def _find(tree: Tree, guid: str, code: int) -> Snapshot:
    found = tree.find(guid)
    if found is None:
        raise VzError(f"Unable to find snapshot by uuid {guid}", code)
    if not found.layers:
        raise VzError(f"Snapshot {guid} names no layers: it is another program's", code)
    return found


def mounts_of(found: Snapshot) -> list[tuple[str, str]]:
    """(mount point, device) of each mount of a snapshot, told by the name of its top layer."""
    if not found.layers:
        return []
    end = f"/layers/{found.layers[0]}"
    mounts = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            root, target = unescape(fields[3]), unescape(fields[4])
            source = unescape(fields[fields.index(b"-") + 2])
            if root.endswith(end) or source.endswith(end) or _backing(source).endswith(end):
                mounts.append((target, source))
    return mounts


def _backing(source: str) -> str:
    """The file of a loop device, "" of anything else."""
    if not source.startswith("/dev/loop"):
        return ""
    try:
        with open(f"/sys/block/{source[5:]}/loop/backing_file") as file:
            return file.read().strip()
    except OSError:
        return ""


def _used(tree: Tree) -> set[str]:
    return {layer for one in tree.all for layer in one.layers}


def sweep(vps: VPS) -> None:
    """Remove what commands left that were cut off. Raises OSError, VzError."""
    area = states.of(vps)
    area.collect(used(area))


def used(area: States) -> set[str]:
    """The layers that snapshots are made of."""
    return _used(snapshots.load(_xml(area)))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _restored(vps: VPS, path: str) -> str | None:
    """N.conf as it was at the time of the snapshot, at today's place and with today's ids; None
    when the snapshot has none."""
    try:
        text = _read(path)
    except FileNotFoundError:
        return None
    return config.edited(text, {key: vps.config.own(key) for key in _TODAYS})


def refuse_mounted(vps: VPS) -> None:
    """Raises VzError 41 while a snapshot is looked at."""
    for one in tree_of(vps).all:
        for target, _ in mounts_of(one):
            raise VzError(
                f"Snapshot {one.guid} is mounted on {target}", Exit.FS_MOUNTED, stdout=True,
                hint=f"vzctl snapshot-umount {vps.ctid} --id {one.guid}",
            )


# After a command, and before the next


def recover(vps: VPS, report: Report) -> None:
    """Do the rest of what was cut off, or put off. Raises VzError."""
    area = states.of(vps)
    if journal.pending(area.store):
        try:
            journal.finish(area.store)
        except (OSError, ValueError) as err:
            raise VzError(f"Unable to finish what was begun with a snapshot: {err}",
                          hint=f"The journal is {journal.path_of(area.store)}") from err
        vps.reload()
    if os.path.exists(f"{area.store}/{UNTIDY}") and not rootfs.is_mounted(vps.root):
        tidy(vps, report)


def _mark(area: States) -> None:
    """What is cut off from here on leaves something, which the quota of the VPS may count."""
    os.close(os.open(f"{area.store}/{UNTIDY}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def tidy(vps: VPS, report: Report) -> None:
    """Give back the room of what no snapshot needs. Layers of a mounted overlay are merged by the
    next command that finds it unmounted: a start, too.

    What fails here is told; the operation is done all the same."""
    area = states.of(vps)
    mark = f"{area.store}/{UNTIDY}"
    try:
        tree = snapshots.load(_xml(area))
        area.collect(_used(tree))
        while names := area.spare([one.layers for one in tree.all]):
            if rootfs.is_mounted(vps.root) or any(mounts_of(one) for one in tree.all):
                _mark(area)
                return
            instead, change = area.merge(names)
            tree = tree.relayered(instead)
            journal.commit(area.store, change, {_xml(area): _text(tree)})
            area.collect(_used(tree))
        if os.path.exists(mark):
            os.unlink(mark)
    except (OSError, VzError) as err:
        report(Warned(text=f"Warning: old layers stay: {err}"))
