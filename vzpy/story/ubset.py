"""Users as well as VPSs (checklist 61): the slice of a login user is limited and counted with the
same names, by the same functions, as a VPS.

    user:NAME, user:UID    user-UID.slice, which systemd-logind makes at login
    NAME.slice             a slice of systemd, below user.slice or at the top
    /PATH                  a cgroup, by its path below the cgroup2 mount

Limits are the cgroup's and go with it: the slice of a user when its last session has ended."""

from __future__ import annotations

import os

from vzpy import actions, cgroupread, cgroups, options, ubc, values
from vzpy.errors import Exit, VzError
from vzpy.events import CpuLimit, CpuUnits, NotApplied, UbSet
from vzpy.model import Facts, Limits
from vzpy.params import BY_KEY, UBC
from vzpy.record import replace
from vzpy.story import counted, live
from vzpy.story.applied import Applied
from vzpy.story.beancounters import Look, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.events import Report
    from vzpy.model import NodePaths
    from vzpy.ubcproc import Beancounter

# What is a VPS's by its own namespaces: a user shares these with the whole host.
_SHARED = ("numtcpsock", "numothersock", "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf",
           "numpty", "numiptent")  # fmt: skip


def cgroup_of(paths: NodePaths, word: str) -> str:
    """The cgroup that a word means, as an absolute path.

    Raises VzError 21 for what cannot be meant; 31 when there is no such cgroup now."""
    top = cgroups.mountpoint()
    kind, colon, name = word.partition(":")
    if colon and kind == "user":
        candidates = [f"user.slice/user-{_uid(name)}.slice"]
    elif word.endswith(".slice") and "/" not in word:
        candidates = [f"user.slice/{word}", word]
    elif word.startswith("/"):
        candidates = [word.removeprefix(top).lstrip("/")]
    else:
        raise VzError(
            f"Bad user or slice {word}",
            Exit.INVALID_PARAMETER_VALUE,
            hint="Give user:NAME, user-UID.slice, or the path of a cgroup.",
        )
    for candidate in candidates:
        path = os.path.realpath(f"{top}/{candidate}")
        if os.path.isfile(f"{path}/cgroup.procs"):
            return _allowed(paths, top, path, word)
    raise VzError(
        f"Unable to apply UBC parameters: {word} has no cgroup",
        Exit.VE_NOT_RUNNING,
        hint=f"There is no {top}/{candidates[0]}: systemd-logind makes one at login.",
    )


def _uid(name: str) -> int:
    import pwd

    try:
        return int(name) if name.isascii() and name.isdigit() else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise VzError(f"Bad user {name}: no such user", Exit.INVALID_PARAMETER_VALUE) from None


def _allowed(paths: NodePaths, top: str, path: str, word: str) -> str:
    """Not the root, which has no limits; not a VPS's, which has a configuration."""
    vpss = f"{top}/{paths.cgroup}"
    if not path.startswith(f"{top}/") or path == vpss or path.startswith(f"{vpss}/"):
        raise VzError(f"Bad slice {word}: it is none of a user", Exit.INVALID_PARAMETER_VALUE,
                      hint="`vzctl set` limits a VPS.")  # fmt: skip
    return path


def ubset(
    paths: NodePaths, word: str, given: Mapping[str, object], report: Report
) -> None:
    """Set beancounters, by the options of `vzctl set`, of a user's cgroup.

    Raises VzError 1 when nothing of it can be applied or memory is in use; 21, 31 (cgroup_of)."""
    path = cgroup_of(paths, word)
    asked = options.read("ubset", given)
    keys, texts = [], dict(cgroupread.applied(path) or {})
    for option in actions.BY_NAME["ubset"].options:
        name = options.keyword(option)
        if name in asked:
            keys.append(option.key)
            texts[option.key] = values.text(BY_KEY[option.key].kind, asked[name])
    if keys:
        _apply(path, Applied(texts), list(dict.fromkeys(keys)), report)


def _apply(path: str, asked: Applied, keys: list[str], report: Report) -> None:
    top = cgroups.mountpoint()
    above = os.path.dirname(path)
    while above.startswith(top):
        cgroups.enable(above)
        above = os.path.dirname(above)
    limits = ubc.limits(asked)
    fields = dict.fromkeys(field for key in keys for field in ubc.FIELDS.get(key, ()))
    wanted = Limits(**{field: getattr(limits, field) for field in fields})
    if used := cgroups.lower_memory(path, wanted):
        raise VzError(
            f"Error: unable to lower physpages to {(wanted.memory_max or 0) // ubc.PAGE} pages:"
            f" {used // ubc.PAGE} pages are in use",
            Exit.SETUBC,
        )
    refused = ubc.explain(cgroups.limit(path, wanted), wanted)
    if set(counted.KEYS).intersection(keys):
        refused += counted.apply(asked, path)
    enforced = {key.lower() for key in (*ubc.FIELDS, *counted.KEYS)}
    done = [key for key in keys if key.lower() not in refused]
    if not done:
        raise live.not_possible(refused, keys)
    kept = {key: text for key, text in asked.texts.items() if key.lower() not in refused}
    Applied(kept).write(path)
    refused += [name for name in ubc.unenforced(asked, enforced) if name.upper() in keys]
    if any(BY_KEY[key].room == UBC for key in done):
        report(UbSet())
    for key, event in (("CPULIMIT", CpuLimit), ("CPUUNITS", CpuUnits)):
        if key in done:
            report(event(value=asked.value(key)))
    if refused:
        report(NotApplied(what=", ".join(refused)))


def beancounters(paths: NodePaths, word: str) -> tuple[int, list[Beancounter]]:
    """The uid of a user's slice, 0 for another cgroup, and its rows. Raises VzError 21, 31."""
    path = cgroup_of(paths, word)
    number = os.path.basename(path).removeprefix("user-").removesuffix(".slice")
    uid = int(number) if number.isascii() and number.isdigit() else 0
    facts = Facts(uid, 0, 0, "", "", "", "", 0, 0, path, "", False, 0.0)
    rows = Look(facts, Shared()).rows(Applied({}))
    ours = counted.read(facts)
    return uid, [row if row.name not in _SHARED else _blank(row, ours) for row in rows]


def _blank(row: Beancounter, ours: Mapping[str, tuple[int, int, int]]) -> Beancounter:
    """Without the host's own sockets, terminals and rules; with what programs of ours count."""
    held, maxheld, failcnt = ours.get(row.name.upper(), (None, None, None))
    return replace(row, held=held, maxheld=maxheld, failcnt=failcnt)
