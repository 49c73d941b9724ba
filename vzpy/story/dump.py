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

from vzpy import backup, config, statecopy, unpack, vztmp
from vzpy.errors import Exit, VzError
from vzpy.events import DumpNote, DumpWarned
from vzpy.fault import fault
from vzpy.kernel.syncfs import syncfs
from vzpy.model import IdRange
from vzpy.story import hold, snapshot, start, states, stop
from vzpy.tarout import Archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import Popen

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
    path: str = "",
    hook: Hook = lambda phase: None,
    progress: Progress | None = None,
) -> str:
    """Write the archive of a VPS whose lock is held; its path. Raises VzError.

    path  where it is to be, or what backup.path_of() says
    hook  called with the phases pre-stop and pre-restart"""
    facts = vps.facts()
    mode = job.mode if facts else "plain"
    report(DumpNote(text=f"status = {'running' if facts else 'stopped'}"))
    report(DumpNote(text=f"backup mode: {mode}"))
    if facts and mode == "plain":
        report(DumpWarned(text="online backup without stop/suspend/snapshot: files may change"
                               " while they are read"))  # fmt: skip
    path = path or backup.path_of(job.dumpdir, vps.ctid, time.time(), job.suffix)
    try:
        os.makedirs(job.dumpdir, 0o700, exist_ok=True)
        _drop_parts(job.dumpdir, vps.ctid)
        with ExitStack() as undo:
            area = states.of(vps)
            tree = _source(vps, area, mode, job, report, hook, undo, progress)
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
    size = (os.stat(path).st_size if job.suffix else written) >> 20
    report(DumpNote(text=f"archive file size: {size}MB ({written >> 20}MB of content)"))
    for name in backup.surplus(os.listdir(job.dumpdir), vps.ctid, job.maxfiles):
        report(DumpNote(text=f"delete old backup '{job.dumpdir}/{name}'"))
        for old in (f"{job.dumpdir}/{name}", backup.log_of(f"{job.dumpdir}/{name}")):
            vztmp.remove(old)
    return path


def _source(
    vps: VPS,
    area: States,
    mode: str,
    job: Job,
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
    with _stopped(vps, report, hook, job.stopwait * 60):
        began = time.monotonic()
        change = area.take(ident, True, progress, draft)
    report(DumpNote(text=f"vps was stopped for {time.monotonic() - began:.2f} seconds"))
    return area.view(change.layers, "vz")


@contextmanager
def _stopped(vps: VPS, report: Report, hook: Hook, patience: float) -> Iterator[None]:
    """Stopped for the block, and started again whatever it raises."""
    report(DumpNote(text=f"stopping vps {vps.ctid}"))
    stop.stop(vps, report, patience=patience)
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
    """The archive, compressed where it is asked for, or unpacked; bytes of its content."""
    undo.callback(vztmp.remove, path)
    into = _file(path, job.suffix) if job.suffix else _unpacked(path, area.seen.count)
    with into as sink:
        archive = Archive(
            sink,
            area.seen,
            on_disk=vps.ids,
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
    return archive.written


def _settings(vps: VPS) -> Iterator[tuple[str, bytes]]:
    """Configuration and action scripts, by their names in the archive."""
    for name in ("conf", *backup.SCRIPTS):
        try:
            with open(f"{vps.node.paths.conf}/{vps.ctid}.{name}", "rb") as file:
                yield f"vps.{name}", file.read()
        except FileNotFoundError:
            pass


@contextmanager
def _file(path: str, suffix: str) -> Iterator[int]:
    """A descriptor for a file, through a program where it is to be compressed. Raises VzError."""
    command = backup.COMPRESSORS[suffix]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if command:
            from shutil import which
            from subprocess import PIPE, Popen

            name = command[0]
            if not which(name):
                raise VzError(f"{name} is not installed", hint=f"apt-get install {name}")
            with Popen(command, stdin=PIPE, stdout=out, stderr=PIPE) as program:
                assert program.stderr
                with _piped(program) as sink:
                    yield sink
                complaint = program.stderr.read().decode(errors="replace").strip()
            if program.returncode:
                raise VzError(f"{name} failed: {complaint}", Exit.SYSTEM)
        else:
            yield out
        os.fsync(out)
    finally:
        os.close(out)


@contextmanager
def _unpacked(path: str, count: int) -> Iterator[int]:
    """A descriptor for what is unpacked into a directory that only root can enter: the programs in
    it belong to root, and may have its rights. Raises VzError."""
    from subprocess import DEVNULL, PIPE, Popen

    root = f"{path}/{backup.TREE}"
    os.mkdir(path, 0o700)
    os.mkdir(root, 0o700)
    command = unpack.command(root, IdRange(0, count))
    with Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}) as program:
        assert program.stdout
        with _piped(program) as sink:
            yield sink
        complaint = program.stdout.read()
    if program.returncode:
        raise unpack.explained(path, path, complaint)
    syncfs(path)


@contextmanager
def _piped(program: Popen[bytes]) -> Iterator[int]:
    """Its standard input; what it tells must fit into a pipe."""
    assert program.stdin
    try:
        yield program.stdin.fileno()
    except BrokenPipeError:
        pass  # it tells why
    except BaseException:
        program.kill()
        raise
    finally:
        program.stdin.close()
        program.wait()


def _drop_parts(folder: str, ctid: int) -> None:
    """What a dump of this VPS left that was killed: we have its lock."""
    for name in os.listdir(folder):
        if name.startswith(f"vzdump-openvz-{ctid}-") and name.endswith(PART):
            vztmp.remove(f"{folder}/{name}")
