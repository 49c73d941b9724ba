"""The story of `vzctl set` (vzctl-cli 3, 5): read what is asked, check that it goes together, apply
it to the running VPS, write N.conf. A failed apply leaves N.conf as it was."""

from __future__ import annotations

import os

from vzpy import config, edits, names, options, values
from vzpy.actions import BY_NAME
from vzpy.errors import AlreadyRunning, Exit, NotRunning, UsageError, VzError
from vzpy.events import (
    ApplyFailed,
    ConfigSaved,
    ConfMissing,
    NameAssigned,
    NotApplied,
    NotSaving,
    RestartNeeded,
    Unsaved,
    UnsavedRunning,
    Warned,
    silent,
)
from vzpy.params import BY_KEY, CORE, DISK, GLOBAL, NOT_FROM_SAMPLE, NOT_RUNNING, UBC
from vzpy.story import live
from vzpy.story.served import unserved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.vps import VPS

OPTIONS = {options.keyword(option): option for option in BY_NAME["set"].options}

def set_params(vps: VPS, params: Mapping[str, object], save: bool, report: Report) -> None:
    """Change parameters, given as the keywords of `vzctl set`; the VPS's lock is held.

    Raises UsageError, ValueInvalid (20, 21), NotRunning (31), AlreadyRunning (32) and the code of
    what could not be applied (1, 2, 28, 62, 74, 109, 131, 139 ...)."""
    given = options.read("set", params)
    vps.reload()
    check(given, save, vps)
    facts = vps.facts()
    if "reset_ub" in given:
        if facts is None:
            raise NotRunning(NOT_RUNNING[UBC])
        from vzpy.story import limits

        limits.reset(vps, facts, report)
        return
    if not vps.config.exists:
        report(ConfMissing(path=vps.conf_path))
    if "applyconfig_map" in given:
        name = vps.config.own("NAME") or ""
        _assign(vps, name, name, report)

    changed = edits.changes(given, OPTIONS, vps.config, vps.ctid)
    if "applyconfig" in given:
        changed |= from_sample(vps, given["applyconfig"], report)
    if int(changed.get("QUOTAUGIDLIMIT") or 0) and vps.ctid:
        from vzpy.story import disk

        disk.refuse_ugids(vps)
    if facts:
        needs_restart = _needs_restart(vps, changed, given.get("setmode"), report)
        if needs_restart and given.get("setmode") == "restart":
            _save(vps, changed, report, restart=True)
            return
        _on_running(vps, facts, given, changed, save, report)
        if needs_restart:
            report(RestartNeeded())
    elif vps.ctid == 0:
        _on_host(vps, changed, save, report)
    elif not save:
        _refuse_stopped(changed)
    sized = "DISKSPACE" in changed or "DISKINODES" in changed
    if save and sized and not facts and vps.layout == "image":
        from vzpy.story import imagesize

        wanted = vps.node.config.vps(vps.ctid, vps.conf_path, changed)
        imagesize.apply(vps, wanted, tuple(changed), report)
    if "userpasswd" in given:
        _set_passwords(vps, given["userpasswd"], facts)
    if save:
        _save(vps, changed, report)
    elif changed:
        report(UnsavedRunning() if facts else Unsaved())


def check(given: Mapping[str, Any], save: bool, vps: VPS) -> None:
    """What cannot be said together (vzctl-cli 3.1). Raises UsageError, ValueInvalid."""
    if "reset_ub" in given and len(given) > 1:
        raise UsageError("Error: option --reset_ub is exclusive")
    if not save:
        if "force" in given:
            raise UsageError("Error: --force is useless without --save")
        if given.get("setmode") == "restart":
            raise UsageError("Error: unable to use --setmode restart option without --save")
        for name in given:
            option = OPTIONS[name]
            if option.req_save:
                raise UsageError(
                    f"Error: unable to use --{option.name} option without --save", option.req_save
                )
        if "diskspace" in given and vps.config.own("VE_LAYOUT") in ("image", "ploop"):
            raise UsageError(
                "Error: can't use --diskspace without --save for a ploop-based container"
            )
    if "offline_resize" in given:
        if "diskspace" not in given:
            raise UsageError("Error: --offline-resize option requires --diskspace")
        if vps.status.mounted or vps.status.running:
            raise VzError(
                "Error: unable to use --offline-resize on a mounted container",
                Exit.INVALID_PARAMETER_VALUE,
            )
    if "nodemask" in given and "cpumask" not in given:
        raise UsageError("Error: --nodemask option requires --cpumask")
    if given.get("cpumask") == "auto" and "nodemask" not in given:
        raise UsageError("Error: --cpumask auto requires --nodemask")


def from_sample(vps: VPS, name: str, report: Report) -> dict[str, str]:
    """What a sample configuration brings. Raises VzError 109 when there is none."""
    etc = vps.node.paths.etc
    sample = config.load_sample(etc, name)
    if sample is None:
        path = config.sample_path(etc, name)
        raise VzError(f"Sample config file not found: {path}", Exit.APPLY_CONFIG)
    found = {"ORIGIN_SAMPLE": name}
    for key, param in BY_KEY.items():
        if sample.own(key) is None or key in NOT_FROM_SAMPLE or param.scope == GLOBAL:
            continue
        value = sample.value(key)
        if value is not None:
            found[key] = values.text(param.kind, value)
    for warning in sample.warnings:
        report(Warned(text=warning))
    return found


# --- a running VPS ---------------------------------------------------------------------------


def _on_running(
    vps: VPS,
    facts: Facts,
    given: Mapping[str, object],
    changed: dict[str, str],
    save: bool,
    report: Report,
) -> None:
    """Apply what can be applied. What cannot is an error, with --save a line that tells of it."""
    for key in ("VE_ROOT", "VE_PRIVATE"):
        if key in changed:
            raise AlreadyRunning(f"Unable to change {key} on a running container")
    keys = tuple(key for key in changed if BY_KEY[key].room and not BY_KEY[key].restart)
    missing = unserved(keys)
    if missing and not save:
        raise live.not_possible(missing, [key for key in keys if unserved([key])])
    change = live.Change(
        vps, facts, vps.config, vps.node.config.vps(vps.ctid, vps.conf_path, changed), keys,
        given=given,
    )
    try:
        refused = live.apply(change, save, report)
    except VzError as err:
        if not save:
            raise
        report(Warned(text=err.message))
        raise VzError(ApplyFailed.text, err.code) from err
    if missing or refused:
        report(NotApplied(what=", ".join(missing + refused)))


def _needs_restart(
    vps: VPS, changed: Mapping[str, str], setmode: str | None, report: Report
) -> bool:
    """Tell of the parameters that a running VPS cannot take. Raises AlreadyRunning (32) with
    --setmode ignore."""
    wants = {
        BY_KEY[key].restart: None
        for key, text in changed.items()
        if BY_KEY[key].restart and text != vps.config.raw(key)
    }
    if "QUOTAUGIDLIMIT" in changed:
        before, after = vps.config.value("QUOTAUGIDLIMIT") or 0, int(changed["QUOTAUGIDLIMIT"])
        if bool(before) != bool(after):
            wants[f"turn {'on' if after else 'off'} second-level disk quota"] = None
    lines = [f"Unable to {want} on a running container" for want in wants]
    if lines and setmode == "ignore":
        raise AlreadyRunning("\n".join(lines))
    if setmode != "restart":
        for line in lines:
            report(Warned(text=line))
    return bool(lines)


def _restart(vps: VPS, report: Report) -> None:
    from vzpy.story.start import start
    from vzpy.story.stop import stop

    stop(vps, report)
    start(vps, report)


# --- a stopped VPS ---------------------------------------------------------------------------


def _on_host(vps: VPS, changed: Mapping[str, str], save: bool, report: Report) -> None:
    """CT0 is the node itself: its share of CPU time is applied, other limits are its
    administrator's, and 0.conf keeps what is asked. Raises VzError."""
    from vzpy.story import host

    done = ""
    if "CPUUNITS" in changed:
        units = int(values.parse("cpuunits", changed["CPUUNITS"]))
        done = "CPUUNITS" if host.set_cpuunits(vps.node.paths, units, report) else ""
    others = [key for key in changed if BY_KEY[key].room != CORE and key != done]
    what = [BY_KEY[key].option or key.lower() for key in others]
    if what and not save:
        raise live.not_possible(what, others)
    if what:
        report(NotApplied(what=", ".join(what)))


def _refuse_stopped(changed: Mapping[str, str]) -> None:
    """Without --save nothing would come of it. Raises NotRunning (31), one line a group."""
    lines = list(dict.fromkeys(
        NOT_RUNNING[BY_KEY[key].room] for key in changed if BY_KEY[key].room in NOT_RUNNING
    ))
    if lines:
        raise NotRunning("\n".join(lines))
    if any(BY_KEY[key].room == DISK and not BY_KEY[key].restart for key in changed):
        raise VzError(
            "Error: Unable to apply new quota values: quota not running", Exit.DQ_SET
        )


def _set_passwords(vps: VPS, pairs: list[str], facts: Facts | None) -> None:
    """user:password each, in a stopped VPS too. Raises VzError 74."""
    from vzpy import dist
    from vzpy.story.start import stopped_but_entered

    scripts = []
    for pair in pairs:
        user, _, password = pair.partition(":")
        scripts.append(dist.password_script(user, password))
    if facts:
        _run_each(vps, facts, scripts)
    else:
        with stopped_but_entered(vps) as entered:
            _run_each(vps, entered, scripts)


def _run_each(vps: VPS, facts: Facts, scripts: list[tuple[list[str], bytes]]) -> None:
    from vzpy.story import enter, pump

    for argv, stdin in scripts:
        what = enter.program([os.fsencode(word) for word in argv])
        done = pump.run(facts, what, stdin=stdin, timeout=60, filter_cache=vps.node.paths.state)
        if done.returncode:
            raise VzError("Password change failed", Exit.CHANGEPASS, stdout=True)


# --- saving ----------------------------------------------------------------------------------


def _save(vps: VPS, changed: dict[str, str], report: Report, restart: bool = False) -> None:
    """Give the name, write N.conf; with `restart` all is undone unless the VPS comes up with it."""
    if not changed:
        report(NotSaving())
        return
    before = vps.config.own("NAME") or ""
    if "NAME" in changed:
        _assign(vps, changed["NAME"], before, report)
        changed = {**changed, "VEID": str(vps.ctid)}
    old = {key: vps.config.own(key) for key in changed}
    try:
        config.save(vps.conf_path, changed)
        vps.reload()
        if restart:
            _restart(vps, report)
    except BaseException:
        if "NAME" in changed:
            _assign(vps, before, changed["NAME"], silent)
        if restart:
            config.save(vps.conf_path, old)
            vps.reload()
        raise
    report(ConfigSaved(path=vps.conf_path))


def _assign(vps: VPS, name: str, before: str, report: Report) -> None:
    """Make the link of a name, the one of the name before goes. Raises VzError 131."""
    paths = vps.node.paths
    if not name:
        names.release(paths, vps.ctid, before)
    elif name != before or names.find(paths, name) != vps.ctid:
        names.assign(paths, vps.ctid, name, before)
        report(NameAssigned(name=name))
