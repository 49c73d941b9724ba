"""Command lines read by the tables, in the words and with the exit codes of GNU getopt_long as
vzctl used it (vzctl-cli 1.4); and the library's keywords, which are the same options."""

from __future__ import annotations

import os

from vzpy import events
from vzpy.actions import BY_NAME, Action
from vzpy.errors import UsageError, ValueInvalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from vzpy.events import Report
    from vzpy.option import Option

    # What a command line gives: keyword -> text, list of texts, or True
    Given = dict[str, Any]


def keyword(option: Option) -> str:
    """An option's name as the library's keyword."""
    return option.name.replace("-", "_")


def parse(action: Action, argv: Sequence[str], report: Report) -> Given:
    """The options of an action's command line, checked.

    Raises UsageError or ValueInvalid with the contract's code."""
    if not argv:
        return {}  # without the tables
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
        from vzpy import values

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
    from vzpy import values  # who gives flags only does without

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
    if not option.kind:
        given[name] = True
        return
    from vzpy import values

    repeat = values.KINDS[option.kind].repeat
    if repeat == "list":
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

    GNU rules: unique prefixes, options and words mixed, `--` ends; a word ends them too where
    POSIXLY_CORRECT is set. Raises UsageError with `code` and getopt_long's words."""
    longs = {name: option for option in options for name in (option.name, *option.aliases)}
    shorts = {option.short: option for option in longs.values() if option.short}
    pairs: list[tuple[str, Option, str]] = []
    words: list[str] = []
    rest = list(argv)
    try:
        while rest:
            word = rest.pop(0)
            if word == "--":
                return pairs, words + rest
            if word.startswith("--"):
                pairs.append(_long(word[2:], longs, rest))
            elif word.startswith("-") and word != "-":
                pairs += _short(word[1:], shorts, rest)
            elif os.getenv("POSIXLY_CORRECT"):
                return pairs, [*words, word, *rest]
            else:
                words.append(word)
    except UsageError as err:
        raise UsageError(f"{tool}: {err}", code) from None
    return pairs, words


def _long(word: str, longs: Mapping[str, Option], rest: list[str]) -> tuple[str, Option, str]:
    """An option by its name, or by what tells it from others; its text may be the next word."""
    given, equals, text = word.partition("=")
    matching = [given] if given in longs else [name for name in longs if name.startswith(given)]
    if not matching:
        raise UsageError(f"unrecognized option '--{given}'")
    if len(matching) > 1:
        names = " ".join(f"'--{name}'" for name in matching)
        raise UsageError(f"option '--{given}' is ambiguous; possibilities: {names}")
    name = matching[0]
    if longs[name].kind and not equals:
        if not rest:
            raise UsageError(f"option '--{name}' requires an argument")
        text = rest.pop(0)
    elif equals and not longs[name].kind:
        raise UsageError(f"option '--{name}' doesn't allow an argument")
    return f"--{name}", longs[name], text


def _short(
    letters: str, shorts: Mapping[str, Option], rest: list[str]
) -> Iterator[tuple[str, Option, str]]:
    """Flags in one word; what stands behind one that takes a text is its text, or the next word."""
    for at, letter in enumerate(letters, 1):
        if letter not in shorts:
            raise UsageError(f"invalid option -- '{letter}'")
        option = shorts[letter]
        if option.kind:
            if at == len(letters) and not rest:
                raise UsageError(f"option requires an argument -- '{letter}'")
            yield f"-{letter}", option, letters[at:] or rest.pop(0)
            return
        yield f"-{letter}", option, ""
