"""The story of `vz clone`: a stopped VPS once more, under a number of its own.

It is made as `create` makes one, by the same steps and with the same undo; only what the private
area is filled with, and the configuration it begins with, are the other VPS's."""

from __future__ import annotations

import os

from vzpy import config, dist, rootfs, statecopy, template
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import Warned
from vzpy.story import area, create, moving, owner
from vzpy.story.area import Area
from vzpy.story.create_plan import QUOTA, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import IdRange
    from vzpy.statecopy import Progress
    from vzpy.vps import VPS

# What can only be there once.
LEFT_OUT = (
    "IP_ADDRESS", "NETIF", "VETH", "NETDEV", "PCI", "NAME", "VEID", "LOCAL_UID", "LOCAL_GID",
)  # fmt: skip


def clone(
    source: VPS,
    copy: VPS,
    hostname: str,
    name: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Make the VPS `copy` of `source`; both locks are held.

    Raises VzError: 32, 41, 44, 82, 131 and what create raises."""
    source.require()
    source._settle(report)
    if source.facts():
        raise AlreadyRunning("Container is running (stop it first)")
    if rootfs.is_mounted(source.root):
        raise VzError("Container is mounted (umount it first)", Exit.FS_MOUNTED)
    owner.settle(source, report)
    had_keys = False

    def fill(planned: Plan, mine: IdRange) -> None:
        nonlocal had_keys
        new = Area(planned.scratch, planned.layout, mine)
        _copy(Area(os.path.realpath(source.private), source.layout, source.ids), new, report,
              progress)
        root = new.open()
        try:
            had_keys = dist.renew_identity(root, new.ids.base)
            if hostname:
                dist.set_hostname(root, hostname, new.ids)
        finally:
            os.close(root)

    create.make(source.node, copy.ctid, lambda: _plan(source, copy, hostname, name), fill, report)
    copy.reload()
    if had_keys:
        _new_host_keys(copy, report)


def _plan(source: VPS, copy: VPS, hostname: str, name: str) -> Plan:
    node, before = source.node, source.config
    if copy.config.exists:
        raise VzError(f"CT config file {copy.conf_path} already exists", Exit.CP_CONFIG)
    changes = {key: _place(source, key) for key in ("VE_ROOT", "VE_PRIVATE")}
    changes["VE_LAYOUT"] = source.layout
    if hostname:
        changes["HOSTNAME"] = hostname
    if name:
        changes |= {"NAME": name, "VEID": str(copy.ctid)}
    merged = node.config.vps(copy.ctid, source.conf_path, changes)
    private, root = merged.raw("VE_PRIVATE") or "", merged.raw("VE_ROOT") or ""
    if not area.is_free(private):
        raise VzError(f"Private area already exists in {private}", Exit.FS_PRVT_AREA_EXIST)
    with open(source.conf_path, encoding="utf-8", errors="surrogateescape") as file:
        base = config.edited(file.read(), dict.fromkeys(LEFT_OUT))
    has_quota = source.layout != "image" and all(map(merged.value, QUOTA))
    return Plan(
        copy.ctid, copy.conf_path, base, changes, private, root, source.layout,
        before.raw("TEMPLATE") or "", before.raw("OSTEMPLATE") or "", name,
        (None, None, before.own("LOCAL_IDS")), quota=merged if has_quota else None,
    )  # fmt: skip


def _place(source: VPS, key: str) -> str:
    """VE_ROOT or VE_PRIVATE as the source says it, when its number is in it, else as vz.conf."""
    literal = source.config.literal(key) or ""
    named = "$VEID" in literal or "${VEID}" in literal
    return literal if named else source.node.config.literal(key) or ""


def _copy(old: Area, new: Area, report: Report, progress: Progress | None) -> None:
    """Fill the new area, whose layout is the old one's. Raises OSError, VzError."""
    if old.layout == "image":
        from vzpy import image

        image.duplicate(image.path_of(old.path), image.path_of(new.path), statecopy.Copy().data)
        return
    tree = template.tree_of(old.path) if old.layout == "overlay" else ""
    if tree and rootfs.layers_of(old.path):
        from vzpy.story.convert import transfer

        transfer(old, new, None, tree, report, progress)
        return
    top = f"{old.path}/upper" if tree else old.path
    there = new.begin(tree=tree)
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        total = statecopy.measure(here) if progress else 0
        moving.copy(here, there, old.ids, new.ids, progress, total, is_layer=bool(tree))
    finally:
        os.close(here)
        os.close(there)


def _new_host_keys(copy: VPS, report: Report) -> None:
    """By its own ssh-keygen, inside: nobody else knows which kinds it wants. Best effort."""
    from vzpy.story import enter, pump
    from vzpy.story.start import stopped_but_entered

    try:
        with stopped_but_entered(copy) as facts:
            what = enter.program([b"ssh-keygen", b"-A"])
            done = pump.run(facts, what, timeout=60, filter_cache=copy.node.paths.state)
        why = "" if not done.returncode else f"ssh-keygen ended with {done.returncode}"
    except (VzError, OSError) as err:
        why = str(err)
    if why:
        report(Warned(text=f"Warning: the container has no ssh host keys now: {why}"))
