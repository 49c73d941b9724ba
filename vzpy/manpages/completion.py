"""Bash completion of each tool, from its tables."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from vzpy import actions, cli
from vzpy.option import Option

TOOLS = tuple(tool for tool in cli.TOOLS if tool != "vz-fdkeep")  # no tool of users

_HEAD = """# Bash completion of {tool}. Made by `make docs`: do not change it here.

_{tool}() {{
	local cur=${{COMP_WORDS[COMP_CWORD]}} words= i first=
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${{COMP_WORDS[i]}} in
		-*) ;;
		*)
			first=${{COMP_WORDS[i]}}
			break
			;;
		esac
	done
"""
_TAIL = """	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}

complete -o default -F _{tool} {tool}
"""
# What stands before the action.
GLOBAL = (
    Option("quiet", help="print nothing but what a command prints inside"),
    Option("verbose", help="print more; repeatable"),
    Option("skiplock", help="take no lock"),
    Option("version", help="print the version"),
    Option("help", help="print a summary"),
)
_IDS = "$(vzlist -aHo ctid,name 2>/dev/null | sed 's/ -$//')"


def script(tool: str) -> str:
    """The completion file of a tool, to be called TOOL."""
    bodies = {"vzctl": _vzctl, "vz": _vz, "vzeventd": _vzeventd}
    body = bodies.get(tool, lambda: _plain(tool))()
    return _HEAD.format(tool=tool) + body + _TAIL.format(tool=tool)


def _flags(options: Iterable[Option]) -> str:
    names = (name for option in options for name in (option.name, *option.aliases))
    return " ".join(f"--{name}" if len(name) > 1 else f"-{name}" for name in names)


def _case(subject: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"\t\t{pattern}) words='{words}' ;;" for pattern, words in rows]
    return "\n".join([f"\tcase {subject} in", *lines, "\tesac\n"]).replace("\t\t", "\t")


def _vzctl() -> str:
    every = actions.all_actions()
    names = " ".join(name for action in every for name in (action.name, *action.aliases))
    rows = [
        ("|".join((action.name, *action.aliases)), _flags(action.options))
        for action in every
        if action.options
    ]
    return (
        f"\tif [ -z \"$first\" ]; then\n\t\twords='{_flags(GLOBAL)} {names}'\n"
        f'\telif [ "$i" -eq $((COMP_CWORD - 1)) ]; then\n\t\twords="{_IDS}"\n'
        f"\telse\n{_indented(_case('$first', rows))}\tfi\n"
    )


def _vz() -> str:
    from vzpy.commands.vz import SERVICE
    from vzpy.commands.vznode import group

    rows = [
        (name, " ".join(opt for param in command.params for opt in param.opts if opt[0] == "-"))
        for name, command in sorted(group.commands.items())
    ]
    names = " ".join([*sorted(group.commands), *SERVICE])
    return (
        f"\tif [ -z \"$first\" ]; then\n\t\twords='--help --version {names}'\n"
        f"\telse\n{_indented(_case('$first', rows))}\tfi\n"
    )


def _vzeventd() -> str:
    from vzpy.eventd.main import _USAGE

    words = {word.strip("[]") for word in _USAGE.split()}
    options = sorted(word for word in words if word.startswith("--"))
    return f"\twords='{' '.join(options)}'\n"


def _plain(tool: str) -> str:
    module = import_module(f"vzpy.commands.{tool}")
    words = _flags(module.OPTIONS) + " " + " ".join(getattr(module, "WORDS", ()))
    ids = f" {_IDS}" if tool == "vzlist" else ""
    return f'\twords="{words.strip()}{ids}"\n'


def _indented(text: str) -> str:
    return "".join(f"\t{line}\n" for line in text.splitlines())
