#!/usr/bin/env python3
"""Files of a VPS: making and removing a whole Debian against podman, and input and output in each
layout against the host's file system, as ratios.

Beside the layouts stands a bare loop device on a file of the host, with direct I/O as the layout
image has it and nothing of ours: what that costs is the kernel's, the rest of an image is ours.
Entrants take turns in every round, so that a busy machine is busy for all. Random measures are
fio's, one request at a time and 32 at once."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bed import Bed, Failed, Sample, call, lacking, median, say

from vzpy import nodesetup, template
from vzpy.events import silent
from vzpy.kernel import loop, mount, process
from vzpy.model import NodePaths

CHUNK = 1 << 20
# What a layout is to reach of the host's own figures.
GOALS = {"overlay": 0.97, "simfs": 0.97, "image": 0.90, "image:xfs": 0.90}
TEMPLATES = Path(os.environ.get("VZ_TEST_CACHE", "/var/cache/vzpy-tests"), "templates")


class Disk:
    """A file that is read and written through the root of a VPS, or beside it on the host."""

    def __init__(self, path: str, size: int, seconds: float) -> None:
        self.path, self.size, self.seconds = path, size, seconds

    def prepare(self) -> None:
        """Write a new file: on an idmapped mount only the users of the VPS can own one."""
        data = os.urandom(CHUNK)
        process.set_fs_user(os.stat(os.path.dirname(self.path)).st_uid)
        try:
            with open(self.path, "wb", buffering=0) as file:
                for _ in range(self.size // CHUNK):
                    file.write(data)
                os.fsync(file.fileno())
        finally:
            process.set_fs_user(0)

    def sequential_write(self) -> float:
        """MB a second, through the page cache, until all is on the disk."""
        os.unlink(self.path)
        began = time.perf_counter()
        self.prepare()
        return self.size / 1e6 / (time.perf_counter() - began)

    def sequential_read(self) -> float:
        """MB a second, nothing of it cached before."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            buffer = bytearray(CHUNK)
            began = time.perf_counter()
            while os.readv(fd, [buffer]):
                pass
            return self.size / 1e6 / (time.perf_counter() - began)
        finally:
            os.close(fd)

    def cached_read(self) -> float:
        """Operations a second out of the page cache."""
        with open(self.path, "rb", buffering=CHUNK) as file:
            while file.read(CHUNK):
                pass
        return self.random("read", 1, direct=False)

    def random(self, what: str, depth: int, direct: bool = True) -> float:
        """Operations a second, 4 KiB each, past the cache."""
        words = {
            "filename": self.path, "size": self.size, "bs": "4k", "rw": f"rand{what}",
            "direct": int(direct), "ioengine": "psync" if depth == 1 else "libaio",
            "iodepth": depth, "runtime": self.seconds, "time_based": 1, "randseed": 1,
            "invalidate": int(direct), "output-format": "json", "name": "bench",
        }  # fmt: skip
        command = ["fio", *(f"--{key}={value}" for key, value in words.items())]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            raise Failed(f"fio: {told.stderr.strip() or told.stdout.strip()}")
        # Complaints may stand in front of it.
        found = json.loads(told.stdout[told.stdout.index("{") :])
        return float(found["jobs"][0][what]["iops"])


class Device(Disk):
    """A block device instead of a file."""

    def sequential_write(self) -> float:
        began = time.perf_counter()
        self.prepare()
        return self.size / 1e6 / (time.perf_counter() - began)


MEASURES: tuple[tuple[str, Callable[[Disk], float], str], ...] = (
    ("sequential write", lambda disk: disk.sequential_write(), "MB/s"),
    ("sequential read", lambda disk: disk.sequential_read(), "MB/s"),
    ("random read 4k", lambda disk: disk.random("read", 1), "op/s"),
    ("  32 at once", lambda disk: disk.random("read", 32), "op/s"),
    ("random write 4k", lambda disk: disk.random("write", 1), "op/s"),
    ("   32 at once", lambda disk: disk.random("write", 32), "op/s"),
    ("cached read 4k", lambda disk: disk.cached_read(), "op/s"),
)


def input_output(bed: Bed, name: str, args: argparse.Namespace) -> dict[str, object]:
    """Each measure in each layout: medians, and ratios to the host's folder of private areas."""
    size = args.size << 20
    disks = {
        "host": Disk(f"{bed.folder}/vz/bench", size, args.seconds),
        "loop": Device(_bare_loop(f"{bed.folder}/vz/bare", size), size, args.seconds),
    }
    for number, layout in enumerate(GOALS, 101):
        space = f"{2 * args.size + 1024}M"
        vps = bed.node.create(number, layout=layout, ostemplate=name, diskspace=space)
        vps.start()
        root = f"/proc/{vps.running().pid}/root"
        disks[layout] = Disk(f"{root}/bench", size, args.seconds)
    for disk in disks.values():
        disk.prepare()
    found: dict[str, dict[str, list[float]]] = {
        what: {where: [] for where in disks} for what, _, _ in MEASURES
    }
    end = time.monotonic() + args.limit
    for turn in range(args.rounds):
        if turn and time.monotonic() > end:
            say(f"{turn} rounds in {args.limit} s: no more")
            break
        for what, measure, _ in MEASURES:
            for where, disk in disks.items():
                os.sync()
                found[what][where].append(measure(disk))
    return _told(found)


def _bare_loop(path: str, size: int) -> str:
    """A loop device on a file whose blocks are all written; it goes with us."""
    Disk(path, size, 0).prepare()
    file = loop.lock(path)
    device = loop.attach(file)
    os.close(file)
    return loop.path_of(device)


def _told(found: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    report: dict[str, object] = {}
    others = ("loop", *GOALS)
    say(f"{'':18}{'host':>10}     " + "".join(f"{where:>16}" for where in (*others, "image/loop")))
    for what, _, unit in MEASURES:
        middle = {where: median(values) for where, values in found[what].items()}
        ratios = {where: middle[where] / middle["host"] for where in others}
        cells = (f"{middle[where]:10.0f} {ratio:5.2f}" for where, ratio in ratios.items())
        ours = middle["image"] / middle["loop"]
        say(f"{what:18}{middle['host']:10.0f} {unit}" + "".join(cells) + f"{ours:16.2f}")
        report[what] = {"unit": unit, "medians": middle, "ratios": ratios, "image/loop": ours}
    say("to reach: " + ", ".join(f"{where} {goal:.2f}" for where, goal in GOALS.items()))
    return report


# Making and removing


def life(bed: Bed, name: str, tarball: Path, args: argparse.Namespace) -> dict[str, object]:
    """create and destroy, milliseconds by the clock and of processor time."""
    vzctl = bed.tool("vzctl")
    taken: dict[str, list[Sample]] = {}
    podman = Podman(bed, tarball) if shutil.which("podman") else None
    for turn in range(args.rounds + 1):
        samples = {}
        for layout in ("overlay", "simfs", "image"):
            samples[f"vzctl create {layout}"] = bed.command(
                [vzctl, "create", "201", "--ostemplate", name, "--layout", layout]
            )
            samples[f"vzctl destroy {layout}"] = bed.command([vzctl, "destroy", "201"])
        overlay = call(lambda: bed.node.create(202, ostemplate=name))
        samples["library create overlay"] = overlay
        bed.node.vps(202).destroy()
        if podman:
            samples["podman create"] = bed.command(podman.words("create", "--name", "c", "i", "x"))
            samples["podman rm"] = bed.command(podman.words("rm", "c"))
        if turn:  # the first is to warm up
            for what, sample in samples.items():
                taken.setdefault(what, []).append(sample)
    report = _table(taken)
    if podman:
        for what in ("vzctl create overlay", "library create overlay"):
            ratio = report[what] / report["podman create"]
            say(f"{what} / podman create: {ratio:.2f}  [to reach 0.2]")
    return {"ms": report}


# Sectors are those of the loop device.
MKFS = {"xfs": ("mkfs.xfs", "-q", "-s", f"size={loop.BLOCK}"), "btrfs": ("mkfs.btrfs", "-q")}


def reflinks(bed: Bed, tarball: Path, args: argparse.Namespace) -> dict[str, float]:
    """create and destroy of a simfs where a copy shares its blocks, on file systems in a file."""
    taken: dict[str, list[Sample]] = {}
    for kind, (program, *_) in MKFS.items():
        if not shutil.which(program):
            say(f"{kind} is left out: there is no {program}")
            continue
        with _other_node(bed, kind, tarball) as env:
            before, bed.env = bed.env, env
            vzctl = bed.tool("vzctl")
            words = [vzctl, "create", "201", "--ostemplate", "debian-12", "--layout", "simfs"]
            for turn in range(args.rounds + 1):
                samples = {
                    f"vzctl create simfs, {kind}": bed.command(words),
                    f"vzctl destroy, {kind}": bed.command([vzctl, "destroy", "201"]),
                }
                _wait_for_remover(f"{bed.folder}/{kind}")
                if turn:  # the first unpacks the template
                    for what, sample in samples.items():
                        taken.setdefault(what, []).append(sample)
            bed.env = before
    return _table(taken)


@contextmanager
def _other_node(bed: Bed, kind: str, tarball: Path) -> Iterator[dict[str, str]]:
    """A node all of whose files lie on a file system of that kind: the environment of its tools."""
    top, path = f"{bed.folder}/{kind}", f"{bed.folder}/{kind}.img"
    os.mkdir(top)
    with open(path, "xb") as file:
        file.truncate(8 << 30)
    bed.command([*MKFS[kind], path])
    file_fd = loop.lock(path)
    device = loop.attach(file_fd)
    os.close(file_fd)
    mount.mount(loop.path_of(device), top, kind, 0)
    try:
        paths = NodePaths.of(f"{top}/etc", f"{top}/run")
        nodesetup.setup(paths, f"{top}/vz")
        cache = f"{top}/vz/template/cache"
        os.makedirs(cache, exist_ok=True)
        os.symlink(tarball, f"{cache}/{tarball.name}")
        yield {**bed.env, "VZ_ETC": paths.etc, "VZ_RUN": paths.run}
        _wait_for_remover(top)
    finally:
        mount.umount2(top, mount.MNT_DETACH)
        os.close(device)
        os.unlink(path)


def _wait_for_remover(top: str) -> None:
    """Private areas are removed in the background, half a second for such a tree."""
    end = time.monotonic() + 30
    while os.listdir(f"{top}/vztmp") != ["rm.lck"] and time.monotonic() < end:
        time.sleep(0.1)


def _table(taken: dict[str, list[Sample]]) -> dict[str, float]:
    report = {}
    say(f"{'ms':28}{'median':>10}{'min':>10}{'cpu':>10}")
    for what, all_of_it in taken.items():
        walls = [sample.wall for sample in all_of_it]
        used = median(sample.cpu for sample in all_of_it)
        say(f"{what:28}{median(walls):10.1f}{min(walls):10.1f}{used:10.1f}")
        report[what] = median(walls)
    return report


class Podman:
    """With the same Debian as an image, and a storage driver that copies nothing."""

    def __init__(self, bed: Bed, tarball: Path) -> None:
        self.folder = f"{bed.folder}/podman"
        bed.command(self.words("import", str(tarball), "i"))

    def words(self, *words: str) -> list[str]:
        where = self.folder
        return [
            "podman", "--root", f"{where}/root", "--runroot", f"{where}/run", "--tmpdir",
            f"{where}/tmp", "--storage-driver", "overlay", "--events-backend", "none",
            "--cgroup-manager", "cgroupfs", *words,
        ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="MiB of the file")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each random measure")
    parser.add_argument("--limit", type=float, default=120, help="seconds; the last round ends")
    parser.add_argument("--json", help="write the figures there")
    parser.add_argument("--only", choices=["life", "io"], help="one part of it")
    args = parser.parse_args()
    tarball = next(iter(sorted(TEMPLATES.glob("debian-12-x86_64.tar*"))), None)
    if tarball is None:
        lacking(f"no Debian template in {TEMPLATES}: run the node tests first")
    if args.only != "life" and not shutil.which("fio"):
        lacking("fio is not installed: apt-get install fio")
    report: dict[str, object] = {}
    try:
        with Bed() as bed:
            store = str(bed.node.config.raw("TEMPLATE"))
            os.makedirs(f"{store}/cache", exist_ok=True)
            os.symlink(tarball, f"{store}/cache/{tarball.name}")
            name = template.resolve_name(store, "debian-12")
            template.ensure_tree(store, name, silent)
            if args.only != "io":
                report["life"] = life(bed, name, tarball, args)
                report["reflinks"] = reflinks(bed, tarball, args)
            if args.only != "life":
                report["io"] = input_output(bed, name, args)
    except Failed as err:
        sys.exit(str(err))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
