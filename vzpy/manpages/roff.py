"""Markdown to man(7): as much of both as a man page needs.

    # name(8) - what it does      title, and the section NAME
    ## SECTION   ### subsection
    - item                        list
    term                          definition list: a term, on the next line a colon and its text
    : text
    ```                           literal lines
    **bold** *italic* `code`"""

from __future__ import annotations

import re

_INLINE = re.compile(r"\*\*(.+?)\*\*|\*(.+?)\*|`(.+?)`")
_TITLE = re.compile(r"# (\S+)\((\d)\) - (.+)")


def page(markdown: str, date: str, source: str) -> str:
    """A whole page. Raises ValueError when the first line is no title."""
    first, _, rest = markdown.partition("\n")
    title = _TITLE.fullmatch(first)
    if not title:
        raise ValueError(f"not a title: {first}")
    name, section, what = title.groups()
    head = [
        '.\\" Made by `make docs`: change the Markdown it comes from.',
        f'.TH {name.upper()} {section} "{date}" "{source}"',
        ".SH NAME",
        f"{_inline(name)} \\- {_inline(what)}",
    ]
    return "\n".join(head + _body(rest.split("\n"))) + "\n"


def _body(lines: list[str]) -> list[str]:
    out: list[str] = []
    paragraph: list[str] = []
    literal = False

    def add(*requests: str) -> None:
        """What stands by itself, after the paragraph that came before it."""
        if paragraph:
            out.extend([*_opening(out), *paragraph])
            paragraph.clear()
        out.extend(requests)

    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("```"):
            add()
            out.extend([".EE", ".RE"] if literal else [*_opening(out), ".RS 4", ".EX"])
            literal = not literal
        elif literal:
            out.append(_escape(line))
        elif line.startswith("#"):
            marks, _, text = line.partition(" ")
            add(f"{'.SH' if marks == '##' else '.SS'} {_inline(text)}")
        elif line and following.startswith(": "):
            add(".TP", _inline(line))
        elif line.startswith("- "):
            add(".IP \\(bu 2", _inline(line[2:]))
        elif line.startswith((": ", "  ")) and line.strip():
            out.append(_inline(line[2:].strip()))  # of the definition or item above
        elif line.strip():
            paragraph.append(_inline(line))
        else:
            add()
    add()
    return out


def _opening(out: list[str]) -> list[str]:
    """.PP before a paragraph, but not directly after a heading."""
    return [] if out and out[-1].startswith((".SH", ".SS")) else [".PP"]


def _inline(text: str) -> str:
    """A line of text with its emphasis; what has a dot in front is no request."""
    parts, at = [], 0
    for found in _INLINE.finditer(text):
        bold, italic, code = found.groups()
        parts.append(_escape(text[at : found.start()]))
        letter, inner = ("I", italic) if italic else ("B", bold or code)
        parts.append(f"\\f{letter}{_escape(inner)}\\fR")
        at = found.end()
    line = "".join(parts) + _escape(text[at:])
    return "\\&" + line if line.startswith((".", "'")) else line


def _escape(text: str) -> str:
    for char, escape in (("\\", "\\e"), ("-", "\\-"), ("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\`")):
        text = text.replace(char, escape)
    return "\\&" + text if text.startswith((".", "'")) else text
