"""Which VPS ran into which limit: the kernel wakes us, we write it down (vzpy/limitlog.py).

Files of counters of a cgroup can be polled: vz/N has one descriptor for each, and the daemon sleeps
until one changes. Before Linux 6.11 a refused fork is counted in the cgroup of the forking task,
wherever the limit was; there the cgroups inside are watched as well, by inotify. What programs of
ours count in the kernel wakes nobody: those counters are looked at when somebody asks (request
`limits`)."""

from __future__ import annotations

import os
import select
import time

from vzpy import limitlog
from vzpy.eventd import wire
from vzpy.kernel import inotify
from vzpy.kernel.kmsg import KernelLog, OomKill, oom_kill
from vzpy.limitlog import OOM_KILL, Hit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vzpy.eventd.loop import Timer
    from vzpy.eventd.main import Daemon
    from vzpy.eventd.server import Client
    from vzpy.eventd.wire import Message
    from vzpy.model import Facts

_FILES = ("memory.events", "memory.swap.events", "pids.events")
_AT_ONCE = ("physpages", "swappages")  # what those files count, besides numproc and OOM kills
_WALK_MAX = 1000  # cgroups of one VPS that are walked through for refused forks
_PAUSE = 1.0  # seconds until a file that changed is polled again
_FIRST_GAP, _LAST_GAP = 1.0, 60.0  # seconds between two reports of a limit that is hit on and on
_LOG_LAG = 0.2  # seconds that the kernel's log may be behind the counter
_INSIDE_PAUSE = 0.1  # the same for what changes inside of all VPSs
_CGROUPS_MAX = 128  # of one VPS that are watched inside
_NAMED_MAX = 3  # kills of one report that are told one by one
_KILLS_MAX = 64  # lines of the kernel's log that wait for their VPS


class Counter:
    """One beancounter of one VPS: what was told of it, and when the next may be told."""

    def __init__(self, told: int) -> None:
        self.told = told
        self.due, self.gap = 0.0, _FIRST_GAP

    def news(self, total: int, now: float, at_once: bool = False) -> int:
        """How much is to be told of now; what is not yet due stays for later, unless at_once."""
        if total <= self.told or (now < self.due and not at_once):
            return 0
        is_going_on = now < self.due + self.gap
        self.gap = min(self.gap * 2, _LAST_GAP) if is_going_on else _FIRST_GAP
        self.due = now + self.gap
        news, self.told = total - self.told, total
        return news


class Watch:
    """The files of one running VPS. It is looked at once a second at most."""

    def __init__(self, owner: Limits, facts: Facts, told: dict[str, int]) -> None:
        self.owner, self.facts = owner, facts
        self.loop = owner.daemon.loop
        self.counters = {what: Counter(total) for what, total in told.items()}
        self.fds: list[int] = []
        self._looked = 0.0
        self._timer: Timer | None = None
        for name in _FILES:
            self._open(name)

    def _open(self, name: str) -> None:
        try:
            fd = os.open(f"{self.facts.cgroup}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # a controller that this node lacks
        self.fds.append(fd)

        def poll() -> None:
            if fd in self.fds:
                os.pread(fd, 1, 0)  # from here on a change is news
                self.loop.watch(fd, select.EPOLLPRI, changed)
                self.look_soon()

        def changed(_: int) -> None:
            self.loop.forget(fd)
            self.loop.after(_PAUSE, poll)
            self.look_soon()

        poll()

    def look_soon(self) -> None:
        self._look_at(max(self._looked + _PAUSE, time.monotonic()))

    def _look_at(self, when: float) -> None:
        """At the earliest time of those that were asked for."""
        if self._timer and self._timer.when <= when:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.after(when - time.monotonic(), self.look)

    def look(self, asked: bool = False) -> None:
        """Compare the counters with what was told. Somebody who asks is told at once, and of those
        that wake nobody too."""
        now = self._looked = time.monotonic()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        waiting = []
        for name, total in self._totals(asked).items():
            counter = self.counters.setdefault(name, Counter(0))
            if count := counter.news(total, now, asked):
                self.owner.tell(self._hit(name, count, total))
            elif total > counter.told:
                waiting.append(counter.due)
        waiting += self.look_for_kills(now, asked)
        if waiting:
            self._look_at(min(waiting))

    def _totals(self, asked: bool) -> dict[str, int]:
        """Failures of each beancounter since the start, read in a time that no guest makes long."""
        from vzpy import cgroupread
        from vzpy.story import counted
        from vzpy.story.beancounters import Look, Shared

        cgroup = self.facts.cgroup
        found = Look(self.facts, Shared())
        totals = {name: found.count(name)[2] or 0 for name in _AT_ONCE}
        if cgroupread.flat(cgroup, "cgroup.stat").get("nr_descendants", 0) <= _WALK_MAX:
            totals["numproc"] = found.count("numproc")[2] or 0
        else:  # what the regular look saw last (counters.py)
            kept = cgroupread.kept(cgroup)
            totals["numproc"] = kept.lost + sum(kept.seen.values())
        if asked:
            counts = counted.read(self.facts)
            totals |= {key.lower(): failcnt for key, (_, _, failcnt) in counts.items()}
        return totals

    def look_for_kills(self, now: float, asked: bool) -> list[float]:
        """The last few are told by name, once the kernel's log had time to say of whom.

        Returns when to look again for those that are not due yet."""
        from vzpy.cgroupread import flat

        total = flat(self.facts.cgroup, "memory.events").get("oom_kill", 0)
        counter = self.counters.setdefault(OOM_KILL, Counter(0))
        if count := counter.news(total, now, asked):
            self.loop.after(_LOG_LAG, lambda: self.tell_kills(count, total))
        return [counter.due] if total > counter.told else []

    def tell_kills(self, count: int, total: int) -> None:
        ids = range(self.facts.base, self.facts.base + self.facts.count)
        kills = self.owner.kills_of(ids, min(count, _NAMED_MAX))
        for kill in kills:
            self.owner.tell(self._hit(OOM_KILL, 1, total, kill))
        if count > len(kills):
            self.owner.tell(self._hit(OOM_KILL, count - len(kills), total))

    def _hit(self, what: str, count: int, total: int, kill: OomKill | None = None) -> Hit:
        limit = None if what == OOM_KILL else self.owner.limit_of(self.facts, what)
        named = {"pid": kill.pid, "comm": kill.comm, "rss": kill.rss} if kill else {}
        return Hit(time.time(), self.facts.ctid, what, count, total, limit,
                   self.facts.starttime, **named)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        for fd in self.fds:
            self.loop.forget(fd)
            os.close(fd)
        self.fds.clear()


class Inside:
    """The cgroups inside of VPSs, where the kernel counts refused forks where they are tried."""

    def __init__(self, owner: Limits) -> None:
        self.owner = owner
        self._fd = -1
        self._folders: dict[int, tuple[Watch, str]] = {}  # by watch: those that may get children
        self._files: dict[int, Watch] = {}

    def follow(self, watch: Watch) -> None:
        cgroup = watch.facts.cgroup
        if os.path.exists(f"{cgroup}/pids.events.local") or not os.path.exists(
            f"{cgroup}/pids.events"
        ):
            return
        try:
            if self._fd < 0:
                self._fd = inotify.inotify_init()
                self._poll()
            self._add(watch, f"{cgroup}/ve")
        except OSError as err:
            self.owner.daemon.log(f"Refused forks are not seen: {err}", watch.facts.ctid)

    def _add(self, watch: Watch, path: str) -> None:
        """A cgroup and those below; of a guest that makes ever more of them, only the first."""
        waiting = [path]
        while waiting:
            where = waiting.pop()
            if sum(owner is watch for owner in self._files.values()) >= _CGROUPS_MAX:
                return
            try:
                folder = inotify.add_watch(self._fd, where, inotify.IN_CREATE)
                self._folders[folder] = watch, where
                file = inotify.add_watch(self._fd, f"{where}/pids.events", inotify.IN_MODIFY)
                self._files[file] = watch
                with os.scandir(where) as entries:
                    waiting += [x.path for x in entries if x.is_dir(follow_symlinks=False)]
            except OSError:
                pass  # removed meanwhile, without the controller, or no more watches to be had

    def _poll(self) -> None:
        self.owner.daemon.loop.watch(self._fd, select.EPOLLIN, self._ready)

    def _ready(self, _: int) -> None:
        self.owner.daemon.loop.forget(self._fd)
        self.owner.daemon.loop.after(_INSIDE_PAUSE, self._poll)
        changed = set()
        for wd, mask, name in inotify.read(self._fd):
            if mask & inotify.IN_IGNORED:
                self._folders.pop(wd, None)
                self._files.pop(wd, None)
            elif wd in self._files:
                changed.add(self._files[wd])
            elif wd in self._folders and mask & inotify.IN_ISDIR:
                watch, where = self._folders[wd]
                self._add(watch, f"{where}/{name}")
        for watch in changed:
            watch.look_soon()

    def forget(self, watch: Watch) -> None:
        ours = [wd for wd, (owner, _) in self._folders.items() if owner is watch]
        ours += [wd for wd, owner in self._files.items() if owner is watch]
        for wd in ours:
            inotify.rm_watch(self._fd, wd)
            self._folders.pop(wd, None)
            self._files.pop(wd, None)


class Limits:
    """The daemon's room: follows every running VPS."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.path = limitlog.path_of(daemon.paths.state)
        self.watches: dict[int, Watch] = {}
        self.inside = Inside(self)
        self._told: dict[tuple[int, int], dict[str, int]] | None = None
        self._kills: list[OomKill] = []
        self._kernel: KernelLog | None = None
        daemon.server.handlers["limits"] = self.limits

    def limits(self, client: Client, message: Message, fds: list[int]) -> Message:
        """Look at all counters now, of one VPS or of all (ctid 0)."""
        ctid = wire.number(message, "ctid")
        for number, watch in self.watches.items():
            if ctid in (0, number):
                watch.look(asked=True)
        return {}

    def follow(self, facts: Facts) -> None:
        """A VPS runs; once is enough. What was told of it before we began is not told again."""
        try:
            self._follow(facts)
        except OSError as err:
            self.daemon.log(f"Limits are not watched: {err}", facts.ctid)

    def _follow(self, facts: Facts) -> None:
        old = self.watches.get(facts.ctid)
        if old and old.facts == facts:
            return
        if old:
            self.ended(facts.ctid)
        if self._told is None:
            self._told = _told(limitlog.read(self.path))
            self._open_kernel_log()
        told = self._told.get((facts.ctid, facts.starttime), {})
        watch = self.watches[facts.ctid] = Watch(self, facts, told)
        self.inside.follow(watch)

    def _open_kernel_log(self) -> None:
        try:
            self._kernel = KernelLog()
        except OSError as err:
            self.daemon.log(f"OOM kills are told without names: {err}")

    def ended(self, ctid: int) -> None:
        watch = self.watches.pop(ctid, None)
        if watch:
            try:
                watch.look(asked=True)  # the last words: what killed its init, perhaps
            except OSError:
                pass  # its cgroup is gone already
            self.inside.forget(watch)
            watch.close()

    def kills_of(self, ids: range, count: int) -> list[OomKill]:
        """The last kills in a VPS that the kernel's log tells, known by its ids: they are no
        other's, while a guest chooses the names of its cgroups and processes."""
        if self._kernel:
            found = filter(None, map(oom_kill, self._kernel.read()))
            self._kills = [*self._kills, *found][-_KILLS_MAX:]
        ours = [kill for kill in self._kills if kill.uid in ids][-count:]
        self._kills = [kill for kill in self._kills if kill.uid not in ids]
        return ours

    def limit_of(self, facts: Facts, what: str) -> int | None:
        from vzpy import ubc
        from vzpy.story import applied

        node = self.daemon.node
        if node is None:
            return None
        asked = applied.of_running(facts, node.vps(facts.ctid).config)
        limit = ubc.pairs(asked)[what][1]
        return None if limit >= ubc.UNLIMITED else limit

    def tell(self, hit: Hit) -> None:
        limitlog.append(self.path, hit)
        if hit.what == OOM_KILL:
            self.daemon.log(hit.message, hit.ctid)


def _told(hits: Iterable[Hit]) -> dict[tuple[int, int], dict[str, int]]:
    """What was told last, by the VPS and its start."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for hit in hits:
        found.setdefault((hit.ctid, hit.start), {})[hit.what] = hit.total
    return found
