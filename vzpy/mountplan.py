"""The mount plan of a VPS: what its first task makes, and where that stands in the new root.

Everything is prepared while the host's tree is still there (a fresh proc or sysfs is refused once
it is gone), most of it before the ids are mapped, while the tool mounts the root; and placed after
pivot_root. Calls of a program (kernel/program.py)."""

from __future__ import annotations

import _stat as stat
import os

from vzpy.kernel import mount as m
from vzpy.kernel.program import OWN, Blank, Calls
from vzpy.record import record

RDONLY, NOSUID, NODEV, NOEXEC = (
    m.MOUNT_ATTR_RDONLY,
    m.MOUNT_ATTR_NOSUID,
    m.MOUNT_ATTR_NODEV,
    m.MOUNT_ATTR_NOEXEC,
)
DEVPTS: dict[str, str] = {"ptmxmode": "0666", "mode": "0620", "gid": "5"}
_LXCFS, _CPUS = "/var/lib/lxcfs", "sys/devices/system/cpu"
_CLONE = m.OPEN_TREE_CLONE | m.OPEN_TREE_CLOEXEC
UUID_LENGTH = 36
_HOW_BYTES = 24  # struct open_how
_AT_REMOVEDIR = 0x200


@record
class Seen:
    """What the mounts of one VPS depend on, of itself and of the host as it is now."""

    shm_size: str = ""  # of /dev/shm, e.g. "86016k"; "" = the kernel's default
    own_pts: bool = True  # else /dev/pts is handed over, a mount of the host's
    covered: tuple[str, ...] = ()  # directories below /sys
    lxcfs: tuple[str, ...] = ()  # files of /proc, and directories of /sys, that lxcfs serves


def seen(shm_size: str, own_pts: bool) -> Seen:
    """lxcfs shows the VPS's own memory, load and CPUs, where the host runs it. Its uptime is left
    out: the time namespace gives that, and to sysinfo(2) too."""
    covered = ("block", "class/block", "dev/block", "firmware")
    try:
        served = sorted(f"proc/{x}" for x in os.listdir(f"{_LXCFS}/proc") if x != "uptime")
        served += [_CPUS] * os.path.isdir(f"{_LXCFS}/{_CPUS}")
    except OSError:  # not installed, or its daemon is dead (ENOTCONN)
        served = []
    there = tuple(x for x in covered if os.path.isdir(f"/sys/{x}"))
    return Seen(shm_size, own_pts, there, tuple(served))


@record
class Fresh:
    """A new file system."""

    target: str
    fstype: str
    attr: int
    options: dict[str, str | None]
    is_dir: bool = True

    @property
    def needs_ids(self) -> bool:
        """It cannot be made before the user namespace is mapped."""
        return "gid" in self.options

    def describe(self) -> str:
        shown = "".join(f",{k}={v}" if v else f",{k}" for k, v in self.options.items())
        return f"{self.fstype}{shown} on /{self.target}"

    def prepare(self, calls: Calls, to: int) -> None:
        calls.descriptor(to, "fsopen", self.fstype.encode(), m.FSOPEN_CLOEXEC)
        for key, value in {"source": self.fstype, **self.options}.items():
            if value is None:
                calls.call("fsconfig", to, m.FSCONFIG_SET_FLAG, key.encode(), 0, 0)
            else:
                text = value.encode()
                calls.call("fsconfig", to, m.FSCONFIG_SET_STRING, key.encode(), text, 0)
        calls.call("fsconfig", to, m.FSCONFIG_CMD_CREATE, 0, 0, 0)
        calls.descriptor(to, "fsmount", to, m.FSMOUNT_CLOEXEC, self.attr)


@record
class Host:
    """A file or directory of the host, as it is there now; what the host mounts on it later does
    not come in."""

    target: str
    source: str
    is_dir: bool = False
    needs_ids = False

    def describe(self) -> str:
        return f"host's {self.source} on /{self.target}"

    def prepare(self, calls: Calls, to: int) -> None:
        source = self.source.encode()
        calls.descriptor(to, "open_tree", m.AT_FDCWD, source, _CLONE, about=source)
        private = calls.words(0, 0, m.MS_PRIVATE, 0)  # struct mount_attr
        calls.call("mount_setattr", to, b"", m.AT_EMPTY_PATH, private, 32)


@record
class Made:
    """A directory, link, file or node of /dev and /run: one call, and what is written into it."""

    target: str
    call: str
    before: tuple[int | bytes, ...]  # arguments before the path
    after: tuple[int, ...] = ()
    text: bytes | Blank = b""

    def describe(self) -> str:
        return f"{self.call} at /{self.target}"

    def make(self, calls: Calls) -> None:
        path = b"/" + self.target.encode()
        if not self.text:
            calls.call(self.call, *self.before, path, *self.after, about=path)
            return
        calls.call(self.call, *self.before, path, *self.after, result=0, about=path)
        calls.call("write", 0, self.text, len(self.text))


def _link(target: str, to: str) -> Made:
    return Made(target, "symlinkat", (to.encode(), m.AT_FDCWD))


def _file(target: str, text: bytes | Blank) -> Made:
    return Made(target, "openat", (m.AT_FDCWD,), (_NEW_FILE, 0o644), text)


def _directory(target: str, mode: int = 0o755) -> Made:
    return Made(target, "mkdirat", (m.AT_FDCWD,), (mode,))


def _node(target: str, kind: int) -> Made:
    """A character device 0:0 is the only device that mknod(2) allows here."""
    return Made(target, "mknodat", (m.AT_FDCWD,), (kind, 0))


_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def plan(seen: Seen, container: str) -> list[Fresh | Host | Made]:
    """Everything a VPS finds mounted, in order.

    container  value of container=, as in the environment of init

    /sys is read-only because udevd, networkd and logind take a writable one for a real machine.
    Since directories of /sys are covered, a whole sysfs and proc stand in /dev/.vz: without an
    instance that nothing is mounted on the kernel refuses nested ones (mount_too_revealing).
    Their paths must resolve: df fails for a mount whose path leads elsewhere."""
    closed = NOSUID | NODEV | NOEXEC
    empty: dict[str, str | None] = {"size": "0", "nr_inodes": "1", "mode": "0555"}
    shm: dict[str, str | None] = {"mode": "1777"}
    if seen.shm_size:
        shm["size"] = seen.shm_size
    return [
        Fresh("proc", "proc", closed, {}),
        Fresh("sys", "sysfs", RDONLY | closed, {}),
        Fresh("sys/fs/cgroup", "cgroup2", closed, {}),
        *(
            Fresh(f"sys/{d}", "tmpfs", RDONLY | closed, empty)
            for d in seen.covered
        ),
        *(Host(path, f"{_LXCFS}/{path}", is_dir=path == _CPUS) for path in seen.lxcfs),
        Fresh("dev", "tmpfs", NOSUID | NOEXEC, {"mode": "0755", "size": "65536k"}),
        _directory("dev/.vz"),
        _directory("dev/.vz/proc"),
        _directory("dev/.vz/sys"),
        Fresh("dev/.vz/proc", "proc", closed, {}),
        Fresh("dev/.vz/sys", "sysfs", closed, {}),
        *(
            Host(f"dev/{name}", f"/dev/{name}")
            for name in ("null", "zero", "full", "random", "urandom", "tty")
        ),
        *([Fresh("dev/pts", "devpts", NOSUID | NOEXEC, {**DEVPTS})] if seen.own_pts else []),
        Fresh("dev/shm", "tmpfs", NOSUID | NODEV, shm),
        Fresh("dev/mqueue", "mqueue", closed, {}),
        _link("dev/ptmx", "pts/ptmx"),
        _link("dev/fd", "/proc/self/fd"),
        _link("dev/stdin", "/proc/self/fd/0"),
        _link("dev/stdout", "/proc/self/fd/1"),
        _link("dev/stderr", "/proc/self/fd/2"),
        Fresh("run", "tmpfs", NOSUID | NODEV, {"mode": "0755"}),
        _directory("run/host"),
        _file("run/host/container-manager", container.encode() + b"\n"),
        _file("run/host/container-uuid", Blank("uuid", UUID_LENGTH, after=b"\n")),
        # Things nobody may open. systemd takes the socket where it wants a block device.
        _directory("run/host/inaccessible"),
        _node("run/host/inaccessible/reg", stat.S_IFREG),
        _node("run/host/inaccessible/fifo", stat.S_IFIFO),
        _node("run/host/inaccessible/sock", stat.S_IFSOCK),
        _node("run/host/inaccessible/chr", stat.S_IFCHR),
        _directory("run/host/inaccessible/dir", 0),
        # networkd would take away the addresses of any device that one of its files matches.
        _directory("run/systemd"),
        _directory("run/systemd/network"),
        _file("run/systemd/network/00-venet0.network", _LEFT_ALONE),
    ]


_LEFT_ALONE = b"[Match]\nName=venet0\n\n[Link]\nUnmanaged=yes\n"


# Calls of the first task, after its user namespace is mapped


def enter_root(calls: Calls, tree: int) -> None:
    """The tree becomes "/", and the host's mounts are gone (pivot_root(2), the form with dots)."""
    calls.call("move_mount", tree, b"", m.AT_FDCWD, b"/", m.MOVE_MOUNT_F_EMPTY_PATH)
    calls.call("fchdir", tree)
    calls.call("pivot_root", b".", b".")
    calls.call("umount2", b".", m.MNT_DETACH)
    calls.call("chdir", b"/")


def place(calls: Calls, target: str, fd: int, is_dir: bool = True) -> None:
    """Attach a detached mount on a directory or file below the new root, made when it is missing.

    Fails with ELOOP when the template has a symbolic link there or on the way: what we mount must
    lie where everybody expects it."""
    path = target.encode()
    rules = m.RESOLVE_IN_ROOT | m.RESOLVE_NO_SYMLINKS
    how = calls.words(os.O_PATH | os.O_CLOEXEC, 0, rules)
    flags = m.MOVE_MOUNT_F_EMPTY_PATH | m.MOVE_MOUNT_T_EMPTY_PATH
    done, missing = f"placed {target}", f"missing {target}"
    calls.call("openat2", m.AT_FDCWD, path, how, _HOW_BYTES, result=2, error=missing)
    calls.call("move_mount", fd, b"", 0, b"", flags, zero=done, about=path)
    calls.label(missing)
    if is_dir:
        calls.may_fail("mkdirat", m.AT_FDCWD, b"/" + path, 0o755)
    else:
        calls.may_fail("openat", m.AT_FDCWD, b"/" + path, _NEW_FILE, 0o644)
    calls.call("openat2", m.AT_FDCWD, path, how, _HOW_BYTES, result=2, about=path)
    calls.call("move_mount", fd, b"", 0, b"", flags, about=path)
    calls.label(done)


def bind_nodes(calls: Calls, nodes: str, names: tuple[str, ...]) -> None:
    """Bind the nodes of devices.make_nodes(), which stand at `nodes`, to their places in /dev."""
    if not names:
        return
    for name in names:
        for at, letter in enumerate(name):
            if letter == "/":
                calls.may_fail("mkdirat", m.AT_FDCWD, f"/dev/{name[:at]}".encode(), 0o755)
        source = f"/{nodes}/{name}".encode()
        calls.descriptor(OWN, "open_tree", m.AT_FDCWD, source, _CLONE, about=source)
        place(calls, f"dev/{name}", OWN, is_dir=False)
    tree = f"/{nodes}".encode()
    calls.call("umount2", tree, m.MNT_DETACH | m.UMOUNT_NOFOLLOW)
    calls.call("unlinkat", m.AT_FDCWD, tree, _AT_REMOVEDIR)


def share(calls: Calls) -> None:
    """MS_SHARED on everything: services whose credentials are mounted for them need it (G9)."""
    calls.call("mount", b"none", b"/", b"none", m.MS_REC | m.MS_SHARED, 0)
