#!/usr/bin/env python3
"""How many fit: memory of each VPS, time of each start, vzlist of many, beside the peers.

user    Pss of all processes inside (smaps_rollup), so that what they share counts once
own     Pss of what stands beside them: vzeventd and vz-fdkeep; conmon, lxc's monitors
kernel  growth of what cannot be reclaimed (SUnreclaim, KernelStack, PageTables, Percpu), and of
        all that is no longer available (MemAvailable); the whole machine's, so wait until it is
        quiet. Where cgroup v2 has the memory controller, memory.stat's kernel beside it."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack

import peers
from bed import Bed, Failed, Sample, call, keep, median, run_bench, say

from vzpy import cgroups

FIRST = 1001
_PINNED = ("SUnreclaim", "KernelStack", "PageTables", "Percpu")
_SLOW = {"podman": 30}  # so many at most


class Memory:
    """Of the machine, in KiB, now."""

    def __init__(self) -> None:
        with open("/proc/meminfo") as f:
            found = {line.split(":")[0]: int(line.split()[1]) for line in f}
        self.pinned = sum(found.get(name, 0) for name in _PINNED)
        self.available = found["MemAvailable"]


def pss(pids: list[int]) -> int:
    """KiB of proportional set size of processes; those that have ended count nothing."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def is_guest(pid: int) -> bool:
    """It runs the program that all of the template's system consists of."""
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith("/busybox")
    except OSError:
        return False


def kernel_of(groups: list[str]) -> int | None:
    """KiB of memory.stat's kernel over cgroups; None without the controller."""
    total = 0
    try:
        for path in groups:
            fields = dict(line.split() for line in cgroups.read(path, "memory.stat").splitlines())
            total += int(fields["kernel"])
    except (OSError, KeyError):
        return None
    return total // 1024


class Crowd:
    """Many of one kind, started one after the other."""

    def __init__(
        self,
        name: str,
        start: Callable[[int], Sample],
        group: Callable[[int], str],
        own: Callable[[], list[int]],
    ) -> None:
        self.name, self.start, self.group, self.own = name, start, group, own

    def run(self, numbers: range) -> dict[str, float | int | str | None]:
        before, own_before = Memory(), pss(self.own())
        walls = [self.start(number).wall for number in numbers]
        time.sleep(2)  # until the last services run
        after, count = Memory(), len(numbers)
        groups = [f"{cgroups.mountpoint()}/{self.group(number)}" for number in numbers]
        inside = [[pid for pid in cgroups.tasks(path) if is_guest(pid)] for path in groups]
        if dead := sum(not pids for pids in inside):
            raise Failed(f"{self.name}: {dead} of {count} do not run")
        user, own = pss(sum(inside, [])), pss(self.own())
        kernel = kernel_of(groups)
        gone = before.available - after.available
        row: dict[str, float | int | str | None] = {
            "name": self.name,
            "count": count,
            "processes": round(sum(map(len, inside)) / count, 1),
            "user KiB": round(user / count),
            "own KiB": round(own / count, 1),
            "own growth KiB": round((own - own_before) / count, 1),
            "pinned KiB": round((after.pinned - before.pinned) / count),
            "memory.stat kernel KiB": kernel and round(kernel / count),
            "available KiB": round(gone / count),
            "start first 10 ms": round(median(walls[:10]), 1),
            "start last 10 ms": round(median(walls[-10:]), 1),
        }
        say(
            f"{self.name:8}{count:6}{row['processes']:7}{row['user KiB']:8}{row['own KiB']:8}"
            f"{row['pinned KiB']:8}{'-' if kernel is None else row['memory.stat kernel KiB']:>8}"
            f"{row['available KiB']:8}{row['start first 10 ms']:9}{row['start last 10 ms']:9}"
        )
        return row


HEAD = (
    f"{'':8}{'count':>6}{'procs':>7}{'user':>8}{'own':>8}{'kernel':>8}{'stat':>8}{'all':>8}"
    f"{'first':>9}{'last':>9}\n{'':21}{'KiB for each':>40}{'start ms (median of 10)':>26}"
)


def ours(bed: Bed) -> Crowd:
    paths = bed.node.paths

    def own() -> list[int]:
        return cgroups.tasks(f"{cgroups.mountpoint()}/{paths.cgroup}/vzeventd")

    return Crowd(
        "vzpy",
        lambda number: call(bed.node.vps(number).start),
        lambda number: f"{paths.cgroup}/{number}",
        own,
    )


def theirs(bed: Bed, peer: peers.Peer) -> Crowd:
    """Their monitors live below the cgroup of the bench, as all that it starts."""

    def own() -> list[int]:
        everything = cgroups.tasks(f"{cgroups.mountpoint()}/{bed.cgroup}")
        return [pid for pid in everything if pid != os.getpid() and not is_guest(pid)]

    def start(number: int) -> Sample:
        peer.prepare(number)
        return bed.command(peer.start(number))

    return Crowd(peer.name, start, peer.cgroup, own)


def lists(bed: Bed, rounds: int = 9) -> dict[str, float]:
    """Milliseconds of vzlist in its forms, of all that is there now."""
    found = {}
    for options in ("", "-a", "-1", "-a -1", "-j", "-a -j"):
        words = [bed.tool("vzlist"), *options.split()]
        walls = [bed.command(words).wall for _ in range(rounds)]
        found[f"vzlist {options}".strip()] = round(median(walls), 1)
    say(",  ".join(f"{name}: {wall} ms" for name, wall in found.items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="started (100)")
    parser.add_argument("--created", type=int, default=400, help="created (400)")
    parser.add_argument("--peers", default="crun,lxc,podman")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    asked = parser.parse_args()

    rows = []
    with Bed() as bed, ExitStack() as undo:
        found, missing = peers.at_hand(bed, asked.peers.split(","))
        say(f"Linux {platform.release()},", ", ".join(peer.version() for peer in found))
        for name, why in missing.items():
            say(f"{name} is left out: {why}")
        for peer in found:
            undo.callback(_end, bed, peer)

        began = time.perf_counter()
        for number in range(FIRST, FIRST + asked.created):
            bed.node.create(number)
        each = (time.perf_counter() - began) * 1e3 / asked.created
        say(f"{asked.created} created: {each:.1f} ms each\n\n{HEAD}")

        warm = bed.node.vps(FIRST)  # the daemon is no part of the first start
        warm.start()
        warm.stop(fast=True)
        rows.append(ours(bed).run(range(FIRST, FIRST + asked.count)))
        listed = lists(bed)
        for number in range(FIRST, FIRST + asked.count):
            bed.node.vps(number).stop(fast=True)
        time.sleep(2)
        for peer in found:
            count = min(asked.count, _SLOW.get(peer.name, asked.count))
            rows.append(theirs(bed, peer).run(range(1, count + 1)))
            _end(bed, peer)
            time.sleep(2)
    figures = {"kernel": platform.release(), "crowds": rows, "lists": listed, "create ms": each,
               "left out": missing}  # fmt: skip
    keep(figures, asked.json)


def _end(bed: Bed, peer: peers.Peer) -> None:
    for number in sorted(peer.made - {0}):
        bed.command(peer.stop(number), check=False)
    peer.made.clear()


if __name__ == "__main__":
    run_bench(main)
