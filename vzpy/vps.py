"""One VPS: the facade that scripts and tools use. Each method is one story, under its lock."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.errors import Exit, VzError
from vzpy.events import silent
from vzpy.identity import Status
from vzpy.kernel.proc import is_mounted, real
from vzpy.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.events import Report
    from vzpy.story.pump import Result
    from vzpy.template import Progress
    from vzpy.ubcproc import Beancounter


class VPS(Storage):
    """A VPS of a node, by number: what is done to it."""

    @property
    def status(self) -> Status:
        """What the kernel and the files say now; what a halt from inside left is cleaned up."""
        facts = self.facts()
        running = facts is not None
        if not running and state.read_facts(self.node.paths, self.ctid):
            try:
                self.settle(wait=False)
            except VzError:
                pass  # what cannot be cleaned up is told by those who need it clean
        private, root = self.config.raw("VE_PRIVATE"), self.config.raw("VE_ROOT")
        exist = self.config.exists and bool(private) and os.path.exists(private or "")
        dump = f"{self.config.raw('DUMPDIR')}/Dump.{self.ctid}"
        return Status(
            exist=exist,
            mounted=bool(root) and is_mounted(root or ""),
            running=running,
            suspended=exist and not running and os.path.exists(dump),
        )

    def locked(self, report: Report = silent, word: str = "") -> state.Lock | _Unlocked:
        """The lock of the contract, as a context; nothing where the node was told to skip it."""
        if self.node.skiplock:
            return _Unlocked()
        lockdir = self.node.config.raw("LOCKDIR")
        if not lockdir:
            raise VzError("lockdir is not set", Exit.SYSTEM)
        return state.Lock(lockdir, self.ctid, report, word)

    def create(
        self, *, report: Report = silent, progress: Progress | None = None, **params: object
    ) -> None:
        from vzpy.story.create import create

        self._not_the_host()
        with self.locked(report):
            create(self.node, self.ctid, params, report, progress)
        self.reload()

    def destroy(self, *, report: Report = silent) -> None:
        from vzpy.story.destroy import destroy

        self.require()
        with self.locked(report):
            self._settle(report)
            destroy(self, report)
        self.reload()

    def start(
        self,
        *,
        wait: bool = False,
        force: bool = False,
        remount: bool = True,
        setup: bool = True,
        fsck: bool = True,
        report: Report = silent,
    ) -> None:
        """Start; with `wait` return when the VPS says that it has booted.

        remount  False: use the root as it is mounted
        setup    False: leave host name, address and DNS in its files alone
        fsck     False: mount an image as it is, though it has met an error
        Raises VzError: 32 running, 105 disabled, 43, 47, 50, 79, 133 and more (vzctl-cli 2.2)."""
        from vzpy.story.start import Manner, start

        self.require()
        with self.locked(report):
            self._settle(report)
            start(self, report, Manner(force, wait, remount, setup, fsck))

    def stop(self, *, fast: bool = False, umount: bool = True, report: Report = silent) -> None:
        """Halt by the means of its init, else kill; unmount.

        Raises VzError: 33 it does not stop, 51, 79."""
        from vzpy.story.stop import stop

        self.require()
        with self.locked(report):
            stop(self, report, fast, umount)

    def restart(
        self,
        *,
        wait: bool = False,
        force: bool = False,
        fast: bool = False,
        umount: bool = True,
        remount: bool = True,
        setup: bool = True,
        fsck: bool = True,
        report: Report = silent,
    ) -> None:
        """stop() and start() under one lock; a stopped VPS is started."""
        from vzpy.events import Restarting
        from vzpy.story.start import Manner, start
        from vzpy.story.stop import stop

        self.require()
        with self.locked(report):
            report(Restarting())
            if self.facts():
                stop(self, report, fast, umount)
            self._settle(report)
            start(self, report, Manner(force, wait, remount, setup, fsck))

    def mount(self, *, report: Report = silent) -> None:
        from vzpy.story.mount import mount

        self.require()
        with self.locked(report):
            self._settle(report)
            mount(self, report)

    def umount(self, *, report: Report = silent) -> None:
        from vzpy.story.mount import umount

        self.require()
        with self.locked(report):
            umount(self, report)

    def settle(self, *, wait: bool = True, report: Report = silent) -> None:
        """Clean up after a VPS that ended without us; without `wait` not while somebody else
        holds the lock, or will: a daemon that knows whether it was a reboot. A start that was cut
        short has no init that it could know of."""
        from vzpy.errors import Locked
        from vzpy.eventd.client import answers

        left = state.read_facts(self.node.paths, self.ctid)
        if not wait and left and left.pid and answers(self.node.paths):
            return
        try:
            with self.locked(report):
                self._settle(report)
        except Locked:
            if wait:
                raise

    def _settle(self, report: Report) -> None:
        from vzpy.story.teardown import settle

        settle(self, report)
        if os.path.exists(f"{self.conf_path}.converting"):
            from vzpy.story.convert import recover

            recover(self)
        store = real(self.config.raw("VE_PRIVATE") or ".")
        left = ("/Snapshots.journal", "/Snapshots.untidy")
        if any(os.path.exists(f"{store}{x}{y}") for x in ("", ".snapshots") for y in left):
            from vzpy.story import snapshot

            snapshot.recover(self, report)

    def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes | int = b"",
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run a command inside: words as they are, no shell.

        argv    looked for in the PATH of the contract
        stdin   bytes, or a descriptor; stdout, stderr: descriptors, or None to capture
        env     instead of PATH, HOME=/ and TERM=linux
        Raises NotRunning (31); VzError 15 after the timeout (seconds); VzError 47 when the command
        cannot be executed."""
        from vzpy.story import enter, pump

        return pump.run_in(
            self.node.paths,
            self.ctid,
            enter.program([os.fsencode(word) for word in argv]),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={os.fsencode(k): os.fsencode(v) for k, v in env.items()} if env else None,
            timeout=timeout,
        )

    def runscript(
        self,
        text: bytes,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        report: Report = silent,
    ) -> Result:
        """Give a script to a shell inside; a stopped VPS is entered without init.

        Raises VzError: 43, 47 and what start() does."""
        from vzpy.story.runscript import runscript

        self.require()
        with self.locked(report):
            self._settle(report)
            return runscript(self, text, stdout, stderr, report)

    def set(self, *, save: bool = True, report: Report = silent, **params: object) -> None:
        """Change parameters, on the running VPS and (save) in N.conf."""
        from vzpy.story.set import set_params

        with self.locked(report):
            set_params(self, params, save, report)
        self.reload()

    def rescue(self, *, report: Report = silent) -> None:
        """Get a VPS that thrashes going again: freeze it, reclaim, kill its biggest process when
        the rest does not fit into its RAM, thaw it.

        Raises NotRunning (31); VzError 1 without a memory limit."""
        from vzpy.story.rescue import rescue

        self.require()
        with self.locked(report):
            rescue(self, report)

    def beancounters(self) -> list[Beancounter]:
        """Held, maxheld, barrier, limit, failcnt of each. Raises NotRunning (31)."""
        from vzpy.story.beancounters import read

        self.require()
        return read(self)

    def suspend(self, *, report: Report = silent) -> None:
        """Freeze in place. Raises NotRunning (31); VzError 16."""
        from vzpy.story.freeze import freeze

        self.require()
        with self.locked(report):
            freeze(self, report)

    def resume(self, *, report: Report = silent) -> None:
        """Go on after suspend(). Raises NotRunning (31); VzError 17."""
        from vzpy.story.freeze import thaw

        self.require()
        with self.locked(report):
            thaw(self, report)


class _Unlocked:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
