"""The story of `vzctl create`: from an OS template to a VPS that can be started (vzctl-cli 4).

Everything is built beside its place: the private area in VE_PRIVATE.tmp, the configuration in
N.conf.creating. That file is the journal too. It appears before anything of the VPS does and
becomes N.conf by one rename(2), so a create that was killed is told from one that was finished,
and the next one takes back what the first had made."""

from __future__ import annotations

import os
from contextlib import ExitStack

from vzpy import actions, config, ids, names, options, params, rootfs, scripts, template, values
from vzpy import vztmp
from vzpy.errors import Exit, UsageError, ValueInvalid, VzError
from vzpy.events import (
    ConfExists,
    ConfigSaved,
    Created,
    CreateScriptFailed,
    Creating,
    NameAssigned,
    Step,
    Warned,
)
from vzpy.fault import fault
from vzpy.record import record
from vzpy.story import area

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.node import Node
    from vzpy.template import Progress

STEPS = (
    "ids", "scratch", "journal", "name", "build", "root", "private", "tree", "config", "create-script",
)  # fmt: skip
FAILED = "Creation of container private area failed"
DESTROYED = ("conf", "premount", "mount", "umount", "postumount", "start", "stop")


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

    @property
    def scratch(self) -> str:
        return f"{self.private}.tmp"

    @property
    def journal(self) -> str:
        return f"{self.conf}.creating"


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
    try:
        recover(node, ctid)
        plan = _plan(node, ctid, asked, sample, report)
        with ExitStack() as undo:
            _steps(node, plan, undo, report, progress)
            undo.pop_all()
    except VzError as err:
        err.message = f"{err.message}\n{FAILED}" if err.message else FAILED
        raise
    report(Created())


def settings(given: Mapping[str, object]) -> tuple[dict[str, str], str | None]:
    """Keywords as (parameter -> text of N.conf, name of the sample configuration).

    Takes the options of create, and those of set that are a parameter each.
    Raises UsageError, ValueInvalid."""
    texts: dict[str, str] = {}
    sample: str | None = None
    own = {options.keyword(option) for option in actions.BY_NAME["create"].options}
    for word, value in given.items():
        action = "create" if word in own else "set"
        for name, parsed in options.read(action, {word: value}).items():
            option = next(
                o for o in actions.BY_NAME[action].options if options.keyword(o) == name
            )
            if name == "config":
                sample = parsed
            elif option.key and (word in own or name in ("ram", "swap") or _is_plain(option.key, name)):
                kind = params.BY_KEY[option.key].kind
                texts[option.key] = values.KINDS[kind].text(parsed)
            else:
                raise UsageError(f"create: no such parameter: {word}")
    return texts, sample


def _is_plain(key: str, name: str) -> bool:
    return params.BY_KEY[key].option.replace("-", "_") == name


# Checks: nothing is changed yet


def _plan(
    node: Node, ctid: int, asked: dict[str, str], sample: str | None, report: Report
) -> Plan:
    conf = f"{node.paths.conf}/{ctid}.conf"
    source, origin = _base_config(node, conf, sample, report)
    merged = node.config.vps(ctid, source or conf, asked)
    template_dir = merged.raw("TEMPLATE")
    if not template_dir:
        raise VzError("TEMPLATE is not set", Exit.VE_TMPL_NOTSET)
    private = _folder(merged, "VE_PRIVATE", Exit.VE_PRIVATE_NOTSET)
    root = _folder(merged, "VE_ROOT", Exit.VE_ROOT_NOTSET)
    if not area.is_free(private):
        raise VzError(f"Private area already exists in {private}", Exit.FS_PRVT_AREA_EXIST)
    layout = _layout(merged, asked, f"{node.paths.etc}/vz.conf")
    name = asked.get("NAME") or ""
    if name:
        names.check(node.paths, ctid, name)
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
    local = [asked.get(k) or (merged.own(k) if source is None else None) for k in _LOCAL]
    base = _read(source or conf)
    return Plan(
        ctid, conf, base, changes, private, root, layout, template_dir, ostemplate, name,
        (local[0], local[1], local[2]),
    )  # fmt: skip


_LOCAL = ("LOCAL_UID", "LOCAL_GID", "LOCAL_IDS")


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


def _layout(merged: Config, asked: dict[str, str], global_conf: str) -> str:
    layout = merged.value("VE_LAYOUT") or "overlay"
    if layout == "overlay" and "VE_LAYOUT" not in asked and merged.value("QUOTAUGIDLIMIT"):
        layout = "simfs"  # quota tools inside do not work on an overlay root
    if layout in ("ploop", "image"):
        raise VzError(
            f"Layout {layout} is not supported\n"
            "Alternatively, if you can't or don't want to use ploop, please\n"
            f"add --layout simfs option, or set VE_LAYOUT=simfs in {global_conf}",
            Exit.PLOOP_UNSUP,
        )
    return str(layout)


# The steps


def _steps(
    node: Node, plan: Plan, undo: ExitStack, report: Report, progress: Progress | None
) -> None:
    def step(name: str) -> None:
        nonlocal current
        current = name
        report(Step(name=name))
        fault(name)

    def undone(what: Callable[..., object], *args: object) -> None:
        """A failed undo hides neither the first error nor the undos before it."""

        def run() -> None:
            try:
                what(*args)
            except (OSError, VzError) as err:
                report(Warned(text=f"Warning: cannot undo: {err}"))

        undo.callback(run)

    current = ""
    paths, ctid = node.paths, plan.ctid
    owner = ids.Owner(paths.etc, ctid, plan.private)
    try:
        step("ids")
        registry = ids.Registry()
        given = ids.range_of(*plan.local)
        if given is not None:
            registry.claim(owner, given)
        mine = given or registry.allocate(owner, ids.count_of(plan.local[2]))
        if given is None:
            undone(registry.free, owner)
        local = {"LOCAL_UID": str(mine.base), "LOCAL_GID": str(mine.base)}

        step("scratch")
        os.makedirs(os.path.dirname(plan.private), 0o700, exist_ok=True)
        _discard(plan.scratch, report)
        os.mkdir(plan.scratch, 0o700)
        undone(_discard, plan.scratch)
        step("journal")
        _write_journal(plan, local)
        undone(_unlink, plan.journal)

        step("name")
        if plan.name:
            names.assign(paths, ctid, plan.name)
            undone(names.release, paths, ctid, plan.name)
            report(NameAssigned(name=plan.name))
        step("build")
        report(Creating(template=plan.template))
        area.fill(
            plan.scratch, plan.layout, plan.template_dir, plan.template, mine, report, progress
        )
        step("root")
        if not os.path.isdir(plan.root):
            _make_root(plan.root)
            undone(os.rmdir, plan.root)

        step("private")
        os.rename(plan.scratch, plan.private)
        undone(_discard, plan.private)
        step("tree")
        if plan.layout == "overlay":
            undone(template.release_tree, plan.private)
            template.record_tree(plan.private, os.readlink(f"{plan.private}/tree"))
        step("config")
        _commit(plan, undone)
        report(ConfigSaved(path=plan.conf))
        step("create-script")
        _run_hook(node, plan, report)
    except OSError as err:
        full = err.errno in (28, 122)  # ENOSPC, EDQUOT
        code = Exit.FS_NO_DISK_SPACE if full else Exit.FS_NEW_VE_PRVT
        raise VzError.of("Unable to create the container", err, code, step=current) from err
    for kind in DESTROYED:
        _unlink(f"{paths.conf}/{ctid}.{kind}.destroyed")


def _write_journal(plan: Plan, local: dict[str, str]) -> None:
    """N.conf as it will be, under the name that says that it is not one yet; whole or not at all."""
    new = f"{plan.journal}.new"
    with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(plan.base)
    if os.path.exists(plan.conf):
        about = os.stat(plan.conf)
        os.chown(new, about.st_uid, about.st_gid)
        os.chmod(new, about.st_mode & 0o7777)
    config.save(new, {**plan.changes, **local})
    os.rename(new, plan.journal)


def _make_root(root: str) -> None:
    try:
        os.makedirs(root, 0o755)
    except OSError as err:
        raise VzError.of(f"Can't create mount point {root}", err, Exit.FS_MPOINTCREATE) from err


def _commit(plan: Plan, undone: Callable[..., None]) -> None:
    """The journal becomes N.conf; where a link stands in its place, the file it names."""
    target = os.path.realpath(plan.conf)
    if os.path.exists(target):
        before = f"{plan.conf}.before"
        _unlink(before)
        os.link(target, before)
        undone(os.rename, before, target)
    else:
        before = ""
        undone(_unlink, target)
    os.rename(plan.journal, target)
    folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(folder)
    os.close(folder)


def _run_hook(node: Node, plan: Plan, report: Report) -> None:
    script = scripts.create_script(node.paths)
    if script and (why := scripts.execute(script, node.paths, plan.ctid)):
        report(CreateScriptFailed(path=script))
        raise VzError("", Exit.ACTIONSCRIPT, step="create-script", hint=f"{script}: {why}")


# What a create that was killed left


def recover(node: Node, ctid: int) -> None:
    """Take back what a create of this number left that did not come to its end; with its lock held.

    An N.conf that is there with a private area in its place is a VPS, whatever was going on."""
    conf = f"{node.paths.conf}/{ctid}.conf"
    journal = f"{conf}.creating"
    if not os.path.exists(journal):
        return
    left = node.config.vps(ctid, journal)
    private, root, name = left.raw("VE_PRIVATE"), left.raw("VE_ROOT"), left.own("NAME")
    try:
        if private:
            if not os.path.exists(conf) and not os.path.exists(f"{private}.tmp"):
                template.release_tree(private)
                _discard(private)
            _discard(f"{private}.tmp")
        if not os.path.exists(conf):
            if name:
                names.release(node.paths, ctid, name)
            if root and not rootfs.is_mounted(root) and os.path.isdir(root):
                os.rmdir(root)
        _unlink(journal)
    except OSError as err:
        raise VzError.of(
            f"Unable to take back an unfinished creation of container {ctid}",
            err,
            Exit.FS_NEW_VE_PRVT,
        ) from err


def _discard(path: str, report: Report | None = None) -> None:
    """Remove an unfinished private area. Absence is success."""
    if not os.path.lexists(path):
        return
    if report:
        report(Warned(text=f"Warning: Temp dir {path} already exists, deleting"))
    rootfs.umount(path)  # the moment of a lower layer, when we were killed in it
    vztmp.remove(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
