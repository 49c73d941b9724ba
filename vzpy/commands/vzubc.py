"""vzubc: beancounters for people (beancounters.md 5.5); --raw for scripts, --json for programs,
--explain for what each means on this node."""

from __future__ import annotations

import os
import sys

from vzpy import ubc
from vzpy.commands import vzubc_table as table
from vzpy.errors import UsageError, VzError
from vzpy.model import NodePaths
from vzpy.option import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.ubcproc import Beancounter

    Rows = dict[int, list[Beancounter]]

FAILED = 1
# The short options of the original are words with one dash; the long ones of those are ours.
OPTIONS = (
    Option("watch", help="show again every 2 seconds, until Ctrl-C", short="w"),
    Option("watch-differences", help="the same, with what has changed highlighted", short="wd"),
    Option("watch-no-title", help="the same, without a title", short="wt"),
    Option("watch-interval", "number", "the same, every so many seconds", short="wn"),
    Option("quiet", help="only what has failures, or is near its limit", short="q"),
    Option("quiet-held", "float", "near: held over this share of the barrier (0.5)", short="qh"),
    Option("quiet-maxheld", "float", "near: maxheld over this share (0.8)", short="qm"),
    Option("verbose", help="what has no limit, too", short="v"),
    Option("relative", help="failures since the last time", short="r"),
    Option("relative-clear", help="forget the failures of the last time", short="rc"),
    Option("directory", "path", "folder for what is remembered", short="rd"),
    Option("incremental", help="a column with the change of held since the last time", short="i"),
    Option("incremental-clear", help="forget the held of the last time", short="ic"),
    Option("incremental-directory", "path", "the same as -rd", short="id"),
    Option("color", help="colours: yellow is near its limit, red has failures", short="c"),
    Option("file", "path", "read the numbers from a file, - for standard input", short="f"),
    Option("slice", "text", "a user instead of VPSs: user:NAME, user-UID.slice, path of a cgroup"),
    Option("raw", help="the text of /proc/user_beancounters"),
    Option("json", help="print JSON"),
    Option("explain", help="what each means, what enforces it and where its numbers come from"),
    Option("help", help="usage", short="h"),
)
_WATCH = {option.name for option in OPTIONS if option.name.startswith("watch")}


class Asked:
    """A command line, checked."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.words: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def number(self, name: str, default: float) -> float:
        """Raises UsageError for what is no number."""
        text = self.given.get(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = -1
        if not 0 <= value < 1e9:
            raise UsageError(f"Error: option --{name} requires a number: {text}", FAILED)
        return value

    def share(self, name: str, default: float) -> float:
        """A share, also given in per cent."""
        value = self.number(name, default)
        return value / 100 if value > 1 else value


def main(argv: list[str]) -> int:
    """Run `vzubc ARGV...`; returns the exit code."""
    try:
        return _main(argv)
    except UsageError as err:
        print(f"{err}\n{usage()}", file=sys.stderr)
        return err.code
    except VzError as err:
        print(err, file=sys.stderr)
        return err.code


def _main(argv: list[str]) -> int:
    asked = _parse(argv)
    if "help" in asked:
        print(usage())
        return 0
    paths = NodePaths.of()
    given = asked.given
    folder = given.get("directory") or given.get("incremental-directory")
    store = Store(folder or f"{paths.state}/vzubc")
    for option, name in (("relative-clear", "failcnt"), ("incremental-clear", "held")):
        if option in asked:
            store.clear(name)
    if not _WATCH.isdisjoint(given):
        return _watch(asked, paths, store)
    sys.stdout.write(_text(asked, paths, store))
    return 0


def _parse(argv: list[str]) -> Asked:
    """Raises UsageError (1)."""
    flags = {f"--{option.name}": option for option in OPTIONS}
    flags |= {f"-{option.short}": option for option in OPTIONS if option.short}
    asked, words = Asked(), list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        found = flags.get(name)
        if found is None:
            if word.startswith("-"):
                raise UsageError(f"Unrecognized option: {word}", FAILED)
            asked.words.append(word)
            continue
        if found.kind and not equals:
            value = words.pop(0) if words else ""
        if found.kind and not value:
            raise UsageError(f"Error: option {name} requires an argument", FAILED)
        asked.given[found.name] = value
    _check(asked)
    return asked


def _check(asked: Asked) -> None:
    if not _WATCH.isdisjoint(asked.given) and "color" in asked:
        raise UsageError("Error: can't use --watch and --color together", FAILED)
    if ("quiet-held" in asked or "quiet-maxheld" in asked) and {"quiet", "color"}.isdisjoint(
        asked.given
    ):
        raise UsageError("Error: -qh and -qm only make sense with --quiet or --color", FAILED)
    if "quiet" in asked and "verbose" in asked:
        raise UsageError("Error: options --quiet and --verbose can't be used together", FAILED)
    for name in ("quiet-held", "quiet-maxheld", "watch-interval"):
        asked.number(name, 0)


# --- what is shown ---------------------------------------------------------------------------


def _text(asked: Asked, paths: NodePaths, store: Store) -> str:
    if "explain" in asked:
        return _explanation(_read(asked, paths) if asked.words else {})
    found = _read(asked, paths)
    if "raw" in asked:
        from vzpy import ubcproc

        return ubcproc.user_beancounters(found)
    if "json" in asked:
        return _json(found)
    maxheld = asked.share("quiet-maxheld", 0.8)
    look = table.Look(
        held=min(asked.share("quiet-held", 0.5), maxheld),
        maxheld=maxheld,
        quiet="quiet" in asked,
        verbose="verbose" in asked,
        color="color" in asked,
        failcnt_before=store.read("failcnt") if "relative" in asked else None,
        held_before=store.read("held") if "incremental" in asked else None,
    )
    if "relative" in asked:
        store.write("failcnt", found)
    if "incremental" in asked:
        store.write("held", found)
    return table.render(found, look)


def _read(asked: Asked, paths: NodePaths) -> Rows:
    """Rows by CTID, ascending; of those that are named where some are. Unknown ones are
    ignored."""
    from vzpy import names

    if "slice" in asked:
        from vzpy.story import ubset

        uid, rows = ubset.beancounters(paths, asked.given["slice"])
        return {uid: rows}
    looked = (names.lookup(paths.names, word) for word in asked.words)
    wanted = {ctid for ctid in looked if ctid is not None}
    if "file" in asked:
        found = _from_file(asked.given["file"])
    else:
        found = _of_node(paths, wanted if asked.words else None, host="raw" in asked)
    return {n: rows for n, rows in sorted(found.items()) if n in wanted or not asked.words}


def _of_node(paths: NodePaths, wanted: set[int] | None, host: bool) -> Rows:
    from vzpy import state
    from vzpy.node import Node
    from vzpy.story import beancounters

    if os.geteuid():
        raise VzError("This program can only be run under root.", FAILED)
    node = Node(program="vzubc")
    running = state.running_ids(paths)
    ctids = running if wanted is None else sorted(wanted.intersection(running))
    found = beancounters.read_all(node.vps(ctid) for ctid in ctids)
    return {0: beancounters.host(), **found} if host else found


def _from_file(path: str) -> Rows:
    from vzpy import ubcproc

    try:
        if path == "-":
            return ubcproc.parse(sys.stdin.read())
        with open(path) as f:
            return ubcproc.parse(f.read())
    except OSError as err:
        raise VzError.of("Error: cannot read", err, FAILED) from None
    except UnicodeDecodeError:
        raise VzError(f"Error: {path} is no text", FAILED) from None
    except ValueError as err:
        raise VzError(f"Error: {err}", FAILED) from None


def _json(found: Rows) -> str:
    import json

    units = {row.name: row.unit for row in ubc.ROWS}
    objects = [
        {
            "ctid": ctid,
            "beancounters": [
                {"name": row.name, "unit": units.get(row.name, "items"), **_numbers(row)}
                for row in rows
            ],
        }
        for ctid, rows in found.items()
    ]
    return json.dumps(objects, indent=2) + "\n"


def _numbers(row: Beancounter) -> dict[str, int | str | None]:
    return {field: value for field, value in row.__dict__.items() if field != "name"}


def _explanation(found: Rows) -> str:
    """The table of beancounters; of one VPS with the verdicts that hold for it."""
    verdicts = {row.name: row.verdict for rows in found.values() for row in rows}
    lines = [f"{letter}  {meaning}" for letter, meaning in ubc.VERDICTS.items()]
    for row in ubc.ROWS:
        verdict = verdicts.get(row.name, row.verdict)
        lines += ["", f"{row.name}: {verdict}, {row.rank}, {row.unit}", f"  {row.counts}"]
        for label, text in (("limit", row.knob), ("held", row.held), ("failcnt", row.failcnt)):
            lines.append(f"  {label + ':':<9}{text or '-'}")
        lines.append(f"  {row.why[:1].upper()}{row.why[1:]}")
    return "\n".join(lines) + "\n"


# --- again and again -------------------------------------------------------------------------


def _watch(asked: Asked, paths: NodePaths, store: Store) -> int:
    """As watch(1) would do it, without starting anew each time."""
    import time

    before: list[str] = []
    seconds = asked.number("watch-interval", 2)
    try:
        while True:
            lines = _text(asked, paths, store).split("\n")
            shown = list(lines)
            if "watch-differences" in asked and before:
                shown = [_marked(line, before[i : i + 1]) for i, line in enumerate(lines)]
            title = f"Every {seconds:g}s: vzubc\t{time.ctime()}\n\n"
            title = "" if "watch-no-title" in asked else title
            sys.stdout.write(f"\033[H\033[J{title}" + "\n".join(shown))
            sys.stdout.flush()
            before = lines
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()
        return 0


def _marked(line: str, before: list[str]) -> str:
    """A line with the characters that changed in reverse video."""
    old = before[0] if before else ""
    return "".join(
        char if old[i : i + 1] == char else f"\033[7m{char}\033[27m" for i, char in enumerate(line)
    )


class Store:
    """What -r and -i remember from one time to the next: `CTID NAME VALUE` lines in a folder that
    only root may write to."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, name: str) -> dict[tuple[int, str], int]:
        found = {}
        try:
            with open(f"{self.folder}/{name}") as f:
                for line in f:
                    ctid, row, value = line.split()
                    found[int(ctid), row] = int(value)
        except (OSError, ValueError):
            pass  # the first time
        return found

    def write(self, name: str, found: Rows) -> None:
        """Those that were not looked at now keep what they had. Raises VzError 1."""
        values = self.read(name)
        for ctid, rows in found.items():
            values |= {(ctid, row.name): getattr(row, name) or 0 for row in rows}
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            new = f"{self.folder}/{name}.{os.getpid()}"
            with open(new, "x") as f:
                f.writelines(f"{ctid} {row} {n}\n" for (ctid, row), n in values.items())
            os.rename(new, f"{self.folder}/{name}")
        except OSError as err:
            raise VzError.of("Error: cannot remember", err, FAILED) from None

    def clear(self, name: str) -> None:
        try:
            os.unlink(f"{self.folder}/{name}")
        except OSError:
            pass


def usage() -> str:
    lines = ["Usage: vzubc [option ...] [<ctid> ...]", ""]
    for option in OPTIONS:
        short = f"-{option.short}, " if option.short else ""
        flag = f"{short}--{option.name}{' <value>' if option.kind else ''}"
        lines.append(f" {flag:<37} {option.help}")
    lines += ["", " <ctid>: number or name of a container; all that run without one"]
    return "\n".join(lines)
