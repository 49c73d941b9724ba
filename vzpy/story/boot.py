"""The boot service: `vz start|stop|status|restart|force-reload` (config-files 11).

STATE/vzreboot/N   VPSs that ran when the node was stopped; they come back
RUN/service        boot id of the boot in which the service was started: absent means that nothing
                   was started since the machine came up, so what is mounted or locked is left over
                   from a crash

One VPS that fails stops no other, and the exit code of start stays 0: an init system that takes
the service for failed would not stop its VPSs at shutdown."""

from __future__ import annotations

import os
import time

from vzpy import cgroups, events, state
from vzpy.errors import Locked, VzError
from vzpy.kernel.proc import boot_id
from vzpy.node import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.events import Event, Report
    from vzpy.vps import VPS

    Act = Callable[[VPS, Report], None]

STOPPED, USAGE, UNSUPPORTED = 3, 3, 6
_ROUNDS = 3


def run(action: str, report: Report) -> int:
    """Do one action of the service for the node of the environment; returns the exit code.

    Raises ConfigError (10) without a vz.conf."""
    node = Node(program="vz", skiplock=action != "start")
    if action == "status":
        return status(node, report)
    if node.config.raw("VIRTUOZZO") != "yes":
        return 0
    if not _supported():
        report(events.Warned(text="Running kernel is not an OpenVZ kernel"))
        return UNSUPPORTED
    code = 0
    if action != "start":
        code = stop(node, report)
    if action != "stop":
        code = start(Node(program="vz"), report)
    return code


def _supported() -> bool:
    try:
        cgroups.mountpoint()
    except OSError:
        return False
    return os.path.exists("/proc/self/ns/user")


def status(node: Node, report: Report) -> int:
    """Whether the service was started, or something runs without it."""
    if not _supported():
        report(events.Note(text="Running kernel is not an OpenVZ kernel"))
        return UNSUPPORTED
    if _started(node) or any(vps.facts() for vps in node):
        report(events.Note(text="OpenVZ is running..."))
        return 0
    report(events.Note(text="OpenVZ is stopped."))
    return STOPPED


def start(node: Node, report: Report) -> int:
    """Clear what a crash left, then start what is to run, in order, some at a time."""
    if not _started(node):
        recover(node, report)
        os.makedirs(node.paths.run, 0o755, exist_ok=True)
        with open(_mark(node), "w") as file:
            file.write(boot_id())
    chosen = to_start(node)
    if any(vps.config.raw("IP_ADDRESS") for vps in chosen) and not _forwarding():
        report(events.Warned(text="Warning: IP forwarding is not enabled"))
    _weigh_host(node, report)
    _each(node, chosen, lambda vps, tell: vps.start(report=tell), "Starting", report)
    return 0


def _weigh_host(node: Node, report: Report) -> None:
    """`vzctl set 0 --cpuunits $VE0CPUUNITS`; without the cpu controller nobody has a share."""
    from vzpy.story import host

    units = node.config.value("VE0CPUUNITS")
    if not units:
        report(events.Warned(text="Warning: VE0CPUUNITS is not set, using 1000"))
    host.set_cpuunits(node.paths, units or 1000, events.silent)


def stop(node: Node, report: Report) -> int:
    """Note who runs, stop all in reverse order, unmount the rest. Exit code 1 when one stays."""
    running = list(reversed(in_order([vps for vps in node if vps.facts()])))
    _note_running(node, running)
    if node.config.raw("VE_STOP_MODE") == "suspend" and running:
        report(events.Warned(text="Warning: VPSs cannot be saved to disk, they are stopped"))
    for round_ in range(1, _ROUNDS + 1):
        def stop_one(vps: VPS, tell: Report, fast: bool = round_ == _ROUNDS) -> None:
            _lift_limits(vps)
            vps.stop(fast=fast, report=tell)

        _each(node, [vps for vps in running if vps.facts()], stop_one, "Stopping", report)
    _umount_rest(node, report)
    try:
        os.unlink(_mark(node))
    except OSError:
        pass
    return 1 if any(vps.facts() for vps in running) else 0


def _lift_limits(vps: VPS) -> None:
    """All with one share of the CPUs, and nobody slowed down (config-files 11)."""
    for name, value in (("cpuunits", 2000), ("cpulimit", 0), ("iolimit", 0), ("iopslimit", 0)):
        try:
            vps.set(save=False, report=events.silent, **{name: str(value)})
        except VzError:
            pass  # where the controller is missing there is no limit


def recover(node: Node, report: Report) -> None:
    """Remove locks and mounts that a crash left; a lock whose holder lives stays."""
    lockdir = node.config.raw("LOCKDIR") or ""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for ctid in _numbers(lockdir, ".lck"):
        path = f"{lockdir}/{ctid}.lck"
        try:
            if os.stat(path).st_mtime < booted - 1:  # its pid may be somebody else by now
                report(events.StaleLock(path=path))
                os.unlink(path)
            with state.Lock(lockdir, ctid, report):
                pass
        except (OSError, Locked):
            continue
    for vps in node:
        try:
            vps.settle(wait=False, report=report)
        except VzError as err:
            report(events.Warned(text=f"CT {vps.ctid}: {err}"))
    _umount_rest(node, report)


def to_start(node: Node) -> list[VPS]:
    """(vzreboot list without ONBOOT=no) and all with ONBOOT=yes, larger BOOTORDER first."""
    ran = set(_numbers(f"{node.paths.state}/vzreboot"))
    chosen = []
    for vps in node:
        onboot = vps.config.value("ONBOOT")
        if (onboot or (onboot is None and vps.ctid in ran)) and not vps.facts():
            chosen.append(vps)
    return in_order(chosen)


def in_order(vpss: list[VPS]) -> list[VPS]:
    """The order of starting: larger BOOTORDER first, those without one last, by number."""

    def key(vps: VPS) -> tuple[float, int]:
        order = vps.config.value("BOOTORDER")
        return (float("inf") if order is None else -order, vps.ctid)

    return sorted(vpss, key=key)


def parallel(node: Node) -> int:
    """How many at a time: VE_PARALLEL, else four a CPU."""
    return node.config.value("VE_PARALLEL") or 4 * (os.cpu_count() or 1)


def _each(node: Node, vpss: list[VPS], act: Act, doing: str, report: Report) -> None:
    """act(VPS, report) for each, begun in order; failures are reported with their number."""
    from concurrent.futures import ThreadPoolExecutor

    def one(vps: VPS) -> None:
        def tell(event: Event) -> None:
            if event.level < 0:
                report(events.Warned(text=f"CT {vps.ctid}: {event}"))
            node.log.write(str(event), vps.ctid, event.level)

        report(events.Note(text=f"{doing} CT {vps.ctid}"))
        try:
            act(vps, tell)
        except (VzError, OSError) as err:
            tell(events.Warned(text=str(err)))

    with ThreadPoolExecutor(parallel(node)) as pool:
        for done in [pool.submit(one, vps) for vps in vpss]:
            done.result()


def _umount_rest(node: Node, report: Report) -> None:
    for vps in node:
        try:
            if not vps.facts() and vps.status.mounted:
                vps.umount()
        except VzError as err:
            report(events.Warned(text=f"CT {vps.ctid}: {err}"))


def _note_running(node: Node, running: list[VPS]) -> None:
    """Rewrite the vzreboot list."""
    folder = f"{node.paths.state}/vzreboot"
    os.makedirs(folder, 0o755, exist_ok=True)
    for ctid in _numbers(folder):
        os.unlink(f"{folder}/{ctid}")
    for vps in running:
        with open(f"{folder}/{vps.ctid}", "w"):
            pass


def _numbers(folder: str, suffix: str = "") -> list[int]:
    """VPS numbers among the file names of a folder."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    heads = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(head) for head in heads if head.isascii() and head.isdigit())


def _mark(node: Node) -> str:
    return f"{node.paths.run}/service"


def _started(node: Node) -> bool:
    try:
        with open(_mark(node)) as file:
            return file.read() == boot_id()
    except OSError:
        return False


def _forwarding() -> bool:
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        return file.read().strip() == "1"
