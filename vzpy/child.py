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
    from vzpy.mountplan import Fresh, Here, Host, Made, Seen

NOTIFY_SOCKET = b"/run/host/notify"

# Steps of the child; fault injection cuts at each (DESIGN 5.3).
STEPS = (
    "child-net", "child-time", "child-prepare", "child-root", "child-mounts", "child-console",
    "child-exec",
)  # fmt: skip

# Descriptors of the program: what it is given, then what comes with MAPPED, the root and those of
# `below`; the others are its own.
_TELL, _CGROUP, _MEMORY, _ROOT, _BELOW = 3, 4, 5, 6, 7
_KILLED = 137


@record
class Birth:
    """What the child has to know; descriptors are handed beside it.

    argv and env are what init gets, beside its uuid; `below` are the paths of mounts that come with
    descriptors"""

    init: tuple[bytes, ...]  # paths to try, in order
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
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


def launcher(rlimits: tuple[tuple[int, int], ...]) -> Program:
    """What the launcher does, and the first task until it knows more. Its number `base` is that of
    the ids; it is given a socket, the cgroup and the memory of the second list.

    rlimits  of the user namespace and of init"""
    calls, own = Program(_TELL), tasks.hard_limits()

    def write() -> None:
        calls.step = "clone"
        tasks.switch_on(calls, rlimits, own)
        tasks.own_namespaces(calls, Number("base"))
        tasks.clone(calls, ns.SEVEN, _CGROUP)
        tasks.wait_for_more(calls, _MEMORY, _ROOT)

    _once(calls, (rlimits, own, os.cpu_count()), write)
    return calls


def live(calls: Later, birth: Birth, hostname: bytes, uuid: bytes) -> None:
    """Write the second list: the life of the first task from MAPPED on, until it is init. With
    MAPPED come descriptors of the root and of the mounts of `birth.below`."""
    host = mountplan.here()
    faults = os.getenv("VZ_TEST_STOP_AT"), os.getenv("VZ_TEST_FAIL_AT")
    task = _Task(calls, birth, host, len(hostname))
    _once(calls, (birth, host, len(hostname), faults), task.live)
    calls.write({"hostname": hostname, "uuid": uuid, **tasks.clocks()})


def _once(calls: Calls, key: object, write: Callable[[], None]) -> None:
    """Most VPSs have the same lists, which are made once."""

    def make() -> Calls:
        write()
        return calls

    calls.take(once(_made, key, make))


_made: dict[object, Calls] = {}


class _Task:
    def __init__(self, calls: Calls, birth: Birth, host: Here, hostname: int) -> None:
        self.calls, self.birth, self.host, self.hostname = calls, birth, host, hostname

    def live(self) -> None:
        calls, birth = self.calls, self.birth
        self.plan = mountplan.plan(birth.seen, self.host)
        self.step("child-net")
        tasks.loopback_up(calls)
        if birth.table:
            tasks.keep_table(calls, TABLE, birth.table)

        self.step("child-time")
        tasks.become_root(calls)
        tasks.new_time(calls)

        self.step("child-prepare")
        mounts = self.prepare()

        self.step("child-root")
        mountplan.enter_root(calls, _ROOT)

        self.step("child-mounts")
        self.place(mounts)

        self.step("child-console")
        self.console()
        if birth.notify:
            tasks.notify_socket(calls, NOTIFY, NOTIFY_SOCKET)
        if birth.handover:
            tasks.broker(calls, birth.handover, LISTENER)
        mountplan.share(calls)
        calls.call("sethostname", Blank("hostname", self.hostname), self.hostname)
        tasks.say(calls, READY)

        self.step("child-exec")
        self.become_init()

    def step(self, name: str) -> None:
        """With the faults that tests ask for (fault.py)."""
        self.calls.step = name
        if os.getenv("VZ_TEST_STOP_AT") == name:
            self.calls.call("exit_group", _KILLED)  # process 1 does not hear its own SIGKILL
        if os.getenv("VZ_TEST_FAIL_AT") == name:
            self.calls.fail(errno.EIO)

    def prepare(self) -> dict[str, int]:
        """Descriptors of the mounts of the plan, by where they belong."""
        mounts = [part for part in self.plan if not isinstance(part, mountplan.Made)]
        for number, part in enumerate(mounts, OWN + 1):
            self.at(part)
            part.prepare(self.calls, number)
        return {part.target: number for number, part in enumerate(mounts, OWN + 1)}

    def place(self, mounts: dict[str, int]) -> None:
        calls, birth = self.calls, self.birth
        for part in self.plan:
            self.at(part)
            if isinstance(part, mountplan.Made):
                part.make(calls)
            else:
                mountplan.place(calls, part.target, mounts[part.target], part.is_dir)
        for number, path in enumerate(birth.below, _BELOW):
            calls.step = f"child-mounts: /{path}"
            mountplan.place(calls, path, number)
        mountplan.bind_nodes(calls, birth.nodes_at, birth.nodes)

    def at(self, part: Fresh | Host | Made) -> None:
        step = self.calls.step.partition(":")[0]
        self.calls.step = f"{step}: {part.describe()}"

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
