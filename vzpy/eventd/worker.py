"""What is done about a VPS whose init has ended, in a process of its own: `vzeventd --settle`.

A fresh interpreter, so that the daemon stays small and never waits, and so that after an upgrade
it is the new code that cleans up."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.errors import Locked, VzError
from vzpy.eventd import summon
from vzpy.kernel.process import SIGHUP, SIGINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import Facts, NodePaths
    from vzpy.node import Node

REBOOT, HALT, CRASH, UNKNOWN = "reboot", "halt", "crash", "unknown"
CUT_SHORT = "cut-short"  # there never was an init: the tool that started the VPS has died
LOCKED = 9  # exit code: somebody else has the lock after all
_TAIL = 2000  # bytes of the console that a crash tells


def reason(status: int | None) -> str:
    """Why an init ended, by its wait status: reboot(2) in a pid namespace kills init by SIGHUP
    for a restart, by SIGINT for a halt or power-off (pid_namespaces(7))."""
    if status is None:
        return UNKNOWN
    if os.WIFSIGNALED(status):
        return {SIGHUP: REBOOT, SIGINT: HALT}.get(os.WTERMSIG(status), CRASH)
    return CRASH if os.WEXITSTATUS(status) else HALT


def describe(how: str, status: int | None, tail: bytes) -> str:
    """The line of the log file."""
    if how != CRASH or status is None:
        return _TEXTS.get(how, "Container ended")
    signalled = os.WIFSIGNALED(status)
    number = os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status)
    what = f"was killed by signal {number}" if signalled else f"exited with status {number}"
    text = f"Container crashed: its init {what}"
    shown = tail[-_TAIL:].decode(errors="replace").replace("\r", "")
    lines = [line for line in map(_printable, shown.split("\n")) if line.strip()]
    return "\n".join([text, *(f"\tconsole: {line}" for line in lines[-10:])])


_TEXTS = {
    REBOOT: "Container reboots",
    HALT: "Container halted",
    CUT_SHORT: "Container start was cut short",
}


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line)


def may_start(how: str) -> bool:
    return how in (REBOOT, UNKNOWN)


def spawn(paths: NodePaths, ends: list[str]) -> int:
    """Start a worker for some ends (main() reads them); its pid."""
    argv = [*summon.launcher("vzeventd"), "--settle", *ends]
    return os.posix_spawn(
        argv[0], argv, summon.environment(paths), setsigmask=(), setsigdef=range(1, 32)
    )


def main(ends: list[str]) -> int:
    """Clean up after some inits, and start those VPSs again that have rebooted.

    ends  CTID,PID,STARTTIME,HOW each"""
    from vzpy.node import Node

    node = Node(program="vzeventd")
    code = 0
    for end in ends:
        ctid, pid, starttime, how = end.split(",")
        try:
            _settle(node, int(ctid), (int(pid), int(starttime)), how)
        except Locked:
            code = LOCKED
        except (VzError, OSError) as err:
            what = "restart" if how == REBOOT else "clean up"
            node.log.write(f"Cannot {what}: {err}", int(ctid), -1)
            code = code or 1
        except Exception:  # our mistake; nobody sees the standard error of a worker
            import traceback

            node.log.write(f"internal error: {traceback.format_exc()}", int(ctid), -1)
            code = code or 1
    return code


def _settle(node: Node, ctid: int, init: tuple[int, int], how: str) -> None:
    from vzpy.story import teardown

    vps = node.vps(ctid)

    def report(event: object) -> None:
        node.log.write(str(event), ctid, getattr(event, "level", 0))

    with vps.locked(report, state.BRIEFLY):
        facts = state.read_facts(node.paths, ctid)
        if facts is None or (facts.pid, facts.starttime) != init:
            return
        again = how == REBOOT or (how == UNKNOWN and _marked(facts))
        teardown.settle(vps, report)
        if again:
            from vzpy.story import start

            start.start(vps, report)


def _marked(facts: Facts) -> bool:
    """Distributions that reboot without reboot(2) leave a file /reboot; it is used up."""
    try:
        root = os.open(facts.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.unlink("reboot", dir_fd=root)
    except OSError:
        return False
    finally:
        os.close(root)
    return True
