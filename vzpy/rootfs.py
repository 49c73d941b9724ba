"""The root of a VPS: how it is mounted on the host, and the mount plan of what it sees.

Host side: mount() and umount() of VE_ROOT by layout. VPS side: plan() gives the mounts as objects
with describe(), prepare() and execute(); prepare() runs while the host's tree is still there
(fresh proc and sysfs are refused once it is gone), execute() after pivot_root."""

from __future__ import annotations

import errno
import os
import stat
import time

from vzpy.kernel import mount as m
from vzpy.kernel.proc import is_mounted as is_mounted
from vzpy.kernel.proc import mounts_below as mounts_below
from vzpy.kernel.pty import pty_number
from vzpy.overlay import LOWER as LOWER
from vzpy.overlay import drop_lower as drop_lower
from vzpy.overlay import layers_of as layers_of
from vzpy.overlay import overlay as overlay
from vzpy.overlay import stacked as stacked
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RDONLY, NOSUID, NODEV, NOEXEC = (
    m.MOUNT_ATTR_RDONLY,
    m.MOUNT_ATTR_NOSUID,
    m.MOUNT_ATTR_NODEV,
    m.MOUNT_ATTR_NOEXEC,
)
_LXCFS = "/var/lib/lxcfs"
_BUSY_FOR_A_MOMENT = 0.5  # seconds that an unmount waits for who only looks
_DIR = os.O_DIRECTORY | os.O_PATH


# Host side


def layout_of(private: str) -> str:
    """The layout of a private area whose N.conf does not tell.

    What a guest can have made in its simfs root is not believed: the other areas are root's."""
    try:
        about = os.stat(private)
    except OSError:
        return "simfs"
    is_root_only = about.st_uid == 0 and not about.st_mode & 0o077
    if not is_root_only:
        return "simfs"
    if os.path.islink(f"{private}/tree") and os.path.isdir(f"{private}/upper"):
        return "overlay"
    return "image" if os.path.isfile(f"{private}/root.img") else "simfs"


def mount_overlay(tree: str, private: str, root: str, lower_ids: int) -> None:
    """VE_ROOT = the template's tree below VE_PRIVATE/upper (see overlay())."""
    fd = overlay(tree, private, lower_ids)
    try:
        m.move_mount(fd, root)
    finally:
        os.close(fd)


def mount_simfs(private: str, root: str, host_view: int) -> None:
    """VE_ROOT = VE_PRIVATE, shown to the host with the owners that the VPS sees.

    host_view  descriptor of a user namespace with the inverse map: what host root writes there
               belongs to the root of the VPS"""
    tree = m.open_tree(private, m.OPEN_TREE_CLONE)
    try:
        m.mount_setattr(tree, m.MOUNT_ATTR_IDMAP, userns=host_view)
        m.move_mount(tree, root)
    finally:
        os.close(tree)


def umount(root: str) -> None:
    """Unmount VE_ROOT with all that is mounted below it, deepest first. Absence is success.

    Raises OSError: EBUSY while a process of the host stands in it."""
    patience = time.monotonic() + _BUSY_FOR_A_MOMENT
    for target in reversed(mounts_below(root)):
        while True:
            try:
                m.umount2(target, m.UMOUNT_NOFOLLOW)
                break
            except OSError as err:
                if err.errno in (errno.ENOENT, errno.EINVAL):  # it has gone meanwhile
                    break
                # Somebody may just be looking whether it is mounted, or hold our descriptors
                # between a fork and its exec.
                if err.errno != errno.EBUSY or time.monotonic() > patience:
                    raise
                time.sleep(0.005)


def detached(root: str, layout: str, private: str) -> tuple[int, list[tuple[str, int]]]:
    """What a VPS gets as its root: a detached clone of VE_ROOT, cut off from the host.

    Returns its descriptor, and (path below the root, descriptor) of each mount that has to be
    placed in it: action scripts may have mounted something below VE_ROOT. A simfs root is cloned
    from VE_PRIVATE, because VE_ROOT shows the host's view of the owners; so it does for an image,
    whose clone is for the caller to map. Without MS_PRIVATE what the VPS mounts would show below
    VE_ROOT on the host."""
    below: list[tuple[str, int]] = []
    if layout in ("simfs", "image"):
        tree = m.open_tree(private if layout == "simfs" else root, m.OPEN_TREE_CLONE)
        real = os.path.realpath(root)
        for target in mounts_below(root):
            if target != real:
                below.append((target[len(real) + 1 :], m.open_tree(target, m.OPEN_TREE_CLONE)))
    else:
        tree = m.open_tree(root, m.OPEN_TREE_CLONE | m.AT_RECURSIVE)
    for fd in (tree, *(fd for _, fd in below)):
        m.mount_setattr(fd, propagation=m.MS_PRIVATE, recursive=True)
    return tree, below


# VPS side: runs in the child, after its user namespace is mapped


class Place:
    """A fresh file system or a clone of a host file, made before pivot_root and placed after."""

    def __init__(
        self, target: str, make: Callable[[], int], what: str, is_dir: bool = True
    ) -> None:
        self.target, self.make, self.what, self.is_dir = target, make, what, is_dir
        self.fd = -1

    def describe(self) -> str:
        return f"{self.what} on /{self.target}"

    def prepare(self) -> None:
        self.fd = self.make()

    def execute(self) -> None:
        place(self.target, self.fd, self.is_dir)


class Make:
    """A directory, link, file or node of /dev and /run."""

    def __init__(self, target: str, act: Callable[[str], object], what: str) -> None:
        self.target, self.act, self.what = target, act, what

    def describe(self) -> str:
        return f"{self.what} at /{self.target}"

    def prepare(self) -> None:
        pass

    def execute(self) -> None:
        self.act("/" + self.target)


def place(target: str, fd: int, is_dir: bool = True) -> None:
    """Attach a detached mount below the new root."""
    point = mount_point(target, is_dir)
    m.move_mount(fd, point)
    os.close(point)
    os.close(fd)


def mount_point(target: str, is_dir: bool = True) -> int:
    """A descriptor of the directory or file to mount on, made when it is missing. The root is the
    working directory.

    Raises OSError ELOOP when the template has a symbolic link there or on the way: what we mount
    must lie where everybody expects it."""
    rules = m.RESOLVE_IN_ROOT | m.RESOLVE_NO_SYMLINKS
    try:
        return m.openat2(m.AT_FDCWD, target, os.O_PATH, resolve=rules)
    except FileNotFoundError:
        if is_dir:
            os.mkdir(f"/{target}", 0o755)
        else:
            os.close(os.open(f"/{target}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        return m.openat2(m.AT_FDCWD, target, os.O_PATH, resolve=rules)


def _fresh(target: str, fstype: str, attr: int = 0, **options: str | None) -> Place:
    shown = "".join(f",{k}={v}" if v else f",{k}" for k, v in options.items())
    return Place(target, lambda: m.fsmount(fstype, attr, **options), f"{fstype}{shown}")


def _host(target: str, source: str, is_dir: bool = False) -> Place:
    """A file or directory of the host, as it is there now; what the host mounts on it later does
    not come in."""

    def clone() -> int:
        fd = m.open_tree(source, m.OPEN_TREE_CLONE)
        m.mount_setattr(fd, propagation=m.MS_PRIVATE)
        return fd

    return Place(target, clone, f"host's {source}", is_dir)


def _node(name: str) -> Place:
    return _host(f"dev/{name}", f"/dev/{name}")


def _link(target: str, to: str) -> Make:
    return Make(target, lambda path: os.symlink(to, path), f"link to {to}")


def _file(target: str, text: bytes) -> Make:
    def write(path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(fd, text)
        os.close(fd)

    return Make(target, write, "file")


def _directory(target: str, mode: int = 0o755) -> Make:
    return Make(target, lambda path: os.mkdir(path, mode), "directory")


def _mknod(target: str, kind: int, what: str) -> Make:
    return Make(target, lambda path: os.mknod(path, kind), what)


DEVPTS: dict[str, str] = {"ptmxmode": "0666", "mode": "0620", "gid": "5"}


@record
class Seen:
    """What the mount plan has to know of one VPS."""

    container: str  # value of container=, as in the environment of init
    uuid: str
    shm_size: str = ""  # of /dev/shm, e.g. "86016k"; "" = the kernel's default
    own_pts: bool = True  # else /dev/pts is handed over, a mount of the host's


def plan(seen: Seen) -> list[Place | Make]:
    """Everything a VPS finds mounted, in order.

    /sys is read-only because udevd, networkd and logind take a writable one for a real machine.
    Since directories of /sys are covered, a whole sysfs and proc stand in /dev/.vz: without an
    instance that nothing is mounted on the kernel refuses nested ones (mount_too_revealing).
    Their paths must resolve: df fails for a mount whose path leads elsewhere."""
    empty_ro = {"size": "0", "nr_inodes": "1", "mode": "0555"}
    return [
        _fresh("proc", "proc", NOSUID | NODEV | NOEXEC),
        _fresh("sys", "sysfs", RDONLY | NOSUID | NODEV | NOEXEC),
        _fresh("sys/fs/cgroup", "cgroup2", NOSUID | NODEV | NOEXEC),
        *(
            _fresh(f"sys/{d}", "tmpfs", RDONLY | NOSUID | NODEV | NOEXEC, **empty_ro)
            for d in ("block", "class/block", "dev/block", "firmware")
            if os.path.isdir(f"/sys/{d}")
        ),
        *_lxcfs(),
        _fresh("dev", "tmpfs", NOSUID | NOEXEC, mode="0755", size="65536k"),
        _directory("dev/.vz"),
        _directory("dev/.vz/proc"),
        _directory("dev/.vz/sys"),
        _fresh("dev/.vz/proc", "proc", NOSUID | NODEV | NOEXEC),
        _fresh("dev/.vz/sys", "sysfs", NOSUID | NODEV | NOEXEC),
        *(_node(n) for n in ("null", "zero", "full", "random", "urandom", "tty")),
        *([_fresh("dev/pts", "devpts", NOSUID | NOEXEC, **DEVPTS)] if seen.own_pts else []),
        _fresh("dev/shm", "tmpfs", NOSUID | NODEV, mode="1777", **_size(seen.shm_size)),
        _fresh("dev/mqueue", "mqueue", NOSUID | NODEV | NOEXEC),
        _link("dev/ptmx", "pts/ptmx"),
        _link("dev/fd", "/proc/self/fd"),
        _link("dev/stdin", "/proc/self/fd/0"),
        _link("dev/stdout", "/proc/self/fd/1"),
        _link("dev/stderr", "/proc/self/fd/2"),
        _fresh("run", "tmpfs", NOSUID | NODEV, mode="0755"),
        _directory("run/host"),
        _file("run/host/container-manager", seen.container.encode() + b"\n"),
        _file("run/host/container-uuid", seen.uuid.encode() + b"\n"),
        _directory("run/host/inaccessible"),
        _mknod("run/host/inaccessible/reg", stat.S_IFREG, "file nobody may open"),
        _mknod("run/host/inaccessible/fifo", stat.S_IFIFO, "fifo nobody may open"),
        _mknod("run/host/inaccessible/sock", stat.S_IFSOCK, "socket nobody may open"),
        # A character device 0:0 is the only node that mknod(2) allows here; systemd takes the
        # socket where it wants a block device.
        _mknod("run/host/inaccessible/chr", stat.S_IFCHR, "device 0:0"),
        _directory("run/host/inaccessible/dir", 0),
        # networkd would take away the addresses of any device that one of its files matches.
        _directory("run/systemd"),
        _directory("run/systemd/network"),
        _file("run/systemd/network/00-venet0.network", _LEFT_ALONE),
    ]


_LEFT_ALONE = b"[Match]\nName=venet0\n\n[Link]\nUnmanaged=yes\n"


def _lxcfs() -> list[Place]:
    """Files of /proc that show the VPS's own memory, load and CPUs, where the host runs lxcfs.

    Its uptime is left out: the time namespace gives that, and to sysinfo(2) too."""
    try:
        names = sorted(set(os.listdir(f"{_LXCFS}/proc")) - {"uptime"})
    except OSError:  # not installed, or its daemon is dead (ENOTCONN)
        return []
    files = [_host(f"proc/{name}", f"{_LXCFS}/proc/{name}") for name in names]
    cpus = "sys/devices/system/cpu"
    if os.path.isdir(f"{_LXCFS}/{cpus}"):
        files.append(_host(cpus, f"{_LXCFS}/{cpus}", is_dir=True))
    return files


def _size(size: str) -> dict[str, str | None]:
    return {"size": size} if size else {}


def enter_root(tree: int) -> None:
    """The tree becomes "/", and the host's mounts are gone (pivot_root(2), the form with dots)."""
    m.move_mount(tree, "/")
    os.fchdir(tree)
    m.pivot_root(".", ".")
    m.umount2(".", m.MNT_DETACH)
    os.chdir("/")


def share() -> None:
    """MS_SHARED on everything: services whose credentials are mounted for them need it (G9)."""
    m.mount("none", "/", "none", m.MS_REC | m.MS_SHARED)


def console(pty: bool) -> int:
    """/dev/console: the slave of a pty of the VPS itself, whose master is returned; else null.

    The pty comes from the devpts of the VPS, so its slave belongs to the root of the VPS."""
    if not pty:
        place("dev/console", m.open_tree("/dev/null", m.OPEN_TREE_CLONE), is_dir=False)
        return -1
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    slave = f"/dev/pts/{pty_number(master)}"
    place("dev/console", m.open_tree(slave, m.OPEN_TREE_CLONE), is_dir=False)
    return master
