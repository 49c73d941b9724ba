"""What `vzctl create` is asked to make, checked before anything is made (vzctl-cli 4)."""

from __future__ import annotations

import os

from vzpy import actions, config, options, params, rootfs, template, values
from vzpy.errors import Exit, UsageError, ValueInvalid, VzError
from vzpy.events import ConfExists
from vzpy.model import layout_name
from vzpy.record import record
from vzpy.story import area

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.image import Disk
    from vzpy.node import Node


@record
class Plan:
    """What will be made, all checked."""

    ctid: int
    conf: str  # path of N.conf
    base: str  # text that N.conf starts from: the sample, or an N.conf that was there
    changes: dict[str, str]  # over it
    private: str
    root: str
    layout: str
    template_dir: str
    template: str
    name: str
    local: tuple[str | None, str | None, str | None]  # LOCAL_UID, LOCAL_GID, LOCAL_IDS
    disk: Disk | None = None  # of an image
    quota: Config | None = None  # the whole configuration, where it asks for disk quota

    @property
    def scratch(self) -> str:
        return f"{self.private}.tmp"

    @property
    def journal(self) -> str:
        return f"{self.conf}.creating"


def settings(given: Mapping[str, object]) -> tuple[dict[str, str], str | None]:
    """Keywords as (parameter -> text of N.conf, name of the sample configuration).

    Takes the options of create, and those of set that are a parameter each.
    Raises UsageError, ValueInvalid."""
    texts: dict[str, str] = {}
    sample: str | None = None
    if not given:
        return texts, sample  # without the tables
    own = {options.keyword(option) for option in actions.BY_NAME["create"].options}
    for word, value in given.items():
        action = "create" if word in own else "set"
        for name, parsed in options.read(action, {word: value}).items():
            option = next(
                o for o in actions.BY_NAME[action].options if options.keyword(o) == name
            )
            if name == "config":
                sample = parsed
            elif option.key and (word in own or name in _VSWAP or _is_plain(option.key, name)):
                kind = params.BY_KEY[option.key].kind
                texts[option.key] = values.text(kind, parsed)
            else:
                raise UsageError(f"create: no such parameter: {word}")
    return texts, sample


_VSWAP = ("ram", "swap")


def _is_plain(key: str, name: str) -> bool:
    return params.BY_KEY[key].option.replace("-", "_") == name


def plan(
    node: Node,
    ctid: int,
    asked: dict[str, str],
    sample: str | None,
    report: Report,
    base: str | None = None,
) -> Plan:
    """What to make of the parameters that settings() gave.

    base  path of a configuration that N.conf starts from, in the place of a sample

    Raises VzError: 21, 22, 23, 24, 29, 44, 48, 82, 91, 99."""
    conf = f"{node.paths.conf}/{ctid}.conf"
    source, origin = (base, None) if base else _base_config(node, conf, sample, report)
    merged = node.config.vps(ctid, source or conf, asked)
    template_dir = merged.raw("TEMPLATE")
    if not template_dir:
        raise VzError("TEMPLATE is not set", Exit.VE_TMPL_NOTSET)
    private = _folder(merged, "VE_PRIVATE", Exit.VE_PRIVATE_NOTSET)
    root = _folder(merged, "VE_ROOT", Exit.VE_ROOT_NOTSET)
    if not area.is_free(private):
        raise VzError(f"Private area already exists in {private}", Exit.FS_PRVT_AREA_EXIST)
    layout, *modes = _layout(merged, asked)
    disk = _disk(merged, modes, report) if layout == "image" else None
    name = asked.get("NAME") or ""
    wanted = merged.raw("OSTEMPLATE") or merged.raw("DEF_OSTEMPLATE")
    if not wanted:
        raise VzError("OS template is not specified", Exit.VE_OSTEMPLATE_NOTSET)
    if rootfs.is_mounted(private):
        raise VzError(
            f"Can't create: private dir ({private}) is a mount point."
            f" Suggestion: use --private {private}/private",
            Exit.FS_NEW_VE_PRVT,
        )
    ostemplate = template.resolve_name(template_dir, wanted)
    changes = {
        **asked,
        "VE_ROOT": merged.literal("VE_ROOT") or "",
        "VE_PRIVATE": merged.literal("VE_PRIVATE") or "",
        "VE_LAYOUT": layout,
        "OSTEMPLATE": ostemplate,
    }
    if origin:
        changes["ORIGIN_SAMPLE"] = origin
    if name:
        changes["VEID"] = str(ctid)
    # A range in a sample would be one range for many.
    uid, gid = (asked.get(k) or (merged.own(k) if source is None else None) for k in _LOCAL)
    local = uid, gid, asked.get("LOCAL_IDS") or merged.own("LOCAL_IDS")
    base = _read(source or conf)
    return Plan(
        ctid, conf, base, changes, private, root, layout, template_dir, ostemplate, name,
        local, disk,
        merged if layout != "image" and all(map(merged.value, QUOTA)) else None,
    )  # fmt: skip


QUOTA = ("DISK_QUOTA", "DISKSPACE", "DISKINODES")
_LOCAL = ("LOCAL_UID", "LOCAL_GID")


def _base_config(
    node: Node, conf: str, sample: str | None, report: Report
) -> tuple[str | None, str | None]:
    """(path of the sample that N.conf starts from, its name); None for an N.conf that is there."""
    name = sample or node.config.raw("CONFIGFILE")
    exists = os.path.exists(conf)
    if not name:
        return None, None
    path = config.sample_path(node.paths.etc, name)
    if not os.path.isfile(path):
        text = f"Sample config {path} not found"
        if not sample:
            text += f"\nFix the value of CONFIGFILE in {node.paths.etc}/vz.conf"
        raise VzError(text, Exit.CP_CONFIG)
    if exists and sample:
        raise VzError(
            f"Error: container config file {conf} already exists, can not use --config option",
            Exit.CP_CONFIG,
        )
    if exists:
        report(ConfExists())
        return None, None
    return path, name


def _folder(merged: Config, key: str, code: int) -> str:
    path = merged.raw(key)
    if not path:
        raise VzError(f"{key} is not set", code)
    if not os.path.isabs(path) or os.path.normpath(path) == "/":
        raise ValueInvalid(f"{key}={path}: the absolute path of a folder of its own is needed")
    return os.path.normpath(path)


def _layout(merged: Config, asked: dict[str, str]) -> list[str]:
    """The layout, and after it the modes of an image."""
    given = merged.value("VE_LAYOUT") or "overlay"
    if given == "overlay" and "VE_LAYOUT" not in asked and merged.value("QUOTAUGIDLIMIT"):
        given = "simfs"  # quota tools inside do not work on an overlay root
    modes = given.partition(":")[2]
    return [layout_name(given), *modes.split(",")]


def _disk(merged: Config, modes: list[str], report: Report) -> Disk:
    """Raises VzError 63."""
    from vzpy.image import Disk

    space = merged.value("DISKSPACE")
    if space is None:
        raise VzError(
            "Error: diskspace not set (required for ploop)",
            Exit.DISKSPACE_NOT_SET,
            hint="--diskspace says how large the image is to be.",
        )
    return Disk.of(space[1], tuple(modes))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
