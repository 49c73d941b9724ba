"""Command lines read by the tables, in the words and with the exit codes of GNU getopt_long as
vzctl used it (vzctl-cli 1.4); and the library's keywords, which are the same options."""

from __future__ import annotations

import sys

from vzpy import events, values
from vzpy.actions import BY_NAME, Action
from vzpy.errors import UsageError, ValueInvalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from vzpy.events import Report
    from vzpy.params import Option

    # What a command line gives: keyword -> text, list of texts, or True
    Given = dict[str, Any]


def keyword(option: Option) -> str:
    """An option's name as the library's keyword."""
    return option.name.replace("-", "_")


def parse(action: Action, argv: Sequence[str], report: Report) -> Given:
    """The options of an action's command line, checked.

    Raises UsageError or ValueInvalid with the contract's code."""
    known = (*action.options, *action.not_here)
    pairs, words = getopt("vzctl", argv, known, action.bad_option)
    given: Given = {}
    for flag, option, text in pairs:
        if option in action.not_here:
            raise UsageError(f"Option {flag} is not applicable to {action.name} command")
        if option.kind:
            _check(option, text, flag, report)
        _add(given, option, text)
    if words:
        raise UsageError(f"Invalid extra arguments: {' '.join(words)} ")
    return given


def read(action: str, given: Mapping[str, object]) -> dict[str, Any]:
    """The values of the library's keywords: numproc=100, onboot=True, ipadd=["10.0.0.1"].

    What is no text is turned into the option's text first, so that one rule holds for all.
    Flags that are False and values that are None are left out. Raises ValueInvalid, UsageError."""
    table = {keyword(option): option for option in BY_NAME[action].options}
    found: dict[str, Any] = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            raise UsageError(f"{action}: no such parameter: {name}")
        if value is None or (value is False and not option.kind):
            continue
        if not option.kind:
            found[name] = True
            continue
        flag = f"--{option.name}"
        if values.KINDS[option.kind].repeat != "list":
            found[name] = _check(option, _as_text(value), flag, events.silent)
            continue
        items = value if isinstance(value, (list, tuple)) else [value]
        parsed = [_check(option, _as_text(item), flag, events.silent) for item in items]
        found[name] = _joined(parsed)
    return found


def _joined(parsed: list[Any]) -> Any:
    """What an option that may come again means as a whole: one dict of switches, or one list."""
    if parsed and isinstance(parsed[0], dict):
        return {name: on for switches in parsed for name, on in switches.items()}
    return [one for item in parsed for one in (item if isinstance(item, list) else [item])]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):  # barrier, limit
        return ":".join(_as_text(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{name}:{'on' if on else 'off'}" for name, on in value.items())
    return str(value)


def _check(option: Option, text: str, flag: str, report: Report) -> Any:
    try:
        return values.parse(option.kind, text)
    except values.Invalid as err:
        space = "" if flag.startswith("--") else " "
        message = f"Bad parameter for {flag}{space}: {text}"
        if err.detail and err.progress:
            report(events.Note(text=err.detail))
        elif err.detail:
            message = f"{err.detail}\n{message}"
        raise ValueInvalid(message) from None


def _add(given: Given, option: Option, text: str) -> None:
    name = keyword(option)
    repeat = values.KINDS[option.kind].repeat if option.kind else "first"
    if not option.kind:
        given[name] = True
    elif repeat == "list":
        given.setdefault(name, []).append(text)
    elif repeat == "last":
        given.pop(name, None)  # and stands last: --ram after --physpages counts
        given[name] = text
    else:
        given.setdefault(name, text)


def getopt(
    tool: str, argv: Sequence[str], options: Iterable[Option], code: int
) -> tuple[list[tuple[str, Option, str]], list[str]]:
    """(flag as it was resolved, option, text) of each option, and the other words.

    GNU rules: unique prefixes, options and words mixed, `--` ends. Raises UsageError with `code`
    and getopt_long's words."""
    # getopt imports gettext for its messages, 6 ms; they are reworded below anyway
    hidden = "getopt" not in sys.modules and "gettext" not in sys.modules
    if hidden:
        sys.modules["gettext"] = None  # type: ignore[assignment]
    try:
        from getopt import GetoptError, gnu_getopt
    finally:
        if hidden:
            del sys.modules["gettext"]

    flags: dict[str, Option] = {}
    shorts, longs = "", []
    for option in options:
        value = bool(option.kind)
        for name in (option.name, *option.aliases):
            flags[f"--{name}"] = option
            longs.append(name + ("=" if value else ""))
        if option.short:
            flags[f"-{option.short}"] = option
            shorts += option.short + (":" if value else "")
    try:
        pairs, words = gnu_getopt(list(argv), shorts, longs)
    except GetoptError as err:
        text = _reworded(err.msg, err.opt, [flag for flag in flags if flag.startswith("--")])
        raise UsageError(f"{tool}: {text}", code) from None
    return [(flag, flags[flag], text) for flag, text in pairs], words


def _reworded(message: str, name: str, flags: list[str]) -> str:
    """Python's complaint in the words of GNU getopt_long."""
    long = len(name) > 1 or message.startswith("option --")
    if "not recognized" in message:
        return f"unrecognized option '--{name}'" if long else f"invalid option -- '{name}'"
    if "requires argument" in message:
        text = "requires an argument"
        return f"option '--{name}' {text}" if long else f"option {text} -- '{name}'"
    if "must not have" in message:
        return f"option '--{name}' doesn't allow an argument"
    matching = " ".join(f"'{flag}'" for flag in flags if flag.startswith(f"--{name}"))
    return f"option '--{name}' is ambiguous; possibilities: {matching}"
