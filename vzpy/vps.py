"""One VPS: the facade that scripts and tools use. Each method is one story, under its lock."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.errors import Exit, NoSuchVPS, NotRunning, VzError
from vzpy.events import silent
from vzpy.kernel.proc import is_mounted
from vzpy.model import IdRange
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.ids import Owner
    from vzpy.model import Facts
    from vzpy.node import Node
    from vzpy.story.pump import Result
    from vzpy.template import Progress


@record
class Status:
    """What `vzctl status` tells."""

    exist: bool
    mounted: bool
    running: bool
    suspended: bool

    def __str__(self) -> str:
        words = [
            "exist" if self.exist else "deleted",
            "mounted" if self.mounted else "unmounted",
            "running" if self.running else "down",
        ]
        return " ".join(words + ["suspended"] * self.suspended)


class VPS:
    """A VPS of a node, by number. Making the object touches nothing."""

    def __init__(self, node: Node, ctid: int) -> None:
        self.node = node
        self.ctid = ctid
        self._config: Config | None = None

    def __repr__(self) -> str:
        return f"VPS({self.ctid})"

    # What it is

    @property
    def conf_path(self) -> str:
        return f"{self.node.paths.conf}/{self.ctid}.conf"

    @property
    def config(self) -> Config:
        """vz.conf, over it N.conf, as read first; reload() reads again."""
        if self._config is None:
            self._config = self.node.config.vps(self.ctid, self.conf_path)
        return self._config

    def reload(self) -> None:
        self._config = None

    @property
    def root(self) -> str:
        return self._path("VE_ROOT", Exit.VE_ROOT_NOTSET)

    @property
    def private(self) -> str:
        return self._path("VE_PRIVATE", Exit.VE_PRIVATE_NOTSET)

    def _path(self, key: str, code: int) -> str:
        path = self.config.raw(key)
        if not path:
            raise VzError(f"{key} is not set", code)
        return path

    @property
    def layout(self) -> str:
        """VE_LAYOUT of N.conf, else what the private area looks like."""
        given = self.config.own("VE_LAYOUT")
        if given:
            return given
        from vzpy import rootfs

        return rootfs.layout_of(self.private)

    @property
    def owner(self) -> Owner:
        from vzpy import ids

        return ids.Owner(self.node.paths.etc, self.ctid, self.private)

    @property
    def ids(self) -> IdRange:
        """The host ids of its users, as N.conf says.

        Raises ValueInvalid (21) for a range that cannot be; VzError (47) when there is none."""
        from vzpy import ids

        own = self.config.own
        found = ids.range_of(own("LOCAL_UID"), own("LOCAL_GID"), own("LOCAL_IDS"))
        if found is None:
            raise VzError(
                f"{self.conf_path} names no id range (LOCAL_UID)",
                Exit.FS_BAD_TMPL,
                hint="`vzctl start` gives it one.",
            )
        return found

    @property
    def hostname(self) -> str:
        return self.config.value("HOSTNAME") or self.config.value("NAME") or f"vps{self.ctid}"

    @property
    def stop_timeout(self) -> int:
        """Seconds that a halt may take."""
        return self.config.value("STOP_TIMEOUT") or 120

    @property
    def uuid(self) -> str:
        """container_uuid: the same for this VPS of this node at every start (gotcha G20)."""
        import hashlib

        try:
            with open("/etc/machine-id", "rb") as f:
                machine = f.read().strip()
        except OSError:
            machine = b""
        seed = machine + os.fsencode(f"{self.node.paths.etc}/{self.ctid}")
        hexes = hashlib.sha256(seed).hexdigest()
        # Version 5 and the RFC 4122 variant in their places, or systemd does not take it.
        return f"{hexes[:8]}-{hexes[8:12]}-5{hexes[13:16]}-8{hexes[17:20]}-{hexes[20:32]}"

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

    def facts(self) -> Facts | None:
        """The facts of its start while it runs, else None."""
        return state.find(self.node.paths, self.ctid)

    def running(self) -> Facts:
        """The facts of its start. Raises NotRunning (31)."""
        facts = self.facts()
        if facts is None:
            raise NotRunning
        return facts

    def require(self) -> None:
        """Raises NoSuchVPS (14) without an N.conf; VzError 21 for number 0, the host."""
        self._not_the_host()
        if not self.config.exists:
            raise NoSuchVPS

    def _not_the_host(self) -> None:
        if self.ctid == 0:
            raise VzError("Only set actions are allowed for CT0", Exit.INVALID_PARAMETER_VALUE)

    # What is done to it

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

    def start(self, *, wait: bool = False, force: bool = False, report: Report = silent) -> None:
        """Start; with `wait` return when the VPS says that it has booted.

        Raises VzError: 32 running, 105 disabled, 43, 47, 50, 79, 133 and more (vzctl-cli 2.2)."""
        from vzpy.story.start import start

        self.require()
        with self.locked(report):
            self._settle(report)
            start(self, report, force, wait)

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
        report: Report = silent,
    ) -> None:
        from vzpy.events import Restarting
        from vzpy.story.start import start
        from vzpy.story.stop import stop

        self.require()
        with self.locked(report):
            report(Restarting())
            if self.facts():
                stop(self, report, fast)
            self._settle(report)
            start(self, report, force, wait)

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
        from vzpy.story import enter

        return self.run(
            enter.program([os.fsencode(word) for word in argv]),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            timeout=timeout,
        )

    def run(
        self,
        candidates: tuple[tuple[bytes, tuple[bytes, ...]], ...],
        *,
        stdin: bytes | int = b"",
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """exec() for prepared candidates (enter.shell, enter.program)."""
        from vzpy.story import pump

        try:
            return pump.run(
                self.running(),
                candidates,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={os.fsencode(k): os.fsencode(v) for k, v in env.items()} if env else None,
                timeout=timeout,
                filter_cache=self.node.paths.state,
            )
        except OSError as err:
            where = f"{err.filename}: " if err.filename else ""
            raise VzError(
                f"Unable to execute in the container: {where}{err.strerror}",
                Exit.FS_BAD_TMPL,
                errno=err.errno or 0,
            ) from err

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
