#!/usr/bin/env python3
"""Start, exec, stop and list against crun, runc, lxc and podman: medians, and ratios of them.

Entrants take turns in every round, so that a busy machine is busy for all; each round is run
without a pause and with 0.3 s of idle before each command, when caches and clocks have cooled."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import peers
from bed import Bed, Failed, Sample, call, keep, median, run_bench, say

from vzpy.eventd.client import Daemon
from vzpy.vps import VPS

IDLES = (0.0, 0.3)
# Entrant, peer, ratio to reach, ratio aimed at.
TARGETS = {
    "start": (
        ("library start (daemon)", "crun run -d", 0.5, 0.3),
        ("library start (local)", "crun run -d", 0.5, 0.3),
        ("vzctl start", "crun run -d", None, None),
        ("vzctl start", "lxc-start -d", None, None),
    ),
    "exec": (
        ("vzctl exec3", "runc exec", 0.6, None),
        ("vzctl exec3", "crun exec", None, 1.0),
        ("library exec", "crun exec", None, None),
    ),
    "stop": (
        ("vzctl stop --fast", "crun delete -f", 1.25, 1.0),
        ("library stop", "crun delete -f", None, None),
    ),
    "list": (("vzlist", "crun list", 2.0, 1.0),),
}
_VERBS = {
    "crun": ("crun run -d", "crun exec", "crun delete -f", "crun list"),
    "runc": ("runc run -d", "runc exec", "runc delete -f", "runc list"),
    "lxc": ("lxc-start -d", "lxc-attach", "lxc-stop -k", "lxc-ls -f"),
    "podman": ("podman run -d", "podman exec", "podman rm -f", "podman ps"),
}


def _nothing() -> None:
    pass


@dataclass
class Entrant:
    """act is timed, before and after are not; after checks that act did what it says."""

    name: str
    act: Callable[[], Sample]
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing
    samples: dict[float, list[Sample]] = field(default_factory=dict)


class Lifecycle:
    def __init__(self, bed: Bed, found: list[peers.Peer], rounds: int, count: int) -> None:
        self.bed, self.peers, self.rounds, self.count = bed, found, rounds, count
        self.vps = bed.node.create(101)
        for peer in found:
            peer.prepare(1)

    def entrants(self, kind: str) -> list[Entrant]:
        kinds = {"start": self.start, "exec": self.exec, "stop": self.stop, "list": self.many}
        return kinds[kind]()

    def vzctl(self, *words: str) -> Sample:
        return self.bed.command([self.bed.tool("vzctl"), *words])

    def start(self) -> list[Entrant]:
        vps, bed = self.vps, self.bed
        vps.start()  # and the daemon
        vps.stop(fast=True)

        def local() -> Sample:
            with _no_daemon(vps):
                return call(vps.start)

        def ours(name: str, act: Callable[[], Sample]) -> Entrant:
            return Entrant(name, act, after=lambda: (_check(vps), vps.stop(fast=True)))

        def theirs(peer: peers.Peer) -> Entrant:
            return Entrant(
                _VERBS[peer.name][0],
                lambda: bed.command(peer.start(1)),
                after=lambda: (peer.check(1), bed.command(peer.stop(1))),
            )

        return [
            ours("library start (daemon)", lambda: call(vps.start)),
            *map(theirs, self.peers),
            ours("library start (local)", local),
            ours("vzctl start", lambda: self.vzctl("start", "101")),
        ]

    def exec(self) -> list[Entrant]:
        vps, bed = self.vps, self.bed
        self.run_all()

        def library() -> None:
            if vps.exec(["/bin/true"]).returncode:
                raise Failed("library exec")

        def theirs(peer: peers.Peer) -> Entrant:
            words = peer.exec(1, "/bin/true")
            return Entrant(_VERBS[peer.name][1], lambda: bed.command(words))

        return [
            Entrant("vzctl exec3", lambda: self.vzctl("exec3", "101", "/bin/true")),
            *map(theirs, self.peers),
            Entrant("library exec", lambda: call(library)),
            Entrant("vzctl exec", lambda: self.vzctl("exec", "101", "true")),
        ]

    def stop(self) -> list[Entrant]:
        vps, bed = self.vps, self.bed

        def gone() -> None:
            if vps.facts() or vps.status.mounted:
                raise Failed("the VPS has not been stopped")

        def theirs(peer: peers.Peer) -> Entrant:
            return Entrant(
                _VERBS[peer.name][2],
                lambda: bed.command(peer.stop(1)),
                before=lambda: (bed.command(peer.start(1)), peer.check(1)),
            )

        def ours(name: str, act: Callable[[], Sample]) -> Entrant:
            return Entrant(name, act, before=lambda: (vps.start(), _check(vps)), after=gone)

        return [
            ours("vzctl stop --fast", lambda: self.vzctl("stop", "101", "--fast")),
            *map(theirs, self.peers),
            ours("library stop", lambda: call(lambda: vps.stop(fast=True))),
        ]

    def many(self) -> list[Entrant]:
        """Of `count`, all running; podman, which needs minutes for them, is left out."""
        bed = self.bed
        listed = [peer for peer in self.peers if peer.name != "podman"]
        self.run_all()
        for number in range(2, self.count + 1):
            bed.node.create(100 + number).start()
            for peer in listed:
                peer.prepare(number)
                bed.command(peer.start(number))
        ours = [bed.tool("vzlist")]
        if (lines := bed.output(ours).count(" running ")) != self.count:
            raise Failed(f"vzlist shows {lines} of {self.count}")

        def theirs(peer: peers.Peer) -> Entrant:
            words = peer.listing()
            return Entrant(_VERBS[peer.name][3], lambda: bed.command(words))

        return [
            Entrant("vzlist", lambda: bed.command(ours)),
            *map(theirs, listed),
            Entrant("vzlist -1", lambda: bed.command([*ours, "-1"])),
            Entrant("vzlist -j", lambda: bed.command([*ours, "-j"])),
        ]

    def run_all(self) -> None:
        """One container each, running and settled."""
        if not self.vps.facts():
            self.vps.start()
            for peer in self.peers:
                self.bed.command(peer.start(1))
                peer.check(1)
        time.sleep(0.5)

    def clear(self) -> None:
        for vps in self.bed.node:
            vps.stop(fast=True)
        for peer in self.peers:
            for number in sorted(peer.made):
                self.bed.command(peer.stop(number), check=False)

    def contest(self, entrants: list[Entrant]) -> None:
        for idle, turn in itertools.product(IDLES, range(self.rounds + 1)):
            for entrant in entrants:
                entrant.before()
                time.sleep(idle)
                sample = entrant.act()
                if turn:  # the first is to warm up
                    entrant.samples.setdefault(idle, []).append(sample)
                entrant.after()


def _check(vps: VPS) -> None:
    facts = vps.running()
    if not os.readlink(f"/proc/{facts.pid}/exe").endswith("/busybox"):
        raise Failed(f"{vps} runs something else")


class _no_daemon:
    """vzeventd cannot be reached: its socket has another name for a moment."""

    def __init__(self, vps: VPS) -> None:
        self.paths = vps.node.paths
        self.socket = self.paths.socket

    def __enter__(self) -> None:
        Daemon.open(self.paths).close()  # it may have ended for idleness
        os.rename(self.socket, f"{self.socket}.away")
        os.makedirs(f"{self.socket}/x")

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.socket)
        os.rename(f"{self.socket}.away", self.socket)


def _figures(samples: list[Sample]) -> dict[str, float]:
    walls = [sample.wall for sample in samples]
    return {
        "median": round(median(walls), 2),
        "min": round(min(walls), 2),
        "cpu": round(median(sample.cpu for sample in samples), 2),
    }


def _table(entrants: list[Entrant]) -> dict[str, dict[str, dict[str, float]]]:
    found = {
        e.name: {f"idle {idle:g}": _figures(e.samples[idle]) for idle in IDLES} for e in entrants
    }
    say(f"{'ms':26}" + "".join(f"{f'idle {idle:g}':>12}{'min':>8}{'cpu':>8}" for idle in IDLES))
    for name, columns in found.items():
        cells = (f"{f['median']:12.2f}{f['min']:8.2f}{f['cpu']:8.2f}" for f in columns.values())
        say(f"{name:26}" + "".join(cells))
    return found


def _ratios(kind: str, found: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for ours, peer, reach, aim in TARGETS[kind]:
        if ours not in found or peer not in found:
            continue
        row: dict[str, object] = {"ours": ours, "peer": peer, "reach": reach, "aim": aim}
        text = f"{ours} / {peer}:"
        for idle in (f"idle {idle:g}" for idle in IDLES):
            a, b = found[ours][idle], found[peer][idle]
            ratio = round(a["median"] / b["median"], 2)
            row[idle] = ratio
            text += f"  {ratio:.2f} ({idle}; min {a['min'] / b['min']:.2f})"
        goals = [f"{word} {goal:g}" for word, goal in (("to reach", reach), ("aim", aim)) if goal]
        say(text + (f"  [{', '.join(goals)}]" if goals else ""))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=100, help="containers to list (100)")
    parser.add_argument("--only", help="start,exec,stop,list")
    parser.add_argument("--peers", default="crun,runc,lxc,podman")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    asked = parser.parse_args()
    only = asked.only.split(",") if asked.only else list(TARGETS)
    if unknown := set(only) - set(TARGETS):
        parser.error(f"--only {','.join(sorted(unknown))}: choose from {','.join(TARGETS)}")

    everything: dict[str, object] = {"kernel": platform.release()}
    with Bed() as bed, ExitStack() as undo:
        found, missing = peers.at_hand(bed, asked.peers.split(","))
        say(f"Linux {platform.release()}, {os.cpu_count()} processors,",
            ", ".join(peer.version() for peer in found))
        for name, why in missing.items():
            say(f"{name} is left out: {why}")
        everything |= {"peers": [peer.version() for peer in found], "left out": missing}
        run = Lifecycle(bed, found, asked.rounds, asked.count)
        undo.callback(run.clear)
        for kind in only:
            say(f"\n{kind}" + (f" of {asked.count}" if kind == "list" else ""))
            entrants = run.entrants(kind)
            run.contest(entrants)
            table = _table(entrants)
            everything[kind] = {"ms": table, "ratios": _ratios(kind, table)}
            run.clear()
    keep(everything, asked.json)


if __name__ == "__main__":
    run_bench(main)
