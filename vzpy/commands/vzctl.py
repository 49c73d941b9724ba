"""vzctl: global flags, the order of checks (vzctl-cli 1), and one module an action behind it."""

from __future__ import annotations

import vzpy
from vzpy import actions, config, names
from vzpy.commands.output import STDERR, STDOUT, Output, say
from vzpy.errors import Exit, NoSuchVPS, UsageError, VzError
from vzpy.model import NodePaths
from vzpy.node import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.actions import Action
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.options import Given
    from vzpy.vps import VPS

# Panels compare the third word with 3.0.23: the last OpenVZ release line goes first.
VERSION = f"vzctl version 4.11.0-vzpy-{vzpy.__version__}"
_HEAD = f"""{VERSION}
Copyright (C) the vzpy authors.
This program may be distributed under the terms of the Apache License, version 2.0.

Usage: vzctl [options] <command> <ctid> [parameters]
"""
# Their standard output belongs to somebody else: no contract progress lines in it.
_UNTOLD = ("status", "exec", "exec2", "exec3", "enter", "snapshot-list")


class Call:
    """One command line, checked: what an action's module gets."""

    def __init__(
        self, action: Action, node: Node, conf: Config, given: Given, words: list[str], out: Output
    ) -> None:
        self.action = action
        self.node = node
        self.conf = conf
        self.ctid = conf.ctid
        self.given = given
        self.words = words
        self.out = out

    @property
    def vps(self) -> VPS:
        from vzpy.vps import VPS

        return VPS(self.node, self.ctid, self.conf)

    @property
    def report(self) -> Report:
        return self.out.report


def main(argv: list[str]) -> int:
    """Run `vzctl ARGV...`; returns the exit code."""
    out = Output()
    try:
        return _main(argv, out)
    except VzError as err:
        return out.error(err)
    except OSError as err:
        return out.error(VzError.of("vzctl", err))


def _main(argv: list[str], out: Output) -> int:
    quiet = skiplock = False
    verbosity: int | None = None
    words = list(argv)
    while words and words[0] in ("--quiet", "--verbose", "--skiplock", "--version", "--help"):
        flag = words.pop(0)
        if flag == "--version":
            say(STDOUT, VERSION)
            return Exit.OK
        if flag == "--help":
            say(STDOUT, usage())
            return Exit.OK
        quiet |= flag == "--quiet"
        skiplock |= flag == "--skiplock"
        if flag == "--verbose":
            verbosity = (verbosity or 0) + 1
    if not words:
        say(STDERR, usage())
        return Exit.INVALID_PARAMETER_SYNTAX

    action = actions.BY_NAME.get(words[0])
    if action is None:
        raise UsageError(f"Bad command: {words[0]}")
    if len(words) < 2:
        raise VzError("CT ID missing", Exit.INVALID_PARAMETER_VALUE)
    ctid = 0 if action.of_users else names.resolve(NodePaths.of(), words[1])
    node = Node(skiplock=skiplock)

    given: Given = {}
    if action.rest == actions.OPTIONS:
        from vzpy import options

        given = options.parse(action, words[2:], out.report)
        words = words[:2] + words[1:2] * action.of_users
    elif action.rest == actions.NOTHING and words[2:]:
        raise UsageError(f"Invalid options: {' '.join(words[2:])} ")
    elif action.missing and not words[2:]:
        raise UsageError(action.missing)
    if ctid == 0 and action.name != "set" and not action.of_users:
        raise VzError("Only set actions are allowed for CT0", Exit.INVALID_PARAMETER_VALUE)

    # From here on messages are vzctl's own: --quiet, --verbose and the log file hold.
    conf = node.config
    if verbosity is None:
        verbosity = conf.effective("VERBOSE")
    silent = action.name in ("status", "snapshot-list")
    out.verbosity, out.quiet = -1 if silent else verbosity, quiet
    out.log, out.ctid = node.log, ctid
    own = conf.vps(ctid, f"{node.paths.conf}/{ctid}.conf")
    if action.needs_conf and not own.exists:
        raise NoSuchVPS
    name = own.raw("NAME")
    if not words[1].isdigit() and name and name != words[1] and not action.of_users:
        raise VzError(
            f"Unable to find container by name {words[1]}", Exit.INVALID_PARAMETER_VALUE
        )
    _warn(own, action, out)
    if action.locks:
        _cancel_on_signals()
    module = __import__(f"vzpy.commands.vzctl_{action.module}", fromlist=["run"])
    code: int = module.run(Call(action, node, own, given, words[2:], out))
    return code


def _warn(conf: config.Config, action: Action, out: Output) -> None:
    """What is wrong in the files; every value is looked at where that costs nothing that counts."""
    if action.name not in _UNTOLD:
        conf.check()
        for line in conf.notes:
            out.line(line)
        if out.verbosity >= 1:
            for line in conf.unknown():
                out.line(line, 1)
    for line in conf.warnings:
        out.line(line, -1)


def _cancel_on_signals() -> None:
    """The first signal unwinds the operation, undoing its steps; more of them do not disturb that.

    A signal that was ignored when we came (nohup, a shell's background job) stays ignored."""
    import _signal as signal  # type: ignore[import-not-found]  # what `signal` wraps, without its enums: 3 ms

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ours = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]

    def cancel(number: int, frame: object) -> None:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)
        say(STDERR, "\nCancelling...")
        raise KeyboardInterrupt

    for number in ours:
        signal.signal(number, cancel)


def usage() -> str:
    """The text of --help: every action, its options wrapped."""
    lines = [_HEAD]
    for action in actions.all_actions():
        line = f"vzctl {' | '.join((action.name, *action.aliases))} <ctid>"
        for item in _items(action.synopsis):
            if len(line) + 1 + len(item) > 78:
                lines.append(line)
                line = "  "
            line += f" {item}"
        lines.append(line)
    return "\n".join(lines)


def _items(synopsis: str) -> list[str]:
    """The words of a synopsis, what stands in brackets kept together."""
    found: list[str] = []
    depth = 0
    for word in synopsis.split():
        if depth:
            found[-1] += f" {word}"
        else:
            found.append(word)
        depth += word.count("[") - word.count("]")
    return found
