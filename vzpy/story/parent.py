"""Who is init's parent: vzeventd where it answers, else the caller (DESIGN 2.1).

Both run the same program (child.py); the daemon is handed it, and its descriptors. Only a parent
sees the wait status of init, which tells a reboot from a halt and both from a crash."""

from __future__ import annotations

import os

from vzpy import ns
from vzpy.errors import VzError
from vzpy.events import Warned
from vzpy.story import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.eventd.client import Daemon
    from vzpy.eventd.wire import Message
    from vzpy.events import Report
    from vzpy.kernel.program import Filled, Program
    from vzpy.model import NodePaths
    from vzpy.story.conversation import Conversation


class Caller:
    """The caller is the parent: no console, and nobody sees how init ends."""

    by_daemon = False
    _launcher = 0
    _unborn: Conversation | None = None  # the task that has been launched and not been heard of

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unborn:
            try:
                enter.reap(self.born())
            except (OSError, VzError):
                pass  # it has not come to that
        if self._launcher:
            os.waitpid(self._launcher, 0)

    def sure(self) -> Caller:
        """Who it really is: has to be asked before launch()."""
        return self

    def ask_for_spare(self, addresses: str) -> None:
        """Of a guard that is loaded already, for the venet of these addresses: before sure()."""

    def spare(self) -> list[int]:
        """Descriptors of its programs, the caller's to close; none when there is none."""
        return []

    def launch(
        self, program: Program, filled: Filled, fds: list[int], talk: Conversation
    ) -> None:
        """Run the program, which is given these descriptors, as a child: born() tells what came of
        it. A launcher is reaped when all is done, and nobody waits for its end."""
        ns.can_wait()
        self._launcher = program.start(fds, filled)
        talk.theirs.close()
        self._unborn = talk

    def born(self) -> int:
        """The pid of the task. Raises ChildError, VzError when there is none."""
        assert self._unborn
        talk, self._unborn = self._unborn, None
        return talk.ours.born()

    def launched(self) -> None:
        """Wait until the parent has done its part."""

    def keep_console(self, master: int) -> None:
        os.close(master)

    def hold(self, name: str, fd: int) -> None:
        """Only a daemon outlives us. Raises OSError."""
        raise OSError(95, os.strerror(95), name)

    def held(self) -> None:
        """All that it was asked to hold it has. Raises OSError."""

    def once_it_runs(self, message: Message) -> bool:
        """Have vzeventd told something after watch(), by when nobody waits for it; False where
        there is none."""
        return False

    def watch(self) -> None:
        """The VPS runs, and start.json says so."""


class NodeDaemon(Caller):
    """vzeventd is the parent, keeps the console and watches init to its end.

    Killed in between, it is started anew: it then adopts the VPS, and is given the console."""

    by_daemon = True

    def __init__(self, paths: NodePaths, ctid: int, daemon: Daemon, report: Report) -> None:
        self.paths, self.ctid, self.daemon, self.report = paths, ctid, daemon, report
        self._master = -1
        self._instead: Caller | None = None
        self._given: list[int] = []
        self._news: list[Message] = []
        self._holds: dict[str, int] = {}
        self._owes_spare = False
        self._spare: list[int] = []
        self._owes_answer = False
        self._begin()

    def _begin(self) -> None:
        """Should we be killed, it puts away what is left of the start."""
        try:
            self.daemon.send({"op": "start", "ctid": self.ctid})
        except OSError:
            pass  # launch() will find another one

    def sure(self) -> Caller:
        """Its answer to hello is only waited for here: it needs as long as a cgroup does."""
        try:
            daemon = self.daemon.greeted(self.paths)
        except OSError as err:
            self.report(Warned(text=_unattended(err)))
            self._instead = Caller()
            return self._instead
        if daemon is not self.daemon:
            self.daemon = daemon
            self._begin()
        elif self._owes_spare:
            try:
                self._spare = daemon.descriptors()
            except OSError:
                pass  # launch() will see to a daemon that has died
        return self

    def ask_for_spare(self, addresses: str) -> None:
        try:
            self.daemon.send({"op": "spare", "ctid": self.ctid, "addresses": addresses})
            self._owes_spare = True
        except OSError:
            pass

    def spare(self) -> list[int]:
        given, self._spare = self._spare, []
        return given

    def __exit__(self, *_: object) -> None:
        for fd in self.spare():
            os.close(fd)
        self._let_go()
        if self._instead:
            self._instead.__exit__()
        self.daemon.close()
        if self._master >= 0:
            os.close(self._master)

    def launch(
        self, program: Program, filled: Filled, fds: list[int], talk: Conversation
    ) -> None:
        self._given = [talk.hand_over(program.load(filled)), *fds]
        self._unborn = talk
        with _Died():
            try:
                self._launch()
            except ConnectionError:
                self._open_again()
                self._launch()

    def _launch(self) -> None:
        self.daemon.send({"op": "launch"}, self._given)

    def born(self) -> int:
        assert self._unborn
        talk, self._unborn = self._unborn, None
        with _Died():
            try:
                self._wait(talk.ours.fileno())
            except ConnectionResetError:  # it died before it read that
                self._open_again()
                self._launch()
                self._wait(talk.ours.fileno())
        talk.theirs.close()
        return talk.ours.born()

    def _wait(self, answer: int) -> None:
        self._owes_answer = self.daemon.is_outrun(answer)
        if not self._owes_answer:
            self.daemon.receive()

    def launched(self) -> None:
        if self._owes_answer:
            with _Died():
                self.daemon.receive()

    def _open_again(self) -> None:
        from vzpy.eventd.client import Daemon

        self.daemon.close()
        self.daemon = Daemon.open(self.paths)
        self._begin()

    def keep_console(self, master: int) -> None:
        self._master = master
        try:
            self._hand_console()
        except OSError:
            pass  # watch() will see to it

    def _hand_console(self) -> None:
        self.daemon.send({"op": "console", "ctid": self.ctid}, [self._master])

    def hold(self, name: str, fd: int) -> None:
        """A descriptor for the life of the VPS; ours is still the caller's to close. held() waits
        for the answer."""
        self._holds[name] = os.dup(fd)
        try:
            self._hold(name)
        except ConnectionError:
            pass  # held() will see to it

    def _hold(self, name: str) -> None:
        message: Message = {"op": "hold", "ctid": self.ctid, "name": name}
        self.daemon.send(message, [self._holds[name]])

    def held(self) -> None:
        try:
            for _ in self._holds:
                self.daemon.receive()
        except ConnectionError:
            self._open_again()
            if self._master >= 0:
                self._hand_console()
            for name in self._holds:
                self._hold(name)
                self.daemon.receive()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        while self._holds:
            os.close(self._holds.popitem()[1])

    def once_it_runs(self, message: Message) -> bool:
        self._news.append(message)
        return True

    def watch(self) -> None:
        if self._instead:
            return
        try:
            try:
                self.daemon.send({"op": "watch", "ctid": self.ctid})
            except ConnectionError:
                self._open_again()
                self._hand_console()
                self.daemon.send({"op": "watch", "ctid": self.ctid})
            for message in self._news:
                self.daemon.send(message)
        except OSError as err:
            self.report(Warned(text=_unattended(err)))


class _Died:
    """A context: the daemon that has gone is told of."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, err: BaseException | None, trace: object) -> None:
        if isinstance(err, ConnectionError):
            raise VzError("vzeventd has died while it started the container",
                          hint="Try again: it will be started anew.") from err


def of(paths: NodePaths, ctid: int, report: Report) -> Caller:
    """The parent of a VPS that is about to be started; a context."""
    from vzpy.eventd.client import Daemon

    try:
        return NodeDaemon(paths, ctid, Daemon.call(paths), report)
    except OSError as err:
        report(Warned(text=_unattended(err)))
        return Caller()


def _unattended(err: OSError) -> str:
    return (
        f"Warning: vzeventd does not answer ({err.strerror or err}): the container has no console,"
        " and does not come back after a reboot from inside"
    )
