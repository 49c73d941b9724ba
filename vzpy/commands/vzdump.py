"""vzdump: VPSs into archives (migrate.md 5)."""

from __future__ import annotations

import os
import socket

from vzpy import backup
from vzpy.commands import archiver
from vzpy.commands.bar import Bar
from vzpy.errors import UsageError, VzError
from vzpy.events import DumpWarned
from vzpy.node import Node
from vzpy.option import Option
from vzpy.record import replace
from vzpy.story.dumpjob import Run, mail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.backup import Job
    from vzpy.commands.output import Output

FAILED = archiver.FAILED
OPTIONS = (
    Option("all", help="every VPS"),
    Option("exclude", "number", "all but this one (repeatable)"),
    Option("stop", help="stop a running VPS, copy it, start it again"),
    Option("suspend", help="freeze a running VPS while it is copied"),
    Option("snapshot", help="take a snapshot of a running VPS"),
    Option("exclude-path", "text", "leave out what matches as a whole (repeatable)"),
    Option("stdexcludes", help="leave out temporary files and logs"),
    Option("compress", help="compress by gzip (.tgz)"),
    Option("zstd", help="compress by zstd (.tar.zst)"),
    Option("noarch", help="copy into a directory instead of an archive"),
    Option("dumpdir", "path", "where the archives go; default DUMPDIR of vz.conf"),
    Option("storage", "text", "where they go: a storage of Proxmox VE's storage.cfg"),
    Option("maxfiles", "number", "how many archives of a VPS are kept"),
    Option("script", "path", "hook script"),
    Option("bwlimit", "number", "KiB a second"),
    Option("lockwait", "number", "minutes to wait for another vzdump"),
    Option("mailto", "text", "send the log there (repeatable)"),
    Option("mail-error-only", help="only when something failed"),
    Option("quiet", help="tell errors only"),
    Option("node", "text", "do something on this node only"),
    Option("tmpdir", "path", "accepted: copies lie beside the private area"),
    Option("size", "number", "accepted: no volume is made for a snapshot"),
    Option("stopwait", "number", "minutes to wait for a stop; default STOP_TIMEOUT of the VPS"),
    Option("help", help="usage", short="h"),
)
_USAGE = "Usage: vzdump OPTIONS [--all | CTID...]"


def main(argv: list[str]) -> int:
    """Run `vzdump ARGV...`; returns the exit code."""
    return archiver.run("vzdump", argv, OPTIONS, _USAGE, _run)


def _run(given: dict[str, list[str]], words: list[str], out: Output) -> int:
    node = Node(program="vzdump")
    out.log = node.log
    chosen = _chosen(node, given, words)
    name = socket.gethostname()
    if given.get("node", [name])[-1] not in (name, name.partition(".")[0]):
        return 0
    job = _job(node, given)
    with Bar("Dumping", wanted=not out.quiet) as progress:
        run = Run(node, job, out.report, progress)
        run.run(chosen)
    if why := mail(run, given.get("mailto", []), "mail-error-only" in given):
        out.report(DumpWarned(text=why))
    return FAILED if run.failed else 0


def _chosen(node: Node, given: dict[str, list[str]], words: list[str]) -> list[int]:
    excluded = {_number("exclude", text) for text in given.get("exclude", [])}
    if "all" in given or excluded:
        if words:
            raise UsageError("option --all and --exclude cannot be used with CTIDs", FAILED)
        return [ctid for ctid in node.ids() if ctid not in excluded]
    if not words:
        raise UsageError("no CTID given", FAILED)
    return [node.vps(word).ctid for word in words]


def _number(option: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"--{option} {text}: a number is needed", FAILED)
    return int(text)


def _job(node: Node, given: dict[str, list[str]]) -> Job:
    path = f"{os.path.dirname(node.paths.etc)}/vzdump.conf"
    conf = backup.load_config(path)

    def setting(name: str) -> str:
        return given[name][-1] if name in given else conf.get(name, "")

    modes = [mode for mode in backup.MODES if mode in given]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} exclude each other", FAILED)
    mode = modes[0] if modes else conf.get("mode", "plain")
    if mode not in backup.MODES:
        raise UsageError(f"{path}: no such mode: {mode}", FAILED)
    form = [option for option in _FORMS if option in given]
    if len(form) > 1:
        raise UsageError(f"--{form[0]} and --{form[1]} exclude each other", FAILED)
    dumpdir, maxfiles = _place(node, given, setting)
    job = backup.Job(
        mode=mode,
        dumpdir=dumpdir,
        suffix=_FORMS[form[0]] if form else ".tar",
        exclude=(
            *(backup.STANDARD_EXCLUDES if "stdexcludes" in given else ()),
            *given.get("exclude-path", []),
        ),
        script=setting("script"),
    )
    backup.Excluded(job.exclude)
    return replace(
        job,
        maxfiles=_number("maxfiles", setting("maxfiles") or maxfiles or "0"),
        rate=_number("bwlimit", setting("bwlimit") or "0") * 1024,
        lockwait=_number("lockwait", setting("lockwait") or str(job.lockwait)),
        stopwait=_number("stopwait", setting("stopwait") or "0"),
    )


_FORMS = {"compress": ".tgz", "zstd": ".tar.zst", "noarch": ""}


def _place(
    node: Node, given: dict[str, list[str]], setting: Callable[[str], str]
) -> tuple[str, str]:
    """The dump directory, and how many archives its storage keeps, "" for what it does not say."""
    if "dumpdir" in given and "storage" in given:
        raise UsageError("--dumpdir and --storage exclude each other", FAILED)
    if (name := setting("storage")) and "dumpdir" not in given:
        etc = os.path.dirname(node.paths.etc)
        return backup.storage(f"{etc}/pve/storage.cfg", name)
    dumpdir = setting("dumpdir") or node.config.raw("DUMPDIR")
    if not dumpdir:
        raise VzError("no dump directory: give --dumpdir", FAILED)
    return os.path.abspath(dumpdir), ""
