"""docs/beancounters.md: what this version makes of each limit, from the table of vzpy.ubc."""

from __future__ import annotations

from vzpy import ubc

_HEAD = """\
# Beancounters on a stock kernel

This page is made by `make docs` from the table in `vzpy/ubc.py`; `vzubc --explain CTID` tells the
same as it holds for one VPS on one node.

Every parameter is accepted, saved and shown. What a limit does depends on the kernel:

| verdict | the limit is |
|---|---|
{verdicts}

A start or a `vzctl set` names, in one line, the limits that it does not enforce. What this node
does not count at all is 0 in texts and null in JSON; `failcnt` is 0 where the kernel does not
count refusals. It does not go back while a VPS runs. `maxheld` comes from the kernel where it keeps
a peak; else it is the greatest use that was seen by a look, of which `vzeventd` takes one every
{seconds} seconds.

| beancounter | counts | unit | verdict | the limit is kept by | what that means |
|---|---|---|---|---|---|
{rows}

| beancounter | held and maxheld | failcnt |
|---|---|---|
{sources}
"""


def page() -> str:
    """The page as Markdown."""
    from vzpy.eventd.counters import PERIOD

    verdicts = [f"| {letter} | {meaning} |" for letter, meaning in ubc.VERDICTS.items()]
    rows = [
        f"| {row.name} | {row.counts} | {row.unit} | {row.verdict} | {row.knob or '-'} |"
        f" {row.why[:1].upper()}{row.why[1:]} |"
        for row in ubc.ROWS
    ]
    sources = [f"| {row.name} | {row.held or '-'} | {row.failcnt or '-'} |" for row in ubc.ROWS]
    return _HEAD.format(
        verdicts="\n".join(verdicts),
        rows="\n".join(rows),
        sources="\n".join(sources),
        seconds=PERIOD,
    )
