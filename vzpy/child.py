"""All that runs between clone and exec in the first task of a VPS, in order (see sync.py).

Rules of this file: after enter_root() every import, codec or library that is loaded lazily would
be the guest's, run as its root in our process; so everything is imported at the top, the search
paths are emptied, and only bytes cross. Nothing here prints."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from vzpy import devices, ns, rootfs
from vzpy.fault import fault
from vzpy.kernel import caps, process, seccomp
from vzpy.record import record
from vzpy.sync import CONSOLE, GO, LISTENER, MAPPED, NOTIFY, READY, TABLE, WARN, Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.model import IdRange
    from vzpy.rootfs import Make, Place

NOTIFY_SOCKET = b"/run/host/notify"

# Steps of the child; fault injection cuts at each (DESIGN 5.3).
STEPS = (
    "child-net", "child-time", "child-prepare", "child-root", "child-mounts", "child-console",
    "child-exec",
)  # fmt: skip


@record
class Birth:
    """What the child has to know; descriptors are handed beside it.

    argv and env are what init gets; `below` are the paths of mounts that come with descriptors"""

    ids: IdRange
    hostname: bytes
    init: tuple[bytes, ...]  # paths to try, in order
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    capabilities: int
    filters: tuple[bytes, ...]
    seen: rootfs.Seen
    below: tuple[str, ...]
    kind: str  # of init, for the facts
    pty: bool
    nodes: tuple[str, ...] = ()  # devices to bind into /dev
    rlimits: tuple[tuple[int, int], ...] = ()  # of the user namespace and of init
    table: str = ""  # the level of netfilter that it is put in force for (netfilter.TABLES)
    notify: bool = False  # somebody listens for init's word that it has booted
    handover: bytes = b""  # filter of the calls that vzeventd answers


@record
class Handed:
    """Descriptors of a birth: they go to vzeventd in this order when it is the parent."""

    sync: int
    cgroup: int
    root: int
    below: tuple[int, ...]


def launch(birth: Birth, handed: Handed) -> int:
    """Clone the first task of a VPS (see ns.launch); the rest is said through `sync`."""
    channel = Channel(_dup(handed.sync))
    entry = ns.Entry(
        keep=(channel.fileno(), handed.root, *handed.below),
        cgroup=handed.cgroup,
        owner=birth.ids,
        rlimits=ns.early(birth.rlimits),
    )
    # Made here, where the pages of the interpreter need not be copied for it.
    plan = rootfs.plan(birth.seen)
    make_table: Callable[[], _socket.socket] | None = None
    if birth.table:
        from vzpy import netfilter

        asked = netfilter.transaction(birth.table)
        make_table = lambda: netfilter.keep_table(asked)  # noqa: E731
    try:
        return ns.launch(
            entry,
            channel.tell,
            lambda: run(birth, channel, handed, plan, make_table),
        )
    finally:
        channel.close()


def _dup(fd: int) -> _socket.socket:
    return _socket.socket(fileno=fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))


def run(
    birth: Birth,
    channel: Channel,
    handed: Handed,
    plan: list[Place | Make],
    make_table: Callable[[], _socket.socket] | None,
) -> None:
    """The life of the first task until it becomes init. Returns only when it failed, having said
    why."""
    step = "child-net"
    failure = table = None
    try:
        try:
            ns.poison_imports()
            fault(step)
            _loopback_up()
            table = make_table() if make_table else None
        except OSError as err:
            failure = err
        # Until then the parent, who writes the id maps meanwhile, hears nothing but the pid.
        if channel.receive()[0] != MAPPED:
            return
        if failure:
            raise failure
        if table:
            channel.send(TABLE, fd=table.fileno())
            table.close()

        step = "child-time"
        ns.become_root()
        fault(step)
        try:
            ns.enter_time()
        except OSError as err:
            _warn(channel, f"time namespace: {err.strerror}; uptime inside is the host's")

        step = "child-prepare"
        fault(step)
        for part in plan:
            part.prepare()

        step = "child-root"
        fault(step)
        rootfs.enter_root(handed.root)

        step = "child-mounts"
        fault(step)
        for part in plan:
            step = "child-mounts: " + part.describe()
            part.execute()
        for path, fd in zip(birth.below, handed.below):
            rootfs.place(path, fd)
        devices.bind_nodes(birth.nodes, rootfs.place)

        step = "child-console"
        fault(step)
        master = rootfs.console(birth.pty)
        if master >= 0:
            channel.send(CONSOLE, fd=master)
            os.close(master)
        if birth.notify:
            _hand_notify_socket(channel)
        if birth.handover:
            seccomp.hand_over(birth.handover, lambda fd: channel.send(LISTENER, fd=fd))
        rootfs.share()
        process.sethostname(birth.hostname)
        channel.send(READY)
        if channel.receive()[0] != GO:
            return

        step = "child-exec"
        fault(step)
        become_init(birth, channel.fileno())
    except OSError as err:
        channel.fail(step, err)


def become_init(birth: Birth, sync: int) -> None:
    """Console, clean process, filter, capabilities, exec: each takes something that those before
    it need (the filter CAP_SYS_ADMIN, which --capability may switch off)."""
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for fd in range(3):
        os.dup2(console, fd)
    ns.clean_process([sync])
    process.prctl(process.PR_SET_SECUREBITS, 0)
    for program in birth.filters:
        seccomp.load(program)
    caps.limit(birth.capabilities)
    ns.bound_data(birth.rlimits)
    for path in birth.init:
        ns.try_execve(path, list(birth.argv), dict(birth.env))
    raise OSError(2, os.strerror(2), os.fsdecode(birth.init[0]))


def _warn(channel: Channel, text: str) -> None:
    channel.send(WARN, text.encode())


def _hand_notify_socket(channel: Channel) -> None:
    """Only a socket that somebody reads: init would hang on a full one."""
    s = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        s.bind(NOTIFY_SOCKET)
        channel.send(NOTIFY, fd=s.fileno())
    finally:
        s.close()


def _loopback_up() -> None:
    """`ip link set lo up`: inits that are no systemd expect it (netdevice(7), SIOCSIFFLAGS)."""
    s = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(s.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    finally:
        s.close()


_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
