"""Who is running: the facts of a start, checked against the kernel, and the lock of a VPS.

/run/vz/N/start.json holds what a start froze. It is a hint: it is believed only while the process
it names lives with the same start time, in the same boot. Its lines are JSON, and one a field, so
that the hot commands need no parser (`json` costs 6 ms, more than the rest of `vzctl status`)."""

from __future__ import annotations

import os
import time

from vzpy.errors import Exit, Locked, NotRunning, VzError
from vzpy.events import silent
from vzpy.kernel.proc import boot_id, life, slurp, starttime
from vzpy.model import RUN, Facts, NodePaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vzpy.events import Event

_TRIES = 3
# Status word of vzeventd's lock while it puts away a VPS that has ended, or starts it again: a tool
# that comes just then waits instead of failing, since nobody asked for that work.
BRIEFLY = "settling"
_PATIENCE = 60  # seconds
_NO_TMPFILE = (21, 22, 95)  # EISDIR, EINVAL, EOPNOTSUPP


# Facts of a start


def directory(paths: NodePaths, ctid: int) -> str:
    return f"{paths.run}/{ctid}"


def make_folder(path: str, mode: int = 0o700) -> None:
    """With those above it; one look where it is there. Raises OSError."""
    if not os.path.isdir(path):
        os.makedirs(path, mode, exist_ok=True)


def write_facts(paths: NodePaths, facts: Facts) -> None:
    """Store the facts; readers see the old file or the new one."""
    where = directory(paths, facts.ctid)
    make_folder(where)
    lines = [f' "{k}": {_quoted(v)}' for k, v in facts.__dict__.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = os.open(f"{where}/start.json.new", flags, 0o600)
    try:
        os.write(fd, text.encode(errors="surrogateescape"))
    finally:
        os.close(fd)
    os.rename(f"{where}/start.json.new", f"{where}/start.json")


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\u000a")
        return f'"{escaped}"'
    return str(value)


def _unquoted(text: str) -> str:
    text = text[1:-1]
    if "\\" in text:
        text = text.replace("\\u000a", "\n").replace('\\"', '"').replace("\\\\", "\\")
    return text


_BY_KIND: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "bool": lambda text: text == "true",
    "str": _unquoted,
}
_READ = {name: _BY_KIND[kind] for name, kind in Facts.__annotations__.items()}


def read_facts(paths: NodePaths, ctid: int) -> Facts | None:
    """The facts as written, unchecked; None when there are none or the file is not ours."""
    try:
        text = slurp(f"{paths.run}/{ctid}/start.json").decode(errors="surrogateescape")
    except OSError:
        return None
    if not text.endswith("\n}\n"):
        return None  # cut short by a full disk or a power failure: the kernel is asked instead
    given: dict[str, object] = {}
    try:
        for row in text[4:-3].split(',\n "'):  # `{`, then lines of ` "name": value,`
            name, _, value = row.partition('": ')
            given[name] = _READ[name](value)
        return Facts(**given)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError):
        return None


def find(paths: NodePaths, ctid: int) -> Facts | None:
    """The facts of a running VPS; None when its init does not live, or has yet to be executed: a
    start that still may fail, a script that is run in a stopped VPS."""
    facts = read_facts(paths, ctid)
    return facts if facts and _lives(facts)[1] else None


def running(paths: NodePaths, ctid: int) -> Facts:
    """The same. Raises NotRunning (31)."""
    facts = find(paths, ctid)
    if facts is None:
        raise NotRunning
    return facts


def begun(paths: NodePaths, ctid: int) -> Facts | None:
    """As find(), of one whose init has yet to be executed too."""
    facts = read_facts(paths, ctid)
    return facts if facts and alive(facts) else None


def alive(facts: Facts) -> bool:
    """Its first task lives, be it an init already or not."""
    return _lives(facts)[0]


def _lives(facts: Facts) -> tuple[bool, bool]:
    """Whether the first task lives, and as an init."""
    try:
        born, executed = life(facts.pid)
    except OSError:
        return False, False
    same = born == facts.starttime and facts.boot_id == boot_id()
    return same, same and executed


def forget(paths: NodePaths, ctid: int) -> None:
    """Remove the state of a VPS that does not run. Absence is success."""
    where = directory(paths, ctid)
    for name in ("start.json", "start.json.new", "net", "net.new"):
        try:
            os.unlink(f"{where}/{name}")
        except OSError:
            pass
    unname_netns(paths, ctid)
    try:
        os.rmdir(where)
    except OSError:
        pass


def netns_name(paths: NodePaths, ctid: int) -> str:
    """Where `ip netns exec N` looks (ip-netns(8)); nodes beside the default one do not mix in."""
    folder = "/run" if paths.run == RUN else paths.run
    return f"{folder}/netns/{ctid}"


def name_netns(paths: NodePaths, facts: Facts) -> None:
    """Give the network namespace of a VPS its number as a name. A link, unlike the mount that `ip`
    makes, holds nothing of a VPS that has ended. What somebody else put there stays."""
    name = netns_name(paths, facts.ctid)
    unname_netns(paths, facts.ctid)
    try:
        os.makedirs(os.path.dirname(name), 0o755, exist_ok=True)
        os.symlink(f"/proc/{facts.pid}/ns/net", name)
    except OSError:
        pass  # a convenience


def unname_netns(paths: NodePaths, ctid: int) -> None:
    """Absence is success."""
    name = netns_name(paths, ctid)
    try:
        if os.readlink(name).startswith("/proc/"):
            os.unlink(name)
        if paths.run != RUN:
            os.rmdir(os.path.dirname(name))  # with the last name in it
    except OSError:
        pass


def running_ids(paths: NodePaths) -> list[int]:
    """Numbers of the VPSs with a state directory, ascending; each still has to be asked."""
    try:
        return sorted(int(name) for name in os.listdir(paths.run) if name.isdigit())
    except OSError:
        return []


def console_log(paths: NodePaths, ctid: int) -> str:
    """What the console of a VPS showed since its start, stopped or not; what came before the last
    128 KiB or so is in a file of the same name with `.old`."""
    return f"{paths.run}/console/{ctid}.log"


def forget_console(paths: NodePaths, ctid: int) -> None:
    """Remove the log of the console. Absence is success."""
    path = console_log(paths, ctid)
    for name in (path, f"{path}.old"):
        try:
            os.unlink(name)
        except OSError:
            pass
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass


# Locks


class Lock:
    """`$LOCKDIR/N.lck` with pid, a status word, and the start time of the holder (vzctl-cli 1.3).

    Made by linking a finished file, so that nobody reads half of one. A lock whose process is
    gone is removed; one without a third line (made by hand: echo $$) is believed while its pid
    lives. Threads exclude each other too: a lock with our own pid is held."""

    def __init__(
        self, lockdir: str, ctid: int, report: Callable[[Event], None] = silent, word: str = ""
    ) -> None:
        self.dir, self.path, self.report, self.word = lockdir, f"{lockdir}/{ctid}.lck", report, word

    def __enter__(self) -> Lock:
        mine = f"{os.getpid()}\n{self.word}\n{starttime(os.getpid())}\n"
        patience = time.monotonic() + _PATIENCE
        tries = 0
        while tries < _TRIES:
            if self._link(mine):
                return self
            if self._check_holder(time.monotonic() < patience):
                tries += 1
            else:
                time.sleep(0.01)
        raise VzError("Unable to lock container", Exit.SYSTEM)

    def _link(self, text: str) -> bool:
        try:
            make_folder(self.dir)
            fd, temp = self._new()
        except OSError as err:
            hint = "use --skiplock option" if err.errno == 30 else ""
            raise VzError.of("Unable to lock container", err, Exit.SYSTEM, hint=hint) from err
        try:
            os.write(fd, text.encode())
            # With a descriptor it is linkat(2), which follows that link.
            os.link(temp or f"/proc/self/fd/{fd}", self.path, src_dir_fd=fd)
        except FileExistsError:
            return False
        finally:
            os.close(fd)
            if temp:
                os.unlink(temp)
        return True

    def _new(self) -> tuple[int, str]:
        """A file without a name, of which a kill leaves nothing; where the file system has no such
        (O_TMPFILE of open(2)) with one. Raises OSError."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(self.dir, flags | os.O_TMPFILE, 0o644), ""
        except OSError as err:
            if err.errno not in _NO_TMPFILE:
                raise
        temp = f"{self.path}{os.urandom(4).hex()}"
        return os.open(temp, flags | os.O_CREAT | os.O_EXCL, 0o644), temp

    def _check_holder(self, patient: bool) -> bool:
        """Raise Locked while the holder lives, or False while it is a brief one and we are
        patient; remove the lock when it is stale."""
        try:
            text, pid = _read_lock(self.path)
        except FileNotFoundError:
            return True
        except ValueError:
            time.sleep(0.5)  # somebody writes it by hand right now
            return True
        if pid:
            if patient and text.split("\n")[1:2] == [BRIEFLY]:
                return False
            raise Locked(
                f"Locked by: pid {pid}, cmdline {_cmdline(pid)}\nContainer already locked"
            )
        from vzpy.events import StaleLock

        self.report(StaleLock(path=self.path))
        _unlink_same(self.path, text)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            os.unlink(self.path)
        except OSError:
            pass


def is_locked(lockdir: str, ctid: int) -> bool:
    """Somebody who lives holds the lock."""
    try:
        return bool(_read_lock(f"{lockdir}/{ctid}.lck")[1])
    except OSError:
        return False
    except ValueError:
        return True  # somebody writes it by hand right now


def _read_lock(path: str) -> tuple[str, int]:
    """What a lock file says, and the holder that it names, as _living() has it. One of an earlier
    boot that says nothing is what a power failure has left: nobody holds it.

    Raises ValueError while somebody writes it by hand; OSError."""
    with open(path) as f:
        text = f.read()
        try:
            return text, _living(text)
        except ValueError:
            booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
            if os.fstat(f.fileno()).st_mtime >= booted:
                raise
            return text, 0


def _living(text: str) -> int:
    """The holder that a lock file names, 0 when it lives no more. Raises ValueError."""
    lines = text.split("\n")
    pid = int(lines[0])
    try:
        born = starttime(pid)
        return pid if len(lines) < 3 or not lines[2] or int(lines[2]) == born else 0
    except (OSError, ValueError):
        return 0


def _unlink_same(path: str, text: str) -> None:
    """Remove a stale lock, unless somebody else has just replaced it by his own.

    Two that find it stale at once: renaming is the test, and what was renamed is looked at."""
    away = f"{path}.stale-{os.urandom(4).hex()}"
    try:
        os.rename(path, away)
        with open(away) as f:
            if f.read() != text:
                os.link(away, path)
        os.unlink(away)
    except OSError:
        pass


def _cmdline(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"
