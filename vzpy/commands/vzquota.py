"""vzquota: quotas by number (quota.md 2 to 4)."""

from __future__ import annotations

import os
import sys

import vzpy
from vzpy import options, quotabusy, quotatext, quotaugids
from vzpy.errors import UsageError, VzError
from vzpy.model import IdRange, NodePaths
from vzpy.option import Option
from vzpy.quotafile import QuotaError, QuotaFile, is_dirty, is_on, load
from vzpy.quotaid import Asked, Quota

_FILE = (
    Option("quota-file", "path", "the quota file", short="c"),
    Option("relative", help="the quota file lies beside the tree", short="R"),
)
_PATH = Option("path", "path", "the tree", short="p")
_FORCE = Option("force", help="do it all the same", short="f")
_TABLE = Option("sub-quotas-table", help="the users and groups, too", short="t")
_LIMITS = (
    Option("block-softlimit", "number", "space, blocks of 1 KiB", short="b"),
    Option("block-hardlimit", "number", "space, blocks of 1 KiB", short="B"),
    Option("inode-softlimit", "number", "inodes", short="i"),
    Option("inode-hardlimit", "number", "inodes", short="I"),
    Option("block-exptime", "text", "grace of the soft limit", short="e"),
    Option("inode-exptime", "text", "grace of the soft limit", short="n"),
)
_MORE = (
    Option("sub-quotas", "number", "1: users and groups inside are limited, too", short="s"),
    Option("ugid-limit", "number", "so many users and groups may be", short="u"),
    Option("rsquash", help="has no effect", short="r"),
)
_NOCHECK = Option("nocheck", help="no new count after a crash")

# Command -> (options, summary); what each does is in _ACTS.
COMMANDS: dict[str, tuple[tuple[Option, ...], str]] = {
    "init": ((_PATH, *_LIMITS, *_MORE, *_FILE), "make the quota file; all limits are needed"),
    "drop": ((_FORCE, _PATH, *_FILE), "remove the quota file"),
    "on": ((_PATH, *_LIMITS, *_MORE, _FORCE, _NOCHECK, *_FILE), "switch it on"),
    "off": ((_FORCE, _PATH, *_FILE), "switch it off"),
    "setlimit": ((_PATH, *_LIMITS, *_MORE, _FORCE, *_FILE), "change limits"),
    "setlimit2": (
        (
            Option("uid", help="of the user that stands before the limits", short="u"),
            Option("gid", help="of the group that stands before the limits", short="g"),
            Option("times", help="grace times instead of limits", short="t"),
            _PATH, *_FILE,
        ),
        "limits of a user or group inside",
    ),
    "reload2": ((_PATH, *_FILE), "the kernel gets the limits of users and groups in the file"),
    "stat": ((_FORCE, _TABLE, _PATH, *_FILE), "what is used, by the kernel"),
    "show": ((_TABLE, _PATH, *_FILE), "what is used, by the file"),
}  # fmt: skip
WORDS = tuple(COMMANDS)
OPTIONS = tuple(dict.fromkeys(option for known, _ in COMMANDS.values() for option in known))
_USAGE = """Usage: vzquota [-h] [-V] [-q] [-v] [-b] COMMAND QUOTA_ID [options]
Commands:"""


class Call:
    """One command line: the quota it means, and what it is given."""

    def __init__(self, command: str, words: list[str], batch: bool, quiet: bool) -> None:
        self.command, self.batch, self.quiet = command, batch, quiet
        known = COMMANDS[command][0]
        pairs, rest = options.getopt("vzquota", words, known, QuotaError.USAGE)
        self.given = {option.name.replace("-", "_"): text for _, option, text in pairs}
        if not rest or not (rest[0].isascii() and rest[0].isdigit() and 0 < int(rest[0]) < 2**31):
            raise UsageError("Quota id is missing or no number from 1", QuotaError.USAGE)
        self.number, self.rest = int(rest[0]), rest[1:]
        if self.rest and command != "setlimit2":
            raise UsageError(f"Extra arguments: {' '.join(self.rest)}", QuotaError.USAGE)
        self.quota = Quota(self.number, self._file(), folder=NodePaths.of().vzquota)

    def warn(self, text: str) -> None:
        if not self.quiet:
            _say("warning", text)

    def __contains__(self, name: str) -> bool:
        return name in self.given

    @property
    def path(self) -> str:
        return self.given.get("path", "")

    def _file(self) -> str:
        if "quota_file" in self and "relative" in self:
            raise UsageError("-c and -R options can't be set together", QuotaError.USAGE)
        if "quota_file" in self:
            return os.path.abspath(self.given["quota_file"])
        if "relative" in self:
            if not self.path:
                raise QuotaError("Mount point is unknown", QuotaError.NO_PATH)
            parent, name = os.path.split(os.path.abspath(self.path))
            return f"{parent}/quota.{name}"
        return NodePaths.of().quota_file(self.number)

    def number_of(self, name: str) -> int | None:
        if name not in self:
            return None
        text = self.given[name]
        try:
            return quotatext.seconds(text) if name.endswith("exptime") else _number(text)
        except ValueError:
            raise UsageError(f"Bad value of --{name.replace('_', '-')}: {text}",
                             QuotaError.USAGE) from None

    def asked(self) -> Asked:
        sub = self.number_of("sub_quotas")
        return Asked(
            bsoft=self.number_of("block_softlimit"),
            bhard=self.number_of("block_hardlimit"),
            isoft=self.number_of("inode_softlimit"),
            ihard=self.number_of("inode_hardlimit"),
            bgrace=self.number_of("block_exptime"),
            igrace=self.number_of("inode_exptime"),
            sub_quotas=None if sub is None else bool(sub),
            ugid_limit=self.number_of("ugid_limit"),
            ids=self.ids(),
        )

    def ids(self) -> IdRange | None:
        """The id range of the VPS with this number, when there is one."""
        from vzpy.node import Node

        try:
            return Node().vps(self.number).ids
        except VzError:
            return None

    def refuse_busy(self, path: str) -> None:
        """Raises QuotaError 3 while somebody uses the tree."""
        from vzpy.node import Node

        root = ""
        try:
            vps = Node().vps(self.number)
            if vps.config.exists and os.path.realpath(vps.private) == os.path.realpath(path):
                root = vps.root
        except VzError:
            pass
        if quotabusy.is_busy(path, root):
            raise QuotaError(
                f"Quota {self.command} syscall for id {self.number}: Device or resource busy\n"
                f"{quotabusy.REASONS}",
                QuotaError.SYSCALL,
            )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(text)
    return int(text)


def main(argv: list[str]) -> int:
    """Run `vzquota ARGV...`; returns the exit code."""
    quiet = batch = help_wanted = False
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        flags = words.pop(0)[1:]
        if flags == "V":
            print(f"Vzquota version {vzpy.__version__}")
            return 0
        if set(flags) - set("hqvb"):
            return _usage(words[0] if words else "")
        quiet |= "q" in flags
        batch |= "b" in flags
        help_wanted |= "h" in flags
    if not words or help_wanted:
        return _usage(words[0] if words else "")
    command = words.pop(0)
    if command not in COMMANDS:
        print(f"Unknown command: '{command}'", file=sys.stderr)
        return _usage()
    try:
        return _ACTS[command](Call(command, words, batch, quiet))
    except UsageError as err:
        _say("error", err.message)
        return _usage(command)
    except VzError as err:
        _say("error", err.message)
        if err.hint:
            print(err.hint, file=sys.stderr)
        return err.code
    except OSError as err:
        _say("error", f"{err.filename or command}: {err.strerror}")
        return QuotaError.SYSCALL


def _say(level: str, text: str) -> None:
    print(f"vzquota : ({level}) {text}", file=sys.stderr)


def _usage(command: str = "") -> int:
    if command in COMMANDS:
        known, summary = COMMANDS[command]
        lines = [f"Usage: vzquota {command} QUOTA_ID [options]: {summary}"]
        for option in known:
            value = f" {option.kind.upper()}" if option.kind else ""
            names = f"-{option.short}, " if option.short else ""
            lines.append(f"  {names}--{option.name}{value}\t{option.help}")
    else:
        lines = [_USAGE, *(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())]
    print("\n".join(lines), file=sys.stderr)
    return QuotaError.USAGE


# Commands


def _init(call: Call) -> int:
    missing = [option for option in _LIMITS if option.name.replace("-", "_") not in call]
    if not call.path or missing:
        names = [f"--{option.name}" for option in ([] if call.path else [_PATH]) + missing]
        raise UsageError(f"Options are missing: {' '.join(names)}", QuotaError.USAGE)
    call.quota.init(call.path, call.asked())
    return 0


def _drop(call: Call) -> int:
    call.quota.drop("force" in call)
    return 0


def _on(call: Call) -> int:
    had = call.quota.load("on")
    if is_on(had) and "force" not in call:
        raise QuotaError("Quota is already running", QuotaError.RUNNING)
    call.refuse_busy(call.path or had.path)
    found = call.quota.on(call.asked(), call.path, "force" in call, "nocheck" not in call)
    _tell_exceeded(call, found)
    _have_grace_watched(call, found)
    return 0


def _have_grace_watched(call: Call, found: QuotaFile) -> None:
    """Grace times are vzeventd's; without one those of the file system hold."""
    if found.space.grace or found.inodes.grace:
        from vzpy.eventd.client import Daemon

        try:
            Daemon.open(NodePaths.of()).close()
        except OSError as err:
            call.warn(f"vzeventd does not answer ({err.strerror}): grace times are those of the"
                      " file system")


def _off(call: Call) -> int:
    had = load(call.quota.file, call.number)
    if had and is_on(had) and "force" not in call:
        call.refuse_busy(had.path)
    call.quota.off("force" in call)
    return 0


def _setlimit(call: Call) -> int:
    if not call.given.keys() - {"quota_file", "relative"}:
        raise UsageError("No limits are given", QuotaError.USAGE)
    call.quota.setlimit(call.asked(), call.path, "force" in call)
    return 0


def _setlimit2(call: Call) -> int:
    kinds = [n for n, name in enumerate(("uid", "gid")) if name in call]
    try:
        if "times" in call:
            bgrace, igrace = map(quotatext.seconds, call.rest)
            quotaugids.set_graces(call.quota, tuple(kinds) or (0, 1), bgrace, igrace)
            return 0
        number, bsoft, bhard, isoft, ihard = map(_number, call.rest)
        (kind,) = kinds
    except ValueError:
        raise UsageError(
            "-u UID or -g GID and four limits are needed, or -t and two times", QuotaError.USAGE
        ) from None
    quotaugids.setlimit2(call.quota, kind, number, (bsoft, bhard, isoft, ihard))
    return 0


def _reload2(call: Call) -> int:
    quotaugids.reload2(call.quota)
    return 0


def _stat(call: Call) -> int:
    found = call.quota.stat(update="force" not in call)
    _print(call, found, "force" in call)
    if "sub_quotas_table" in call and not found.ugid_active:
        return QuotaError.UGID_INACTIVE
    return 0


def _show(call: Call) -> int:
    found = call.quota.load("show")
    if is_on(found):
        call.warn("Quota is running, so data reported from quota file may not reflect"
                  " current values")
    _print(call, found)
    return QuotaError.DIRTY if is_dirty(found) else 0


def _print(call: Call, found: QuotaFile, force: bool = False) -> None:
    print(quotatext.table(found, call.batch))
    if "sub_quotas_table" in call:
        print(quotatext.ugid_table(found, call.batch, force))


def _tell_exceeded(call: Call, found: QuotaFile) -> None:
    if found.ugid_active and quotatext.is_exceeded(found):
        call.warn(f"Quotas were not loaded for some users/groups for id {call.number}"
                  " due to ugid limit")


_ACTS = {
    "init": _init, "drop": _drop, "on": _on, "off": _off, "setlimit": _setlimit,
    "setlimit2": _setlimit2, "reload2": _reload2, "stat": _stat, "show": _show,
}  # fmt: skip
