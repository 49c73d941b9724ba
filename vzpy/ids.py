"""Id ranges: which VPS of which node holds which host user and group ids.

One registry a machine, whatever the node, so that no two VPSs ever share a range. It is a text
file, one range a line, replaced as a whole under a lock. A range is free again when everything
that could still carry its ids is gone from the disk and the process that took it is too: that is
looked up when the next range is wanted, never timed. For one VPS the truth is LOCAL_UID,
LOCAL_GID and LOCAL_IDS in its N.conf; the registry only says who else may not have that range."""

from __future__ import annotations

import os

from vzpy.errors import Exit, ValueInvalid, VzError
from vzpy.kernel.proc import real, slurp, starttime
from vzpy.lockfile import Flock
from vzpy.model import RANGE, IdRange
from vzpy.oneline import escape, unescape
from vzpy.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/var/lib/vzctl/ids"
# Above systemd's container ranges, below its foreign range (UIDS-GIDS.md of systemd).
POOL_FIRST = 0x70000000
POOL_LAST = 0x7FFDFFFF
POOL_RANGES = (POOL_LAST + 1 - POOL_FIRST) // RANGE
HOST_IDS = 65536  # the host's own users, as shadow and systemd hand them out
LAST_ID = 0xFFFFFFFD  # (uid_t)-1 is no id, -2 is what overflows elsewhere
SUBORDINATE = ("/etc/subuid", "/etc/subgid")
_HEADER = "# id ranges of containers: base, count, CTID, node, private area, moved to, taken by\n"


@record
class Owner:
    """A VPS, as the whole machine knows it."""

    etc: str  # VZ_ETC of its node
    ctid: int
    private: str  # its private area


@record
class Entry:
    """One line of the registry."""

    ids: IdRange
    owner: Owner
    tombstone: str  # where destroy moved the private area to, "" before that
    holder: str  # PID:STARTTIME of the process that took it, "" when that let it go

    def line(self) -> str:
        o = self.owner
        return f"{_place(self.ids, o)}{escape(self.tombstone)}\t{self.holder}\n"

    def held(self, replaced: bool) -> bool:
        """Something of the VPS is left. replaced: its number is another entry's by now."""
        if self.tombstone and os.path.lexists(self.tombstone):
            return True
        if not (self.tombstone and replaced) and any(map(os.path.lexists, self._remains())):
            return True
        return _alive(self.holder)

    def _remains(self) -> Iterator[str]:
        conf = f"{self.owner.etc}/conf/{self.owner.ctid}.conf"
        yield conf
        yield f"{conf}.creating"
        yield self.owner.private
        yield f"{self.owner.private}.tmp"
        yield f"{self.owner.private}.snapshots"


class RangeTaken(VzError):
    """A range that N.conf asks for is another's."""

    code = Exit.INVALID_PARAMETER_VALUE


def count_of(local_ids: str | None) -> int:
    """LOCAL_IDS as a number of ids.

    Raises ValueInvalid (21)."""
    text = local_ids or "1"
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= POOL_RANGES):
        raise ValueInvalid(
            f"LOCAL_IDS={text}: a number of id ranges from 1 to {POOL_RANGES} is needed"
        )
    return int(text) * RANGE


def range_of(uid: str | None, gid: str | None, local_ids: str | None) -> IdRange | None:
    """The range that LOCAL_UID, LOCAL_GID and LOCAL_IDS of an N.conf name, if they do.

    Raises ValueInvalid (21), for LOCAL_UID=0 (a privileged container) too."""
    count = count_of(local_ids)
    if not uid:
        if gid:
            raise ValueInvalid(f"LOCAL_GID={gid}: LOCAL_UID is not set")
        return None
    if (gid or uid) != uid:
        raise ValueInvalid(f"LOCAL_GID={gid}: must be the same as LOCAL_UID={uid}")
    if not (uid.isascii() and uid.isdigit()):
        raise ValueInvalid(f"LOCAL_UID={uid}: a number is needed")
    base = int(uid)
    if base == 0:
        raise ValueInvalid(
            "LOCAL_UID=0: privileged containers are not supported",
            hint="Leave LOCAL_UID out, and the container gets an id range of its own.",
        )
    if base < HOST_IDS or base + count - 1 > LAST_ID:
        raise ValueInvalid(
            f"LOCAL_UID={uid}: must be from {HOST_IDS} to {LAST_ID + 1 - count},"
            " apart from the ids of the host"
        )
    return IdRange(base, count)


class Registry:
    """The file of ranges. Every method may be called from many processes and threads at once.

    Raises VzError 3 where the file cannot be read or written, or a line of it is damaged."""

    def __init__(self, path: str = PATH) -> None:
        self.path = path

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def entries(self) -> list[Entry]:
        """All ranges, as of the last change."""
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as err:
            raise self._broken(err) from err
        return [
            self._parse(number, line)
            for number, line in enumerate(text.splitlines(), 1)
            if line and not line.startswith("#")
        ]

    def held(self) -> list[Entry]:
        """Those of them that are not free."""
        return _still_held(self.entries())

    def allocate(self, owner: Owner, count: int = RANGE) -> IdRange:
        """A free range of `count` ids from the pool, the owner's from now on.

        Held at first by the life of this process, then by the owner's N.conf and private area;
        sync() comes before that N.conf does.
        Raises VzError 6 when the pool has none that long."""
        owner = _absolute(owner)
        with _Locked(self, durable=False) as entries:
            entries[:] = [e for e in _still_held(entries) if not _same(e, owner) or e.tombstone]
            base = _gap(entries, count)
            if base is None:
                raise VzError(
                    f"No free id range for container {owner.ctid}: {len(entries)} of"
                    f" {POOL_RANGES} are held",
                    Exit.RESOURCE,
                    hint=f"Who holds them is in {self.path}; a destroyed one gives its back.",
                )
            ids = IdRange(base, count)
            entries.append(Entry(ids, owner, "", _myself()))
            return ids

    def claim(self, owner: Owner, ids: IdRange) -> None:
        """Make sure that the range in the owner's N.conf is the owner's, and nobody else's. Held as
        by allocate(): what create has claimed is not on the disk yet.

        Raises RangeTaken (21) naming the other."""
        owner = _absolute(owner)
        if self._has(owner, ids):
            return
        with _Locked(self) as entries:
            others = [e for e in _still_held(entries) if not _same(e, owner)]
            for other in others:
                if _overlap(other.ids, ids):
                    raise RangeTaken(
                        f"LOCAL_UID={ids.base}: this id range is held by container"
                        f" {other.owner.ctid} of {other.owner.etc}",
                        hint="Remove LOCAL_UID and LOCAL_GID from the configuration file"
                        " to get a free range.",
                    )
            for where, name, reserved in _subordinate():
                if _overlap(reserved, ids):
                    raise RangeTaken(
                        f"LOCAL_UID={ids.base}: {where} gives this id range to {name}",
                        hint="Remove LOCAL_UID and LOCAL_GID from the configuration file"
                        " to get a free range.",
                    )
            # Ranges it had before stay its own while their tombstones last.
            mine = [
                e for e in entries if _same(e, owner) and e.tombstone and not _overlap(e.ids, ids)
            ]
            entries[:] = [*others, *mine, Entry(ids, owner, "", _myself())]

    def bury(self, owner: Owner, tombstone: str) -> None:
        """The private area is about to move to `tombstone`: the range lasts as long as that."""
        owner = _absolute(owner)
        with _Locked(self) as entries:
            entries[:] = [
                replace(e, tombstone=tombstone, holder="")
                if _same(e, owner) and not os.path.lexists(e.tombstone)
                else e
                for e in entries
            ]

    def free(self, owner: Owner) -> None:
        """Its taker wants the range no more: it is free unless files still carry it."""
        owner = _absolute(owner)
        with _Locked(self, durable=False) as entries:  # who looks at an older one sees it is free
            let_go = [replace(e, holder="") if _same(e, owner) else e for e in entries]
            entries[:] = [e for e in let_go if not _same(e, owner) or e.held(False)]

    def sync(self) -> None:
        """What was allocated survives a power cut from here on."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as err:
            raise self._broken(err) from err

    def _has(self, owner: Owner, ids: IdRange) -> bool:
        """The registry is as `claim` would leave it: read without the lock, whole by rename."""
        try:
            return f"\n{_place(ids, owner)}\t".encode() in slurp(self.path)
        except (OSError, UnicodeError):
            return False

    def _parse(self, number: int, line: str) -> Entry:
        try:
            base, count, ctid, etc, private, tombstone, holder = line.split("\t")
            ids = IdRange(int(base), int(count))
            if ids.base < 1 or ids.count < 1 or ids.base + ids.count - 1 > LAST_ID:
                raise ValueError("range")
            owner = Owner(unescape(etc), int(ctid), unescape(private))
            return Entry(ids, owner, unescape(tombstone), holder)
        except ValueError as err:
            raise self._broken(f"line {number} is damaged", number) from err

    def _broken(self, why: object, number: int | None = None) -> VzError:
        where = f"{self.path}:{number}" if number else self.path
        return VzError(
            f"Unable to use the registry of id ranges {where}: {why}",
            hint="Correct it by LOCAL_UID of the configuration files: two containers that share"
            " ids could read each other's files.",
        )


class _Locked:
    """The entries, to be changed in place; written back when the block ends well."""

    def __init__(self, registry: Registry, durable: bool = True) -> None:
        self.registry, self.durable = registry, durable

    def __enter__(self) -> list[Entry]:
        path = self.registry.path
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # A lock file of its own: the registry itself is replaced.
            self.lock = Flock(f"{path}.lck").__enter__()
        except OSError as err:
            raise self.registry._broken(err) from err
        try:
            self.entries = self.registry.entries()
        except BaseException:
            self.lock.__exit__()
            raise
        self.before = list(self.entries)
        return self.entries

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.entries != self.before:
                self._write()
        except OSError as err:
            raise VzError.of("Unable to write the registry of id ranges", err) from err
        finally:
            self.lock.__exit__()

    def _write(self) -> None:
        text = _HEADER + "".join(
            e.line() for e in sorted(self.entries, key=lambda e: (e.ids.base, e.owner.ctid))
        )
        new = f"{self.registry.path}.new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())
        os.rename(new, self.registry.path)


def _absolute(owner: Owner) -> Owner:
    return Owner(real(owner.etc), owner.ctid, os.path.abspath(owner.private))


def _same(entry: Entry, owner: Owner) -> bool:
    """The same VPS, wherever its private area is by now."""
    return (entry.owner.etc, entry.owner.ctid) == (owner.etc, owner.ctid)


def _still_held(entries: list[Entry]) -> list[Entry]:
    living = {(e.owner.etc, e.owner.ctid) for e in entries if not e.tombstone}
    held = [e for e in entries if e.held((e.owner.etc, e.owner.ctid) in living)]
    if len(held) == len(entries):
        return held
    # One that was not destroyed may be where we cannot look: in another mount namespace.
    lost = [e for e in entries if not e.tombstone and e not in held]
    used = _mapped() if lost else []
    return held + [e for e in lost if any(_overlap(e.ids, ids) for ids in used)]


def _mapped() -> list[IdRange]:
    """The ranges that user namespaces of running processes have (user_namespaces(7))."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            rows = slurp(f"/proc/{pid}/uid_map").split(b"\n")
        except OSError:
            continue  # it has ended
        for row in filter(None, rows):
            _, base, count = map(int, row.split())
            if base:
                found[base, count] = IdRange(base, count)
    return list(found.values())


def _gap(entries: list[Entry], count: int) -> int | None:
    """The lowest base in the pool with `count` ids that nobody has."""
    taken = [e.ids for e in entries] + [ids for _, _, ids in _subordinate()]
    base = POOL_FIRST
    for ids in sorted(taken, key=lambda i: i.base):
        if ids.base >= base + count:
            break
        # Ranges start at multiples of 65536; one that does not takes the whole of its last.
        base = max(base, -(-(ids.base + ids.count) // RANGE) * RANGE)
    return base if base + count - 1 <= POOL_LAST else None


def _subordinate() -> Iterator[tuple[str, str, IdRange]]:
    """What subuid(5) and subgid(5) give away, as (file, user, range); rubbish is skipped."""
    for path in SUBORDINATE:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            name, *numbers = line.split(":")
            if len(numbers) == 2 and all(n.isascii() and n.isdigit() for n in numbers):
                base, count = map(int, numbers)
                if count:
                    yield path, name, IdRange(base, count)


def _overlap(a: IdRange, b: IdRange) -> bool:
    return a.base < b.base + b.count and b.base < a.base + a.count


def _place(ids: IdRange, owner: Owner) -> str:
    """A line as far as it does not change in the life of a VPS."""
    etc, private = escape(owner.etc), escape(owner.private)
    return f"{ids.base}\t{ids.count}\t{owner.ctid}\t{etc}\t{private}\t"


def _myself() -> str:
    pid = os.getpid()
    return f"{pid}:{starttime(pid)}"


def _alive(holder: str) -> bool:
    pid, _, started = holder.partition(":")
    try:
        return bool(pid) and starttime(int(pid)) == int(started)
    except (OSError, ValueError):
        return False
