"""Man pages and completions: up to date, whole, and accepted by the programs that read them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vzpy import actions, params, values
from vzpy.commands.vz import SERVICE
from vzpy.errors import Exit
from vzpy.manpages import build, completion, roff, tables

ROOT = Path(__file__).parents[2]
PAGES = build.pages(ROOT / "docs")
HINT = "run `make docs`"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name):
    assert (ROOT / "docs/man" / name).read_text() == PAGES[name], HINT


@pytest.mark.parametrize("tool", completion.TOOLS)
def test_completion_is_up_to_date(tool):
    assert (ROOT / "completions" / tool).read_text() == completion.script(tool), HINT


def test_tables_of_docs_are_up_to_date():
    for name, text in build.tables_of_docs().items():
        assert (ROOT / "docs" / name).read_text() == text, HINT


def test_nothing_else_lies_there():
    assert {p.name for p in (ROOT / "docs/man").iterdir()} == set(PAGES)
    assert {p.name for p in (ROOT / "completions").iterdir()} == set(completion.TOOLS)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_mandoc_accepts_it(name, tmp_path):
    if not shutil.which("mandoc"):
        pytest.skip("needs mandoc")
    (tmp_path / name).write_text(PAGES[name])
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", tmp_path / name],
                          stdout=subprocess.PIPE, text=True)
    assert done.stdout == ""


def test_every_tool_has_a_page():
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("TOOLS"))
    assert {f"{tool}.8" for tool in line.partition(":=")[2].split()} <= set(PAGES)


def test_every_action_option_and_exit_code_is_described():
    page = (ROOT / "docs/vzctl.8.md").read_text()
    expanded = tables.expand(page)
    for action in actions.all_actions():
        for name in (action.name, *action.aliases):
            assert f" {name}" in expanded
        for option in action.options:
            assert f"**--{option.name}**" in expanded
    numbers = {word for line in page.splitlines() if line.startswith("**")
               for word in line.replace("*", "").split(", ")}
    known = {str(v) for k, v in vars(Exit).items() if k.isupper()}
    assert known <= numbers


def test_every_parameter_is_described():
    local = tables.expand((ROOT / "docs/ctid.conf.5.md").read_text())
    both = local + (ROOT / "docs/vz.conf.5.md").read_text()
    for param in params.BY_KEY.values():
        where = both if param.scope == params.GLOBAL else local
        assert f"**{param.key}**" in where, param.key


def test_every_value_class_has_a_placeholder():
    assert set(tables.METAVARS) == set(values.KINDS)


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("## A B\ntext", [".SH A B", "text"]),
        ("one\n\ntwo", [".PP", "one", ".PP", "two"]),
        ("term\n: text\n  more", [".TP", "term", "text", "more"]),
        ("- item", [".IP \\(bu 2", "item"]),
        ("**b** *i* `c`", [".PP", "\\fBb\\fR \\fIi\\fR \\fBc\\fR"]),
        ("a-b \\ ~", [".PP", "a\\-b \\e \\(ti"]),
        ("**.x**", [".PP", "\\fB\\&.x\\fR"]),
        ("'quoted", [".PP", "\\&'quoted"]),
        ("## S\n```\n.x  y\n```", [".SH S", ".RS 4", ".EX", "\\&.x  y", ".EE", ".RE"]),
    ],
)
def test_roff(markdown, expected):
    assert roff._body(markdown.split("\n")) == expected


def test_title():
    page = roff.page("# tool(8) - does it\n## SYNOPSIS\ntool", "2026-01-02", "vzpy 1")
    assert '.TH TOOL 8 "2026-01-02" "vzpy 1"' in page and "tool \\- does it" in page
    with pytest.raises(ValueError):
        roff.page("no title", "", "")


def complete(tool: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    script = (
        f'source "{ROOT}/completions/{tool}"; COMP_WORDS=({" ".join(f"{w!r}" for w in words)});'
        f' COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _{tool.replace("-", "_")};'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True,
                          env={"PATH": "/usr/bin:/bin"})
    return done.stdout.split()


def test_bash_completes():
    assert complete("vzctl", "vzctl", "sta") == ["start", "status"]
    assert complete("vzctl", "vzctl", "--quiet", "stop", "101", "--f") == ["--fast"]
    assert complete("vzctl", "vzctl", "set", "101", "--numpr") == ["--numproc"]
    assert complete("vz", "vz", "doc") == ["doctor"]
    assert complete("vz", "vz", "doctor", "--j") == ["--json"]
    assert set(SERVICE) <= set(complete("vz", "vz", ""))
