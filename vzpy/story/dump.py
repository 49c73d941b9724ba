"""One VPS into one archive (migrate.md 5). What each mode reads from:

plain      the tree as it is, running or not
suspend    a copy made while the VPS stands still, of what a first pass had not copied yet
stop       the same, made while the VPS is stopped; it runs again before the archive is written
snapshot   as suspend, in one pass: a reflink where the file system can

The archive appears under its name when it is whole."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager

from vzpy import backup, config, statecopy
from vzpy.errors import Exit, VzError
from vzpy.events import DumpNote, DumpWarned
from vzpy.fault import fault
from vzpy.story import hold, snapshot, start, states, stop
from vzpy.tarout import Archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vzpy.backup import Job
    from vzpy.events import Report
    from vzpy.statecopy import Progress
    from vzpy.story.states import States
    from vzpy.vps import VPS

    Hook = Callable[[str], None]

STEPS = ("archive", "finish")
PART = ".dat"  # of an archive that is being written


def dump(
    vps: VPS,
    job: Job,
    report: Report,
    *,
    hook: Hook = lambda phase: None,
    progress: Progress | None = None,
) -> str:
    """Write the archive of a VPS whose lock is held; its path. Raises VzError.

    hook  called with the phases pre-stop and pre-restart"""
    facts = vps.facts()
    mode = job.mode if facts else "plain"
    report(DumpNote(text=f"status = {'running' if facts else 'stopped'}"))
    report(DumpNote(text=f"backup mode: {mode}"))
    if facts and mode == "plain":
        report(DumpWarned(text="online backup without stop/suspend/snapshot: files may change"
                               " while they are read"))  # fmt: skip
    path = backup.path_of(job.dumpdir, vps.ctid, time.time(), job.suffix)
    try:
        os.makedirs(job.dumpdir, 0o700, exist_ok=True)
        _drop_parts(job.dumpdir, vps.ctid)
        with ExitStack() as undo:
            area = states.of(vps)
            tree = _source(vps, area, mode, report, hook, undo, progress)
            undo.callback(os.close, tree)
            report(DumpNote(text=f"creating archive '{path}'"))
            fault("archive")
            written = _write(vps, area, job, tree, f"{path}{PART}", report, undo, progress)
            fault("finish")
            os.rename(f"{path}{PART}", path)
            config.sync_folder(job.dumpdir)
            undo.pop_all().close()
    except OSError as err:
        raise VzError.of("Unable to write the archive", err) from err
    size = os.stat(path).st_size >> 20
    report(DumpNote(text=f"archive file size: {size}MB ({written >> 20}MB of content)"))
    for name in backup.surplus(os.listdir(job.dumpdir), vps.ctid, job.maxfiles):
        report(DumpNote(text=f"delete old backup '{job.dumpdir}/{name}'"))
        for old in (f"{job.dumpdir}/{name}", backup.log_of(f"{job.dumpdir}/{name}")):
            _unlink(old)
    return path


def _source(
    vps: VPS,
    area: States,
    mode: str,
    report: Report,
    hook: Hook,
    undo: ExitStack,
    progress: Progress | None,
) -> int:
    """A read-only mount of what goes into the archive."""
    if mode == "plain":
        return area.present()
    area.prepare()
    undo.callback(_collect, area)
    ident = states.new_id()
    if mode == "snapshot":
        report(DumpNote(text="creating snapshot"))
        with hold.still(vps.facts()):
            change = area.take(ident, True, progress)
        return area.view(change.layers, "vz")
    report(DumpNote(text="first copy while it runs"))
    began = time.monotonic()
    draft = area.draft(ident, progress)
    if mode == "suspend":
        report(DumpNote(text=f"suspend vps {vps.ctid}"))
        began = time.monotonic()
        with hold.still(vps.facts()):
            change = area.take(ident, True, progress, draft)
        report(DumpNote(text=f"vps was suspended for {time.monotonic() - began:.2f} seconds"))
        return area.view(change.layers, "vz")
    hook("pre-stop")
    with _stopped(vps, report, hook):
        began = time.monotonic()
        change = area.take(ident, True, progress, draft)
    report(DumpNote(text=f"vps was stopped for {time.monotonic() - began:.2f} seconds"))
    return area.view(change.layers, "vz")


@contextmanager
def _stopped(vps: VPS, report: Report, hook: Hook) -> Iterator[None]:
    """Stopped for the block, and started again whatever it raises."""
    report(DumpNote(text=f"stopping vps {vps.ctid}"))
    stop.stop(vps, report)
    try:
        yield
    finally:
        hook("pre-restart")
        report(DumpNote(text=f"starting vps {vps.ctid}"))
        start.start(vps, report)


def _collect(area: States) -> None:
    area.collect(snapshot.used(area))


def _write(
    vps: VPS,
    area: States,
    job: Job,
    tree: int,
    path: str,
    report: Report,
    undo: ExitStack,
    progress: Progress | None,
) -> int:
    """The archive, compressed where it is asked for; bytes of its content."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    undo.callback(_unlink, path)
    try:
        with _compressed(backup.COMPRESSORS[job.suffix], out) as sink:
            archive = Archive(
                sink,
                area.seen,
                excluded=backup.Excluded(job.exclude),
                warn=lambda text: report(DumpWarned(text=text)),
                progress=progress,
                total=statecopy.measure(tree) if progress else 0,
                rate=job.rate,
            )
            for name, data in _settings(vps):
                archive.text(f"./{backup.FOLDER}/{name}", data)
            archive.tree(tree, f"/{backup.FOLDER}")
            archive.close()
        os.fsync(out)
        return archive.written
    finally:
        os.close(out)


def _settings(vps: VPS) -> Iterator[tuple[str, bytes]]:
    """Configuration and action scripts, by their names in the archive."""
    for name in ("conf", *backup.SCRIPTS):
        try:
            with open(f"{vps.node.paths.conf}/{vps.ctid}.{name}", "rb") as file:
                yield f"vps.{name}", file.read()
        except FileNotFoundError:
            pass


@contextmanager
def _compressed(command: tuple[str, ...], out: int) -> Iterator[int]:
    """A descriptor that what is written to goes through a program. Raises VzError."""
    if not command:
        yield out
        return
    from shutil import which
    from subprocess import PIPE, Popen

    if not which(command[0]):
        raise VzError(f"{command[0]} is not installed", hint=f"apt-get install {command[0]}")
    with Popen(command, stdin=PIPE, stdout=out, stderr=PIPE) as program:
        assert program.stdin and program.stderr
        try:
            yield program.stdin.fileno()
            program.stdin.close()
        except BrokenPipeError:
            pass  # it tells why
        except BaseException:
            program.kill()
            raise
        complaint = program.stderr.read().decode(errors="replace").strip()
    if program.returncode:
        raise VzError(f"{command[0]} failed: {complaint}", Exit.SYSTEM)


def _drop_parts(folder: str, ctid: int) -> None:
    """What a dump of this VPS left that was killed: we have its lock."""
    for name in os.listdir(folder):
        if name.startswith(f"vzdump-openvz-{ctid}-") and name.endswith(PART):
            _unlink(f"{folder}/{name}")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
