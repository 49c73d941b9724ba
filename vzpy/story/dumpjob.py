"""A run of vzdump over several VPSs: locks, hooks, log files (migrate.md 5)."""

from __future__ import annotations

import os
import socket
import time

from vzpy import backup
from vzpy.errors import Locked, VzError
from vzpy.events import DumpFailed, DumpNote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.backup import Job
    from vzpy.events import Event, Report
    from vzpy.node import Node
    from vzpy.statecopy import Progress
    from vzpy.vps import VPS

_TRIES, _PAUSE = 30, 2  # of the lock of a VPS


class Run:
    """One job of vzdump.

    failed  numbers of the VPSs that were not dumped
    lines   all that was told, for the mail"""

    def __init__(
        self, node: Node, job: Job, report: Report, progress: Progress | None = None
    ) -> None:
        self.node, self.job, self._report, self.progress = node, job, report, progress
        self.failed: list[int] = []
        self.lines: list[str] = []
        self._log: int | None = None

    def report(self, event: Event) -> None:
        """To the caller, to the log of the archive, and kept."""
        self._report(event)
        if event.level > 0:
            return
        stamp = time.strftime("%b %d %H:%M:%S")
        self.lines.append(str(event))
        if self._log is not None:
            os.write(self._log, os.fsencode(f"{stamp} {event}\n"))

    def run(self, ctids: list[int]) -> None:
        """Dump each; what fails is told, and the next one's turn comes. Raises VzError when the
        job as a whole cannot run."""
        with _GlobalLock(self.node.paths.conf, self.job.lockwait * 60):
            try:
                self._hook("job-start")
                for ctid in ctids:
                    self._one(self.node.vps(ctid))
                self._hook("job-end")
            except BaseException:
                try:
                    self._hook("job-abort")
                except VzError:
                    pass  # the first error is the one that counts
                raise

    def _one(self, vps: VPS) -> None:
        began = time.monotonic()
        kind = f"VM {vps.ctid} (openvz)"
        scratch = f"{self.job.dumpdir}/vzdump-openvz-{vps.ctid}.log.tmp"
        archive = backup.path_of(self.job.dumpdir, vps.ctid, time.time(), self.job.suffix)
        written = False
        try:
            os.makedirs(self.job.dumpdir, 0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._log = os.open(scratch, flags, 0o600)
        except OSError as err:
            raise VzError.of("Unable to write to the dump directory", err) from err
        environment = {"LOGFILE": scratch, "TARFILE": archive}
        try:
            self.report(DumpNote(text=f"Starting Backup of {kind}"))

            def hook(phase: str) -> None:
                self._hook(phase, vps, environment)

            hook("backup-start")
            self._locked(vps, archive, hook)
            written = True
            hook("backup-end")
            took = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - began))
            self.report(DumpNote(text=f"Finished Backup of VM {vps.ctid} ({took})"))
        except VzError as err:
            self.failed.append(vps.ctid)
            text = " ".join(str(err).split())
            self.report(DumpFailed(text=f"Backup of VM {vps.ctid} failed - {text}"))
            try:
                self._hook("backup-abort", vps, environment)
            except VzError as also:
                self.report(DumpFailed(text=str(also)))
        finally:
            os.close(self._log)
            self._log = None
            if written:
                os.rename(scratch, backup.log_of(archive))
            else:
                os.unlink(scratch)

    def _locked(self, vps: VPS, archive: str, hook: Callable[[str], None]) -> None:
        vps.require()
        for attempt in range(_TRIES):
            try:
                vps.dump(
                    self.job, path=archive, hook=hook, report=self.report, progress=self.progress
                )
                return
            except Locked:
                if attempt == _TRIES - 1:
                    raise
            time.sleep(_PAUSE)

    def _hook(
        self, phase: str, vps: VPS | None = None, more: dict[str, str] | None = None
    ) -> None:
        """`SCRIPT PHASE [MODE VMID]`. Raises VzError when it does not end well."""
        if not self.job.script:
            return
        from subprocess import PIPE, STDOUT, run

        words = [self.job.script, phase, *([self.job.mode, str(vps.ctid)] if vps else [])]
        own = {"VMTYPE": "openvz", "DUMPDIR": self.job.dumpdir, **(more or {})}
        if vps:
            own["HOSTNAME"] = vps.hostname
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        try:
            done = run(words, env={"PATH": path, **own}, stdout=PIPE, stderr=STDOUT, check=False)
        except OSError as err:
            raise VzError.of(f"hook script {self.job.script} failed", err) from err
        for line in done.stdout.decode(errors="replace").splitlines():
            self.report(DumpNote(text=line))
        if done.returncode:
            raise VzError(f"hook script {words[0]} {phase}: exit status {done.returncode}")


class _GlobalLock:
    """One vzdump at a time: whoever holds a lock on the folder of the configurations."""

    def __init__(self, path: str, patience: float) -> None:
        self.path, self.patience = path, patience

    def __enter__(self) -> None:
        import fcntl

        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        end = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    os.close(self._fd)
                    raise VzError("got no lock: another vzdump is running") from None
            time.sleep(0.5)

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def mail(run: Run, recipients: list[str], errors_only: bool) -> str:
    """Send what was told by sendmail(8); returns what went wrong, "" for nothing."""
    if not recipients or errors_only and not run.failed:
        return ""
    from shutil import which
    from subprocess import DEVNULL
    from subprocess import run as call

    program = which("sendmail", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib:/usr/bin")
    if program is None:
        return "no mail was sent: there is no sendmail"
    state = "backup failed" if run.failed else "backup successful"
    head = [f"To: {', '.join(recipients)}",
            f"Subject: vzdump backup status ({socket.gethostname()}) : {state}", "", ""]
    text = "\n".join([*head, *run.lines, ""])
    done = call([program, "-B", "8BITMIME", *recipients], input=os.fsencode(text), stdout=DEVNULL,
                stderr=DEVNULL, check=False)
    return f"sendmail: exit status {done.returncode}" if done.returncode else ""


