"""The story of a start, in the order the OpenVZ authors gave (DESIGN 2; vzctl-cli 2.2).

Each step's undo stands beside it; a failure at any step leaves the VPS as it was."""

from __future__ import annotations

import os
import time

from vzpy import cgroups, child, ns, rootfs, scripts, state, ubc
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.events import (
    NotApplied,
    Started,
    StartFailed,
    Starting,
    Step,
    silent,
)
from vzpy.fault import fault
from vzpy.kernel.proc import boot_id, starttime
from vzpy.kernel.program import word
from vzpy.model import Facts
from vzpy.record import record
from vzpy.story import ctscript, devices, enter, limits, owner, parent
from vzpy.story.conversation import Conversation
from vzpy.story.mount import mount_root, quota_on, quota_tight, umount_root
from vzpy.story.newborn import Newborn, files_of
from vzpy.story.served import unserved_of
from vzpy.story.teardown import forget, remove_cgroup
from vzpy.sync import MAPPED
from vzpy.undo import Undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Event, Report
    from vzpy.vps import VPS

STEPS = (
    "owner", "note", "cgroup", "limits", "launch", "prestart-script", "list", "maps", "facts",
    "ready", "start-script", "go",
)  # fmt: skip


@record
class Manner:
    """How a VPS is started: the flags of `vzctl start`.

    bare  without action scripts: for what runs in a stopped VPS"""

    force: bool = False  # though it is disabled
    wait: bool = False  # until it has booted
    remount: bool = True  # its root, where it is mounted already
    setup: bool = True  # its host name and addresses in its files
    fsck: bool = True  # of an image that has met an error
    bare: bool = False


def start(vps: VPS, report: Report, manner: Manner = Manner()) -> Facts:  # noqa: B008  # frozen
    """Start a VPS; returns when its init has been executed, with `wait` when it has booted.

    Raises VzError: 105 disabled, 43, 32 running, 28, 47, 50, 79 and what the steps raise."""
    check(vps, manner.force)
    report(Starting())
    with _Told(report), Undo() as undo:
        facts, notify = steps(vps, report, undo, manner)
        undo.forget()
    if manner.wait:
        from vzpy.story import ready

        ready.wait(vps, facts, notify, report)
    else:
        report(Started())
    return facts


class _Told:
    """A context: a failure at any step is a VzError with the step."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, err: BaseException | None, trace: object) -> None:
        if isinstance(err, VzError):
            err.step = err.step or "start"
            self.report(StartFailed())
        elif isinstance(err, OSError):
            self.report(StartFailed())
            step = getattr(err, "step", "")
            if step == "child-net":
                raise VzError.of("Unable to set up lo or netfilter", err, Exit.SET_IPTABLES,
                                 step=step) from err
            raise VzError.of(f"Cannot start{f' ({step})' if step else ''}", err, Exit.ENVCREATE,
                             step=step) from err


def check(vps: VPS, force: bool) -> None:
    if vps.config.value("DISABLED") and not force:
        raise VzError("Container start disabled", Exit.VE_START_DISABLED)
    if not os.path.isdir(vps.private):
        raise VzError(
            f"Container private area {vps.private} does not exist", Exit.FS_NOPRVT
        )
    if vps.facts():
        raise AlreadyRunning
    if not ubc.is_vswap(vps.config):
        missing = [key for key in ubc.REQUIRED if vps.config.value(key) is None]
        if missing:
            lines = (f"Error: required UB parameter {key.lower()} not set" for key in missing)
            raise VzError("\n".join(lines), Exit.NOTENOUGHUBCPARAMS)


def steps(vps: VPS, report: Report, undo: Undo, manner: Manner) -> tuple[Facts, int]:
    """From nothing to an executed init; what each step has to undo is pushed on `undo`.

    Returns the facts, and the descriptor where init tells that it has booted, else -1."""
    with Conversation(report, manner.wait) as talk, parent.of(
        vps.node.paths, vps.ctid, report
    ) as keeper:
        facts, not_applied = prepared(vps, report, undo, talk, keeper, manner)
        _step("start-script", report)
        try:
            ctscript.run(vps, facts, "start")
        except VzError:
            if not state.alive(facts):
                talk.go()  # tells what the task has died of
            raise
        quota_tight(vps)
        keeper.held()
        _step("go", report)
        talk.go()
        keeper.watch()
        notify, talk.notify = talk.notify, -1
    if not_applied:
        report(NotApplied(what=", ".join(not_applied)))
    return facts, notify


def prepared(
    vps: VPS,
    report: Report,
    undo: Undo,
    talk: Conversation,
    keeper: parent.Caller,
    manner: Manner,
) -> tuple[Facts, list[str]]:
    """Everything up to READY: a first task that waits inside, in namespaces, limits and root.

    keeper  parent of the task, and keeper of its console
    Returns the facts, and the parameters that this node does not apply."""
    node, ctid = vps.node, vps.ctid
    hooks = not manner.bare
    if manner.remount:
        umount_root(vps, vps.root, report, hooks)
    _step("owner", report)
    owner.settle(vps, report)
    _step("note", report)
    # Facts without a living init: when we are killed, whoever finds them takes back the rest.
    cgroup = cgroups.path_of(node.paths.cgroup, ctid)
    undo.callback(forget, node.paths, ctid)
    state.write_facts(node.paths, facts_of(vps, 0, cgroup))
    if mounts := manner.remount or not rootfs.is_mounted(vps.root):
        # After the cgroup, whose tasks have the root too.
        undo.callback(umount_root, vps, vps.root, report, hooks=False)
    _step("cgroup", report)
    cgroups.remove(cgroup)  # of a VPS whose state was lost
    networked = not manner.bare and any(map(vps.config.own, ("IP_ADDRESS", "NETIF", "NETDEV")))
    if networked:
        from vzpy.story import net, netbirth, networds

        # After the cgroup: a task that lives may still be given a device.
        undo.callback(net.unwire, node.paths, ctid, report)
    undo.callback(remove_cgroup, cgroup)
    cgroups.make(cgroup, vps.ids)
    told: list[Event] = []  # after the mount (vzctl-cli 2.2)
    if networked:
        if addresses := networds.addresses(vps.config, silent):
            keeper.ask_for_spare(" ".join(addresses))
        networds.tell(vps, told.append)
    _step("limits", report)
    granted = lambda: devices.before_birth(vps, cgroup, told.append)  # noqa: E731
    not_applied = limits.before_birth(vps, cgroup, told.append, granted)

    keeper = keeper.sure()
    requests: dict[str, bytes] = {}
    lengths: tuple[int, tuple[int, ...]] = (0, ())
    if networked:
        wiring = netbirth.Prepared(vps, keeper.spare())
        undo.callback(wiring.close)
        requests, lengths = wiring.ask(), wiring.lengths
    _step("launch", report)
    rlimits, shm_size, ptys = limits.born_with(vps.config)
    talk.ours.program = program = child.launcher(rlimits, *lengths)
    later = program.second()
    ve = talk.hand_over(os.open(f"{cgroup}/ve", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    given = [talk.theirs.fileno(), ve, later.memory]
    if requests:
        given += wiring.given
    keeper.launch(program, {"base": word(vps.ids.base), **requests}, given, talk)
    # The kernel now makes namespaces and devices; there is a second processor for the rest.
    if mounts:
        not_applied = mount_root(vps, report, hooks, manner.fsck) + not_applied
    else:
        not_applied = quota_on(vps, report) + not_applied
    if hooks:
        _step("prestart-script", report)
        scripts.run_prestart(node.paths, ctid)
    for event in told:
        report(event)

    _step("list", report)
    device = _second_level(vps, keeper, not_applied)
    level = vps.config.own("NETFILTER") or ""
    if (table := level if level in ("stateless", "stateful") else "") and not keeper.by_daemon:
        not_applied.append("netfilter")  # nobody holds the table
        table = ""
    newborn = Newborn(keeper.by_daemon, shm_size, ptys, device, table)
    kind, birth, fds = newborn.look(vps, cgroup, talk)
    child.live(later, birth, vps.hostname.encode(), vps.uuid.encode())

    _step("maps", report)
    pid = keeper.born()
    if not keeper.by_daemon:
        undo.callback(enter.reap, pid)
    ns.write_maps(pid, vps.ids.map_text())
    # While it waits: once it goes on it may fail, and its start time go with it.
    facts = facts_of(vps, pid, cgroup, kind, keeper.by_daemon, bool(device))
    talk.ours.send(MAPPED, fds)
    not_applied += unserved_of(vps.config)
    if manner.setup and any(map(vps.config.value, ("HOSTNAME", "NAMESERVER", "SEARCHDOMAIN"))):
        from vzpy.story import guest

        # Not into its clone: the task is mounting its /run there.
        files, below = files_of(vps)
        talk.hand_over(files, *(fd for _, fd in below))
        guest.before_birth(files, vps.config, vps.ids)
    talk.handed_over()
    _step("facts", report)
    state.write_facts(node.paths, facts)
    keeper.launched()
    not_applied += limits.inside(vps.config, facts)
    state.name_netns(node.paths, facts)
    if networked:
        net.wire(vps, facts, report, wiring, keeper.once_it_runs)
        if vps.config.value("RATE"):
            from vzpy.story import shape

            shape.wire(vps)
    _step("ready", report)
    if (console := talk.ready(keeper.hold)) >= 0:
        keeper.keep_console(console)
    return facts, not_applied


def _second_level(vps: VPS, keeper: parent.Caller, not_applied: list[str]) -> str:
    """The device that quota tools inside will find, "" without users and groups limited."""
    if not vps.config.value("QUOTAUGIDLIMIT"):
        return ""
    from vzpy.story import disk

    return disk.device_inside(vps, keeper.by_daemon, not_applied)


def _step(name: str, report: Report) -> None:
    report(Step(name=name))
    fault(name)


class stopped_but_entered:
    """A context: a stopped VPS that can be exec'ed in, without init and without action scripts:
    what `runscript` and `set --userpasswd` work in (vzctl-cli 2.8, 5). Afterwards it is as before.
    """

    def __init__(self, vps: VPS) -> None:
        self.vps = vps
        self.undo, self.talk, self.keeper = Undo(), Conversation(silent), parent.Caller()

    def __enter__(self) -> Facts:
        manner = Manner(bare=True)
        try:
            with _Told(silent):
                return prepared(self.vps, silent, self.undo, self.talk, self.keeper, manner)[0]
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.keeper.__exit__()
        self.talk.__exit__()
        self.undo.__exit__()


def facts_of(
    vps: VPS, pid: int, cgroup: str, kind: str = "unknown", by_daemon: bool = False,
    brokered: bool = False,
) -> Facts:
    """pid  0 while there is no init yet"""
    ids = vps.ids
    return Facts(
        ctid=vps.ctid,
        pid=pid,
        starttime=starttime(pid) if pid else 0,
        boot_id=boot_id(),
        layout=vps.layout,
        private=vps.private,
        root=vps.root,
        base=ids.base,
        count=ids.count,
        cgroup=cgroup,
        init=kind,
        daemon=by_daemon,
        started=time.time(),
        netfilter=vps.config.own("NETFILTER") or "",
        broker=vps.node.paths.socket if brokered else "",
    )
