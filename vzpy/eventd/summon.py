"""Start vzeventd or vz-fdkeep when a client finds nobody listening.

The client itself binds the socket and hands it down listening: whoever connects from then on is
served as soon as the daemon is up, and nobody waits for a file to appear. A lock lets one of many
clients do it."""

from __future__ import annotations

import _socket
import fcntl
import os
import sys

from vzpy import cgroups
from vzpy.kernel import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import NodePaths

FDKEEP = "fdkeep.sock"
LEAF = "vzeventd"  # cgroup of both daemons, beside those of the VPSs
_BACKLOG = 128
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Guarded:
    """The lock over binding and unlinking the sockets of a node."""

    def __init__(self, paths: NodePaths) -> None:
        self.path = f"{paths.run}/vzeventd.lock"
        self.fd = -1
        os.makedirs(paths.run, 0o700, exist_ok=True)

    def __enter__(self) -> None:
        while True:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(self.fd), os.stat(self.path)):
                    return
            except FileNotFoundError:
                pass
            os.close(self.fd)  # `vzeventd --stop` has removed it meanwhile

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def connect(path: str) -> _socket.socket:
    """Raises ConnectionRefusedError or FileNotFoundError when nobody listens."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    with reachable(path) as name:
        try:
            sock.connect(name)
        except OSError:
            sock.close()
            raise
    return sock


def listen(path: str) -> _socket.socket:
    """Bind and listen, in place of a socket that nobody listens on any more."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    with reachable(path) as name:
        try:
            sock.bind(name)
            os.chmod(path, 0o600)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    return sock


class reachable:
    """A path as a socket address: through its directory's descriptor, since sun_path ends after
    108 bytes."""

    def __init__(self, path: str) -> None:
        directory, self.name = os.path.split(path)
        self.fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self.fd}/{self.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def connect_or_start(tool: str, path: str, paths: NodePaths) -> _socket.socket:
    """Raises OSError when it can be neither reached nor started."""
    try:
        return connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    with Guarded(paths):
        try:
            return connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            listener = listen(path)
        try:
            spawn([*launcher(tool), "--listening"], paths, listener.fileno())
        finally:
            listener.close()
        return connect(path)


def launcher(tool: str) -> list[str]:
    """The command line of another tool of the installation that this process runs from.

    The launcher beside ours; a process that only uses the library has none, so its interpreter
    runs the package."""
    own = os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    beside = os.path.join(os.path.dirname(own), tool)
    if os.path.basename(own).startswith("vz") and os.access(beside, os.X_OK):
        return [beside]
    main = os.path.join(os.path.dirname(os.path.realpath(__file__)), "__main__.py")
    return [sys.executable or "/usr/bin/python3", "-I", main, tool]


def environment(paths: NodePaths) -> dict[str, str]:
    return {"VZ_ETC": paths.etc, "VZ_RUN": paths.run, "PATH": _PATH}


def spawn(argv: list[str], paths: NodePaths, listener: int) -> None:
    """Run a daemon: nobody's child, in a session and a cgroup of its own, with nothing of ours
    but the socket, as its standard input."""
    env = environment(paths)
    cgroup = _own_cgroup(paths)
    try:
        pid = os.fork()
        if pid == 0:
            _become_daemon(argv, env, listener, cgroup)
        os.waitpid(pid, 0)
    finally:
        if cgroup >= 0:
            os.close(cgroup)


def _become_daemon(argv: list[str], env: dict[str, str], listener: int, cgroup: int) -> None:
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        if cgroup >= 0:
            try:
                os.write(cgroup, b"0")
            except OSError:
                pass  # then it lives with its first caller
        null = os.open(os.devnull, os.O_RDWR)
        for target, fd in enumerate((listener, null, null)):
            os.dup2(fd, target)
        os.chdir("/")
        os.umask(0o022)
        process.default_signals()
        process.unblock_signals()
        process.close_range(3)
        os.execve(argv[0], argv, env)
    finally:
        os._exit(127)


def leave_fence(paths: NodePaths) -> None:
    """Of a daemon, for its workers too: the fence around the node's VPSs is not for it, who reads
    the kernel's log and attaches loop devices."""
    from vzpy import devices

    try:
        devices.leave_open(_leaf(paths))
    except OSError:
        pass  # no cgroup of its own, or a kernel without such programs


def _own_cgroup(paths: NodePaths) -> int:
    """cgroup.procs of the daemons' leaf, -1 where there can be none: a daemon in its caller's
    cgroup would end with the session that happened to start the first VPS."""
    try:
        leaf = _leaf(paths)
        cgroups.mkdir(os.path.dirname(leaf))
        cgroups.mkdir(leaf)
        return os.open(f"{leaf}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _leaf(paths: NodePaths) -> str:
    return f"{cgroups.mountpoint()}/{paths.cgroup}/{LEAF}"


def leave_cgroup(paths: NodePaths) -> None:
    """The last of the daemons ends: out of the leaf, and away with it."""
    try:
        with open("/proc/self/cgroup") as f:
            if f"0::/{paths.cgroup}/{LEAF}\n" not in f.readlines():
                return  # a service manager's
        cgroups.write(cgroups.mountpoint(), "cgroup.procs", "0")
        remove_cgroup(paths, 1)
    except OSError:
        pass


def remove_cgroup(paths: NodePaths, timeout: float) -> None:
    """Of daemons that have gone, or will within so many seconds. Raises OSError: no cgroup2."""
    leaf = _leaf(paths)
    cgroups.await_event(leaf, "populated", 0, timeout)
    cgroups.rmdir(leaf)
    cgroups.rmdir(os.path.dirname(leaf))
