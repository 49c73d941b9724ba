"""All that happens between clone and exec in the first task of a VPS, in order (see sync.py), as a
program (kernel/program.py): everything is decided here, where the host's paths and libraries are at
hand, and what runs inside knows nothing, reads no file and has no memory of a process of the host.
"""

from __future__ import annotations

import errno
import os

from vzpy import mountplan, ns, tasks
from vzpy.kernel import mount as m
from vzpy.kernel import process
from vzpy.kernel.program import OWN, Blank, Number, Program
from vzpy.once import once
from vzpy.record import record
from vzpy.sync import CONSOLE, LISTENER, NOTIFY, READY, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.kernel.program import Calls, Later
    from vzpy.mountplan import Fresh, Host, Made, Seen

NOTIFY_SOCKET = b"/run/host/notify"

# Steps of the child; fault injection cuts at each (DESIGN 5.3).
STEPS = (
    "child-early", "child-net", "child-time", "child-prepare", "child-root", "child-mounts",
    "child-console", "child-exec",
)  # fmt: skip

# Descriptors of the program: what it is given, then what comes with MAPPED, the root and those of
# `below`; the others are its own.
_TELL, _CGROUP, _MEMORY, _ROOT, _BELOW = 3, 4, 5, 6, 7
NETWORK, OUTWARD, INWARD = 6, 7, 8  # of a launcher that makes a device, and its alone
_KILLED = 137
_SIOCGIFINDEX, _INDEX = 0x8933, 4  # netdevice(7); bytes


@record
class Birth:
    """What the child has to know; descriptors are handed beside it.

    argv and env are what init gets, beside its uuid; `below` are the paths of mounts that come with
    descriptors"""

    init: tuple[bytes, ...]  # paths to try, in order
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    container: str  # what it is told to be in
    capabilities: int
    filters: tuple[bytes, ...]
    seen: Seen
    below: tuple[str, ...]
    pty: bool
    nodes: tuple[str, ...] = ()  # devices to bind into /dev
    nodes_at: str = ""  # which of `below` has them
    table: bytes = b""  # of the host's, in its network namespace (netfilter.py)
    notify: bool = False  # somebody listens for init's word that it has booted
    handover: bytes = b""  # filter of the calls that vzeventd answers


def launcher(
    rlimits: tuple[tuple[int, int], ...], seen: Seen, pair: int = 0, guard: tuple[int, ...] = ()
) -> Program:
    """What the launcher does, and the first task until it knows more. Its number `base` is that of
    the ids; it is given a socket, the cgroup and the memory of the second list.

    rlimits  of the user namespace and of init
    pair, guard
             lengths of requests, for a network device of the task (_make_device) and about it; with
             them come a socket of netlink and the filters"""
    calls, own = Program(_TELL), tasks.hard_limits()

    def device(pid: int) -> None:
        _make_device(calls, pid, pair, guard)

    def write() -> None:
        calls.step = "clone"
        tasks.switch_on(calls, rlimits, own)
        tasks.own_namespaces(calls, Number("base"))
        tasks.clone(calls, ns.SEVEN, _CGROUP, device if pair else None)
        tasks.begin(calls, _MEMORY, _ROOT)
        _Mounts(calls, mountplan.plan(seen, "")).prepare(needs_ids=False)
        tasks.wait_for_more(calls, _ROOT)

    _once(calls, (rlimits, own, os.cpu_count(), seen, _faults(), pair, guard), write)
    return calls


def _make_device(calls: Program, pid: int, pair: int, guard: tuple[int, ...]) -> None:
    """Send what fills the blank `pair` and the pid behind it (rtnetlink.veth_add_to); then, if
    there is a device of the name that fills `device`, the requests that fill `guard`, with its
    index. What came of all that is for who reads the answers.

    pid  the address where it is"""
    from vzpy.kernel.rtnetlink import IFNAMSIZ, INDEX_AT, PID

    tasks.gather(calls, NETWORK, (calls.data(Blank("pair", pair)), pair), (pid, PID))
    device = calls.data(Blank("device", IFNAMSIZ, after=bytes(24)))  # struct ifreq
    calls.call("ioctl", NETWORK, _SIOCGIFINDEX, device, error="no device")
    at, parts = calls.data(Blank("guard", sum(guard))), []
    for length in guard:
        parts += [(at, INDEX_AT), (device + IFNAMSIZ, _INDEX)]
        parts.append((at + INDEX_AT + _INDEX, length - INDEX_AT - _INDEX))
        at += length
    tasks.gather(calls, NETWORK, *parts)
    calls.label("no device")


def live(calls: Later, birth: Birth, hostname: bytes, uuid: bytes) -> None:
    """Write the second list: the life of the first task from MAPPED on, until it is init. With
    MAPPED come descriptors of the root and of the mounts of `birth.below`."""
    task = _Task(calls, birth, len(hostname))
    _once(calls, (birth, len(hostname), _faults()), task.live)
    calls.write({"hostname": hostname, "uuid": uuid, **tasks.clocks()})


def _once(calls: Calls, key: object, write: Callable[[], None]) -> None:
    """Most VPSs have the same lists, which are made once."""

    def make() -> Calls:
        write()
        return calls

    calls.take(once(_made, key, make))


_made: dict[object, Calls] = {}


def _faults() -> tuple[str | None, str | None]:
    return os.getenv("VZ_TEST_STOP_AT"), os.getenv("VZ_TEST_FAIL_AT")


def _step(calls: Calls, name: str) -> None:
    """With the faults that tests ask for (fault.py)."""
    calls.step = name
    stop, fail = _faults()
    if stop == name:
        calls.call("exit_group", _KILLED)  # process 1 does not hear its own SIGKILL
    if fail == name:
        calls.fail(errno.EIO)


class _Mounts:
    """The mounts of a plan, which have the numbers from OWN + 1 on, in order."""

    def __init__(self, calls: Calls, plan: list[Fresh | Host | Made]) -> None:
        self.calls, self.plan = calls, plan
        mounts = [part for part in plan if not isinstance(part, mountplan.Made)]
        self.numbered = list(enumerate(mounts, OWN + 1))

    def prepare(self, needs_ids: bool) -> None:
        """Make those that have to wait for the ids of the user namespace, or the others."""
        _step(self.calls, "child-prepare" if needs_ids else "child-early")
        for number, part in self.numbered:
            if part.needs_ids == needs_ids:
                self._at(part)
                part.prepare(self.calls, number)

    def place(self) -> None:
        numbers = {part.target: number for number, part in self.numbered}
        for part in self.plan:
            self._at(part)
            if isinstance(part, mountplan.Made):
                part.make(self.calls)
            else:
                mountplan.place(self.calls, part.target, numbers[part.target], part.is_dir)

    def _at(self, part: Fresh | Host | Made) -> None:
        step = self.calls.step.partition(":")[0]
        self.calls.step = f"{step}: {part.describe()}"


class _Task:
    def __init__(self, calls: Calls, birth: Birth, hostname: int) -> None:
        self.calls, self.birth, self.hostname = calls, birth, hostname

    def live(self) -> None:
        calls, birth = self.calls, self.birth
        mounts = _Mounts(calls, mountplan.plan(birth.seen, birth.container))
        _step(calls, "child-net")
        tasks.loopback_up(calls)
        if birth.table:
            tasks.keep_table(calls, TABLE, birth.table)

        _step(calls, "child-time")
        tasks.become_root(calls)
        tasks.new_time(calls)

        mounts.prepare(needs_ids=True)

        _step(calls, "child-root")
        mountplan.enter_root(calls, _ROOT)

        _step(calls, "child-mounts")
        mounts.place()
        self.mounts_below()

        _step(calls, "child-console")
        self.console()
        if birth.notify:
            tasks.notify_socket(calls, NOTIFY, NOTIFY_SOCKET)
        if birth.handover:
            tasks.broker(calls, birth.handover, LISTENER)
        mountplan.share(calls)
        calls.call("sethostname", Blank("hostname", self.hostname), self.hostname)
        tasks.say(calls, READY)

        _step(calls, "child-exec")
        self.become_init()

    def mounts_below(self) -> None:
        calls, birth = self.calls, self.birth
        for number, path in enumerate(birth.below, _BELOW):
            calls.step = f"child-mounts: /{path}"
            mountplan.place(calls, path, number)
        mountplan.bind_nodes(calls, birth.nodes_at, birth.nodes)

    def console(self) -> None:
        """/dev/console: the slave of a pty of the VPS itself, whose master is handed over; else
        null. The pty comes from the devpts of the VPS, so its slave belongs to the VPS's root."""
        calls, master = self.calls, OWN + 1
        if self.birth.pty:
            tasks.new_pty(calls, master)
            clone = m.OPEN_TREE_CLONE | m.OPEN_TREE_CLOEXEC
            calls.descriptor(OWN, "open_tree", 0, b"", clone | m.AT_EMPTY_PATH)
            tasks.hand_over(calls, CONSOLE, master)
        else:
            mountplan.Host("dev/console", "/dev/null").prepare(calls, OWN)
        mountplan.place(calls, "dev/console", OWN, is_dir=False)

    def become_init(self) -> None:
        """Console, clean process, filter, capabilities, exec: each takes something that those
        before it need (the filter CAP_SYS_ADMIN, which --capability may switch off)."""
        calls, birth, console = self.calls, self.birth, b"/dev/console"
        flags = os.O_RDWR | os.O_NOCTTY
        calls.descriptor(OWN, "openat", m.AT_FDCWD, console, flags, 0, about=console)
        tasks.stdio(calls, (OWN, OWN, OWN))
        tasks.new_session(calls)
        tasks.close_all_but(calls, [_TELL])
        calls.call("prctl", process.PR_SET_SECUREBITS, 0, 0, 0, 0)
        tasks.filter_calls(calls, birth.filters)
        tasks.limit_capabilities(calls, birth.capabilities)
        tasks.wait(calls)  # GO
        argv = birth.argv
        candidates = tuple((path, argv) for path in birth.init)
        uuid = Blank("uuid", mountplan.UUID_LENGTH, b"container_uuid=")
        tasks.execute(calls, candidates, (*birth.env, uuid), birth.init[0])
