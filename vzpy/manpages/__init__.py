"""Man pages and bash completions, made from the tables that the tools themselves read.

    python -m vzpy.manpages docs completions

docs/NAME.SECTION.md is written by hand; a line `{actions}` or `{options vzpid}` in it stands for
what a table says (tables.py). The result is roff in docs/man (roff.py)."""
