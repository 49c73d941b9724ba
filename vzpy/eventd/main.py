"""vzeventd: the node daemon. One a node, started by the first start of a VPS, or by systemd.

It is the parent of every init and knows by its wait status how it ended; it cleans up, starts
again after a reboot from inside, and holds the consoles. Nothing depends on its life: VPSs go on
when it is killed, and the next one finds them by their start.json and by their descriptors in
vz-fdkeep. Rooms add requests to `server.handlers` and say by `busy` that they still need it."""

from __future__ import annotations

import _socket
import os
import resource
import sys

import vzpy
from vzpy import state
from vzpy.errors import VzError
from vzpy.eventd import client, summon, wire, worker
from vzpy.eventd.births import Births
from vzpy.eventd.console import Consoles
from vzpy.eventd.counters import Counters
from vzpy.eventd.holdings import Holdings
from vzpy.eventd.keeper import Keeper
from vzpy.eventd.limitwatch import Limits
from vzpy.eventd.loop import Loop, Timer
from vzpy.eventd.neighbours import Neighbours
from vzpy.eventd.quotabroker import QuotaBroker
from vzpy.eventd.quotagrace import QuotaGrace
from vzpy.eventd.server import Server
from vzpy.eventd.spares import Spares
from vzpy.kernel import process
from vzpy.model import NodePaths
from vzpy.node import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message

IDLE = 60  # seconds without VPS or client after which one that was started on demand ends
_USAGE = """Usage: vzeventd [--foreground | --stop | --replace | --status] [--idle SECONDS]
  --foreground  do not go into the background, take over from one that runs (for systemd)
  --stop        end it, with the consoles that it holds; VPSs go on
  --replace     have the one that runs load its program anew, after an upgrade
  --status      tell whether it runs; exit code 3 when not
  --idle        end after so many seconds without VPS or client; 0: never"""


class Daemon:
    """All of one daemon; rooms get this."""

    def __init__(self, paths: NodePaths, listener: _socket.socket, idle: int) -> None:
        self.paths, self.idle = paths, idle
        self.busy: list[Callable[[], bool]] = []
        self.loop = Loop(self.failed)
        self.server = Server(self.loop, listener, self.changed)
        self.keeper = Keeper(self.loop, paths, self.log)
        self.consoles = Consoles(self)
        self.holdings = Holdings(self)
        self.quotas = QuotaBroker(self)
        self.graces = QuotaGrace(self)
        self.limits = Limits(self)
        self.births = Births(self)
        self.neighbours = Neighbours(self)
        self.spares = Spares(self)
        self.counters = Counters(self)
        self.renewing = False
        self._idle_timer: Timer | None = None
        self._node: Node | None = None
        handlers = self.server.handlers
        handlers["hello"] = self.hello
        handlers["stop"] = self.stop
        handlers["renew"] = self.renew
        self.socket_inode = os.stat(paths.socket).st_ino

    def run(self) -> None:
        self.loop.on_signals((process.SIGCHLD, process.SIGTERM, process.SIGINT), self.signalled)
        for name, fd in self.keeper.fetch().items():
            if not self.consoles.adopts(name, fd):
                self.holdings.adopt(name, fd)
        self.births.adopt()
        self.graces.start()
        self.log(f"vzeventd started, pid {os.getpid()}, with {self.births.count()} running VPSs")
        self.changed()
        self.loop.run()
        self.log("vzeventd loads its program anew" if self.renewing else "vzeventd ends")
        if self.renewing:
            self.exec_anew()
        self.consoles.dismiss()
        self.keeper.close()
        if not self.keeper.held:
            summon.leave_cgroup(self.paths)
        with summon.Guarded(self.paths):
            try:
                if os.stat(self.paths.socket).st_ino == self.socket_inode:
                    os.unlink(self.paths.socket)
            except OSError:
                pass
            self.server.listener.close()

    def signalled(self, sig: int) -> None:
        if sig == process.SIGCHLD:
            self.births.reap()
        else:
            self.loop.end()

    def exec_anew(self) -> None:
        """The same process, so still the parent of every init, with a new program."""
        os.dup2(self.server.listener.fileno(), 0)
        argv = [*summon.launcher("vzeventd"), "--listening", "--idle", str(self.idle)]
        os.execve(argv[0], argv, summon.environment(self.paths))

    # Requests

    def hello(self, client: Client, message: Message, fds: list[int]) -> Message:
        return {
            "version": vzpy.__version__,
            "pid": os.getpid(),
            "vps": self.births.count(),
        }

    def stop(self, client: Client, message: Message, fds: list[int]) -> Message:
        self.loop.end()
        return {}

    def renew(self, client: Client, message: Message, fds: list[int]) -> Message:
        self.renewing = True
        self.loop.end()
        return {}

    # For the rooms

    @property
    def node(self) -> Node | None:
        """Read once more at each turn that needs it: vz.conf may have changed."""
        try:
            self._node = Node(etc=self.paths.etc, run=self.paths.run, program="vzeventd")
        except VzError:
            pass  # keep what we had
        return self._node

    def log(self, text: str, ctid: int = 0, level: int = 0) -> None:
        if node := self.node:
            node.log.write(text, ctid, level)

    def locked(self, ctid: int) -> bool:
        node = self.node
        lockdir = node.config.raw("LOCKDIR") if node else None
        return bool(lockdir) and state.is_locked(lockdir or "", ctid)

    def failed(self, err: Exception) -> None:
        """A mistake of ours in one callback is no reason to leave all the VPSs alone."""
        import traceback

        self.log("internal error: " + "".join(traceback.format_exception(err)), level=-1)

    def changed(self) -> None:
        """Somebody has gone: perhaps nobody needs us any more, or one more VPS runs."""
        if self.births.count():
            self.counters.begin()
        if not self.idle or self._idle_timer or not self.is_idle():
            return
        self._idle_timer = self.loop.after(self.idle, self.end_if_idle)

    def is_idle(self) -> bool:
        return not self.server.clients and not any(busy() for busy in self.busy)

    def end_if_idle(self) -> None:
        self._idle_timer = None
        if self.is_idle():
            self.loop.end()


def main(argv: list[str]) -> int:
    paths = NodePaths.of()
    option, idle = _parse(argv)
    if option == "--settle":
        return worker.main(argv[1:])
    if option == "--stop":
        if client.stop(paths):
            return 0
        print("vzeventd is not running", file=sys.stderr)
        return 3
    if option == "--status":
        return _status(paths)
    if option == "--replace":
        return _replace(paths)
    if option in ("--listening", "--foreground"):
        return _serve(paths, option, idle)
    if option:
        print(_USAGE, file=sys.stdout if option == "--help" else sys.stderr)
        return 0 if option == "--help" else 20
    return _start(paths)


def _parse(argv: list[str]) -> tuple[str, int | None]:
    """The one option besides --idle, and the seconds of that; "?" for anything else."""
    words, idle = list(argv), None
    if "--idle" in words:
        at = words.index("--idle")
        given = words[at + 1 : at + 2]
        if not given or not given[0].isdigit():
            return "?", None
        idle = int(given[0])
        del words[at : at + 2]
    if words[:1] == ["--settle"]:
        return "--settle", idle
    return (words[0] if len(words) == 1 else "?") if words else "", idle


def _serve(paths: NodePaths, option: str, idle: int | None) -> int:
    sys.argv[0] = os.path.abspath(sys.argv[0])
    if option == "--listening":
        listener = _socket.socket(fileno=os.dup(0))
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
    else:
        client.stop(paths, keep=True)
        with summon.Guarded(paths):
            listener = summon.listen(paths.socket)
    _settle_in()
    summon.leave_fence(paths)
    if idle is None:
        idle = 0 if option == "--foreground" else IDLE
    daemon = Daemon(paths, listener, idle)
    try:
        daemon.run()
    except Exception as err:
        daemon.failed(err)
        return 1
    return 0


def _settle_in() -> None:
    """What the VPSs inherit from us should not depend on who started us."""
    os.chdir("/")
    os.umask(0o022)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with open("/proc/self/oom_score_adj", "w") as f:
            f.write("0")
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass  # needs CAP_SYS_RESOURCE and CAP_SYS_NICE


def _status(paths: NodePaths) -> int:
    try:
        daemon = client.Daemon.open(paths, start=False)
        running = wire.number(daemon.request({"op": "hello"}), "vps")
        daemon.close()
    except TimeoutError:
        print("vzeventd does not answer")
        return 3
    except OSError:
        print("vzeventd is not running")
        return 3
    print(f"vzeventd is running, pid {daemon.pid}, {running} running VPSs")
    return 0


def _replace(paths: NodePaths) -> int:
    try:
        daemon = client.Daemon.open(paths, start=False)
        daemon.request({"op": "renew"})
        daemon.close()
    except TimeoutError as err:
        return _failed(err)
    except OSError:
        pass  # there is none
    return _start(paths)


def _start(paths: NodePaths) -> int:
    try:
        client.Daemon.open(paths).close()
    except OSError as err:
        return _failed(err)
    return 0


def _failed(err: OSError) -> int:
    late = isinstance(err, TimeoutError)
    why = "it does not answer; see its log, or end its process" if late else err.strerror or err
    print(f"vzeventd: {why}", file=sys.stderr)
    return 3
