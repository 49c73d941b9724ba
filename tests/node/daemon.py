"""Looks at the node daemon, and at what it has done."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import tools
from vzpy import cgroups, state
from vzpy.eventd import summon
from vzpy.eventd.client import Daemon
from vzpy.kernel import proc


def daemon_pid(node) -> int:
    daemon = Daemon.open(node.paths, start=False)
    daemon.close()
    return daemon.pid


def keeper_pid(node) -> int:
    """vz-fdkeep of a node: it shares the daemons' cgroup with vzeventd."""
    procs = cgroups.tasks(f"{cgroups.mountpoint()}/{node.paths.cgroup}/{summon.LEAF}")
    return next(pid for pid in procs if b"vz-fdkeep" in cmdline(pid))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill(pid: int) -> None:
    """kill -9, and wait until it has gone."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def log(node) -> str:
    return Path(node.config.raw("LOGFILE")).read_text(errors="replace")


def is_clean(vps) -> bool:
    """Not running, not mounted, no cgroup, no state. Looking does not clean up."""
    gone = not os.path.exists(cgroups.path_of(vps.node.paths.cgroup, vps.ctid))
    no_state = state.read_facts(vps.node.paths, vps.ctid) is None
    return gone and no_state and not proc.is_mounted(vps.root)


def shown(vps) -> bytes:
    """What the console has shown."""
    try:
        return Path(state.console_log(vps.node.paths, vps.ctid)).read_bytes()
    except FileNotFoundError:
        return b""


def say(vps, text: str) -> None:
    tools.sh(vps, f"echo {text} >/dev/console")
