"""`vz cp`: files and folders into a VPS and out of it, owners translated.

No program of the VPS runs and no name in it is trusted. Its root is a descriptor: of what its init
sees while it runs, of VE_ROOT otherwise. The path of the command line is opened below it by
openat2(RESOLVE_IN_ROOT); from there on each name is opened alone, beside its folder's descriptor,
never through a link. A child does the work that keeps only capabilities over files: without
CAP_SYS_RESOURCE the quota of the VPS holds for it too.

Into a VPS owner 1000 becomes its user 1000, out of it the other way round. Not copied: devices,
sockets, other file systems below the source, extended attributes; on the way out also the
set-user-ID and set-group-ID bits, since the owner's number means somebody else on the host."""

from __future__ import annotations

import os
import stat

from vzpy import events
from vzpy.errors import Exit, UsageError, VzError
from vzpy.kernel import caps, process
from vzpy.kernel import mount as m
from vzpy.model import IdRange
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.events import Report
    from vzpy.node import Node
    from vzpy.vps import VPS

_KEEP = ["chown", "dac_override", "dac_read_search", "fowner", "fsetid"]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOST = IdRange(0, 0xFFFFFFFF)
_NOBODY = 65534
_DEEPEST = 200  # folders in folders: each costs a descriptor and a call frame


@record
class End:
    """One end of the way: the descriptor of its root, a path in it, who its users are."""

    root: int  # -1 for the host
    path: str
    ids: IdRange

    def open(self, path: str, flags: int) -> int:
        if self.root < 0:
            return os.open(path, flags | os.O_CLOEXEC)
        rules = m.RESOLVE_IN_ROOT | m.RESOLVE_NO_MAGICLINKS
        return m.openat2(self.root, path, flags, resolve=rules)


def copy(node: Node, source: str, target: str, report: Report = events.silent) -> None:
    """Copy SOURCE to TARGET, of which one or both are N:PATH; a folder with all it holds.

    A TARGET that is a folder receives the copy under its own name. A VPS that is not mounted is
    mounted for as long as it takes. What is left out is reported as Warned.
    Raises UsageError when neither is in a VPS; VzError 14, 3 with path and reason."""
    ends = [_parse(node, text) for text in (source, target)]
    if not any(vps for vps, _ in ends):
        raise UsageError("Neither the source nor the target is in a VPS",
                         hint="Name a place in VPS 101 as 101:/path.")
    opened: list[End] = []
    mounted: list[VPS] = []
    try:
        for vps, path in ends:
            opened.append(_open(vps, mounted, path) if vps else End(-1, path, _HOST))
        _in_child(opened[0], opened[1], report)
    finally:
        for end in opened:
            if end.root >= 0:
                os.close(end.root)
        for vps in mounted:
            vps.umount()


def _parse(node: Node, text: str) -> tuple[VPS | None, str]:
    """A host's path with a colon in it is written with a slash before that: ./a:b."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name:
        return None, text
    vps = node.vps(name)
    vps.require()
    return vps, path or "/"


def _open(vps: VPS, mounted: list[VPS], path: str) -> End:
    facts = vps.facts()
    if facts:
        root = os.open(f"/proc/{facts.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if vps.facts() == facts:  # the pid was still its init's when it was opened
            return End(root, path, IdRange(facts.base, facts.count))
        os.close(root)
    if not vps.status.mounted:
        vps.mount()
        mounted.append(vps)
    root = os.open(vps.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # The host sees the root with the owners that the VPS sees, but for an overlay.
    return End(root, path, vps.ids if vps.layout == "overlay" else IdRange(0, vps.ids.count))


def _in_child(source: End, target: End, report: Report) -> None:
    """Copy in a child; each line it sends is a warning (w) or its end (e): errno and text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.umask(0)
            _become(target.ids.base)
            _Copy(source, target, lambda text: _send(writer, "w", text)).run()
        except OSError as err:
            name = f"{os.fsdecode(err.filename)}: " if err.filename else ""
            _send(writer, "e", f"{err.errno or 0} {name}{err.strerror or err}")
        except BaseException as err:
            _send(writer, "e", f"0 {type(err).__name__}: {err}")
        finally:
            os._exit(0)
    os.close(writer)
    failure = ""
    with open(reader, errors="surrogateescape") as lines:
        for line in lines:
            kind, text = line[0], line[1:].rstrip("\n")
            if kind == "w":
                report(events.Warned(text=f"Warning: {text}"))
            else:
                failure = text
    _, status = os.waitpid(pid, 0)
    if status:
        failure = failure or "0 the copying process was killed"
    if failure:
        number, _, text = failure.partition(" ")
        raise VzError(f"Unable to copy: {text}", Exit.SYSTEM, errno=int(number))


def _become(user: int) -> None:
    """Root, but only over files; and what it makes is the target's: a file system that the VPS
    mounted itself takes no files of users who are not its own."""
    process.prctl(process.PR_SET_SECUREBITS, process.SECBIT_NO_SETUID_FIXUP)
    os.setresgid(-1, user, -1)
    os.setresuid(-1, user, -1)
    caps.limit(caps.mask(_KEEP))


def _send(fd: int, kind: str, text: str) -> None:
    line = kind + text.replace("\n", "\\n") + "\n"
    os.write(fd, line.encode(errors="surrogateescape"))


class _Copy:
    """The work in the child; folders are descriptors, names are single names."""

    def __init__(self, source: End, target: End, warn: Callable[[str], None]) -> None:
        self.source, self.target, self.warn = source, target, warn
        outward = target.root < 0 <= source.root
        self.modes = 0o1777 if outward else 0o7777

    def run(self) -> None:
        path = self.source.path
        top = self.source.open(path, os.O_PATH)
        is_folder = stat.S_ISDIR(os.fstat(top).st_mode)
        name = os.path.basename(path.rstrip("/"))
        folder, name = self.place("" if name in (".", "..") else name, is_folder)
        if is_folder:
            self.folder(top, folder, name, path.rstrip("/"), 0)
        else:
            self.item(top, folder, name, path)

    def place(self, name: str, is_folder: bool) -> tuple[int, str]:
        """The folder that receives the copy, and its name there; "" = the folder itself."""
        path = self.target.path
        try:
            return self.target.open(path, os.O_RDONLY | os.O_DIRECTORY), name
        except FileNotFoundError:
            if path.endswith("/") and not is_folder:
                raise
        except NotADirectoryError:
            if is_folder:
                raise
        parent, _, last = path.rstrip("/").rpartition("/")
        if last in (".", ".."):
            raise FileNotFoundError(2, os.strerror(2), path)
        parent = parent or ("/" if path.startswith("/") or self.target.root >= 0 else ".")
        return self.target.open(parent, os.O_RDONLY | os.O_DIRECTORY), last

    def owner(self, info: os.stat_result) -> tuple[int, int]:
        """Owner and group at the target; who is nobody's user at the source is nobody there."""

        def translated(number: int) -> int:
            inside = number - self.source.ids.base
            if not (0 <= inside < min(self.source.ids.count, self.target.ids.count)):
                inside = _NOBODY
            return self.target.ids.base + inside

        return translated(info.st_uid), translated(info.st_gid)

    def folder(self, path_fd: int, folder: int, name: str, shown: str, depth: int) -> None:
        """Copy the content of a folder into FOLDER/NAME, made when it is not there."""
        if depth > _DEEPEST:
            raise OSError(36, f"more than {_DEEPEST} folders in each other", shown)
        source = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        info, new = os.fstat(source), False
        target = folder
        if name:
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
                new = True
            except FileExistsError:
                pass
            target = os.open(name, _FOLDER, dir_fd=folder)
        for entry in sorted(os.listdir(source)):
            here = f"{shown}/{entry}"
            fd = os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            found = os.fstat(fd)
            if not stat.S_ISDIR(found.st_mode):
                self.item(fd, target, entry, here)
            elif found.st_dev == info.st_dev:
                self.folder(fd, target, entry, here, depth + 1)
            else:
                self.warn(f"{here} is another file system, left out")
            os.close(fd)
        if new:
            self.attributes(target, info)
        if name:
            os.close(target)
        os.close(source)

    def item(self, path_fd: int, folder: int, name: str, shown: str) -> None:
        """Copy one file, link or pipe: made under another name, then put in place."""
        info = os.fstat(path_fd)
        temporary = f".vz-cp-{os.urandom(6).hex()}"
        try:
            if stat.S_ISREG(info.st_mode):
                self.file(path_fd, folder, temporary, info)
            elif stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink("", dir_fd=path_fd), temporary, dir_fd=folder)
                os.chown(temporary, *self.owner(info), dir_fd=folder, follow_symlinks=False)
            elif stat.S_ISFIFO(info.st_mode):
                os.mkfifo(temporary, info.st_mode & 0o777, dir_fd=folder)
                os.chown(temporary, *self.owner(info), dir_fd=folder, follow_symlinks=False)
            else:
                self.warn(f"{shown} is a device or a socket, left out")
                return
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as err:
            try:
                os.unlink(temporary, dir_fd=folder)
            except OSError:
                pass
            raise OSError(err.errno, err.strerror, shown) from None

    def file(self, path_fd: int, folder: int, name: str, info: os.stat_result) -> None:
        """Its data (not its holes), no more than it had when it was looked at."""
        source = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            at = 0
            while at < info.st_size:
                try:
                    at = os.lseek(source, at, os.SEEK_DATA)
                except OSError:  # ENXIO: only a hole is left
                    break
                end = min(os.lseek(source, at, os.SEEK_HOLE), info.st_size)
                os.lseek(target, at, os.SEEK_SET)
                while at < end:
                    sent = os.sendfile(target, source, at, end - at)
                    if not sent:
                        return  # it was cut meanwhile
                    at += sent
            os.ftruncate(target, info.st_size)
            self.attributes(target, info)
        finally:
            os.close(source)
            os.close(target)

    def attributes(self, fd: int, info: os.stat_result) -> None:
        """Owner before mode: a change of owner takes the set-user-ID bit away."""
        os.fchown(fd, *self.owner(info))
        os.fchmod(fd, info.st_mode & self.modes)
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
