"""Boots the virtual machine for one command: disks in, console out, exit status and files back.

Disks, in the order the kernel names them:

    vda   root disk; writes go to a temporary file and are forgotten
    vdb   in: a tar that the initrd unpacks over the root disk (checkout, extra files, the command)
    vdc   out: a tar that the init writes before it powers off (/results)
    vdd.. empty ones that the caller asked for, and those that it keeps from one boot to the next
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import handin
from .build import CHECKOUT_INSIDE, Images
from .host import EMULATOR, VMError, cache_dir, ensure_packages, key_of, run, say, scratch

BOOT_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 6.0
RESULTS_SIZE = 1 << 30
TAIL_LINES = 30

CMDLINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 cgroup_no_v1=all net.ifnames=0 "
    "lsm=landlock,lockdown,yama,integrity,apparmor,bpf"
)

# A junit file of any pytest that is the command; no cache, because the checkout is a copy.
PYTEST_ADDOPTS = "-p no:cacheprovider --junitxml=/results/junit.xml"


class VMTimeout(VMError):
    """The command was still running when its time was over; the machine has been killed."""


@dataclass(frozen=True)
class Job:
    command: Sequence[str]
    memory_mb: int = 4096
    timeout_s: float = 1800.0
    put: Sequence[tuple[Path, str]] = ()
    # A size, or a file that is the disk and is kept.
    disks: Sequence[str | Path] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    # What the command prints for the power to be cut: the machine is killed there and then.
    cut: bytes = b""


@dataclass(frozen=True)
class Outcome:
    status: int
    boot_s: float
    total_s: float


class Console:
    """Takes the serial line apart: all of it into a log, what lies between the marks to `output`.

    What could still become the end mark is held back until more has come, everything else goes
    on at once, so a line of dots is seen while it grows.
    """

    def __init__(self, log: Path, mark: str, output: Callable[[bytes], None]) -> None:
        self._log = open(log, "wb")
        self._begin = f"{mark} begin\n".encode()
        self._end = f"{mark} end".encode()
        self._output = output
        self._pending = b""
        self._recent = b""
        self.began = self.ended = False

    def feed(self, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        self._recent = (self._recent + data)[-16384:]
        if self.ended:
            return
        self._pending += data.replace(b"\r\n", b"\n")
        if not self.began:
            before, found, after = self._pending.partition(self._begin)
            if not found:
                self._pending = self._pending[-len(self._begin) :]
                return
            self.began, self._pending = True, after
        ours, found, after = self._pending.partition(self._end)
        if found:
            self.ended, self._pending = True, b""
        else:
            keep = next(
                (n for n in range(len(self._end) - 1, 0, -1) if ours.endswith(self._end[:n])), 0
            )
            ours, self._pending = ours[: len(ours) - keep], ours[len(ours) - keep :]
        if ours:
            self._output(ours)

    def said(self, words: bytes) -> bool:
        """Lately, by the command or anybody else."""
        return self.began and words in self._recent

    def tail(self) -> str:
        """The last lines; of a panic all of it, because what it is about comes first."""
        text = self._recent.decode(errors="replace").replace("\r", "")
        before, panic, after = text.rpartition("Kernel panic - not syncing")
        if panic:
            return (before.rpartition("\n")[2] + panic + after).rstrip()
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def close(self) -> None:
        self._log.close()


def boot(job: Job, images: Images, results: Path, output: Callable[[bytes], None]) -> Outcome:
    """Runs the job's command in a new virtual machine.

    `results` receives console.log in any case, and when the machine came to its end also
    output.log, dmesg.log, status and whatever the command put into /results. A machine whose power
    was cut has status -9, and console.log is all there is.
    """
    mark = f"@vz-vm-{secrets.token_hex(8)}"
    began = time.monotonic()
    with scratch("run") as work:
        argv, out = _prepare(job, images, work, mark)
        console = Console(results / "console.log", mark, output)
        try:
            boot_s = _watch(argv, work, console, job)
        finally:
            console.close()
        if job.cut and console.said(job.cut):
            return Outcome(-signal.SIGKILL, boot_s, time.monotonic() - began)
        run(["tar", "-xf", out, "-C", results, "--no-same-owner"])
    status = results / "status"
    if not status.exists():
        what = "stopped before the command ended" if console.began else "did not boot"
        raise VMError(f"the virtual machine {what}; its last words:\n{console.tail()}")
    return Outcome(int(status.read_text()), boot_s, time.monotonic() - began)


def shell(job: Job, images: Images) -> int:
    """The serial line on this terminal; nothing comes back."""
    with scratch("run") as work:
        argv, _ = _prepare(job, images, work, "", interactive=True)
        return subprocess.run(argv, env=os.environ | {"TMPDIR": str(work)}).returncode


def _watch(argv: Sequence[str], work: Path, console: Console, job: Job) -> float:
    """Feeds the console until the emulator ends; returns how long the command's start took."""
    began = time.monotonic()
    boot_s = 0.0
    qemu = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Where qemu puts what is written to the root disk.
        env=os.environ | {"TMPDIR": str(work)},
    )
    assert qemu.stdout is not None
    try:
        while True:
            spent = time.monotonic() - began
            limit = job.timeout_s + boot_s if console.began else BOOT_TIMEOUT_S
            if spent > limit:
                what = "did not end" if console.began else "did not start"
                raise VMTimeout(
                    f"the command {what} within {limit - boot_s:.0f} s; the virtual machine's last"
                    f" words:\n{console.tail()}"
                )
            if not select.select([qemu.stdout], [], [], min(1.0, limit - spent + 0.01))[0]:
                continue
            data = os.read(qemu.stdout.fileno(), 65536)
            if not data:
                break
            console.feed(data)
            if console.began and not boot_s:
                boot_s = time.monotonic() - began
            if job.cut and console.said(job.cut):
                break
    finally:
        qemu.kill()
        qemu.wait()
    return boot_s


def _prepare(
    job: Job, images: Images, work: Path, mark: str, *, interactive: bool = False
) -> tuple[list[str], Path]:
    """Makes the disks of one run; returns qemu's arguments and the disk that comes back."""
    ensure_packages(EMULATOR)
    handed_in, out = work / "in.tar", work / "out"
    env = {
        "VZ_TEST_VM": "1",
        "VZ_TEST_RESULTS": "/results",
        "VZ_TEST_DISKS": " ".join(f"/dev/vd{'defghijklmnop'[n]}" for n in range(len(job.disks))),
        "PYTEST_ADDOPTS": PYTEST_ADDOPTS,
        **job.env,
    }
    settings = {"MARK": mark, "SHELL_WANTED": str(int(interactive)), "CHECKOUT": CHECKOUT_INSIDE}
    handin.write(handed_in, put=job.put, settings=settings, env=env, command=job.command)

    with open(out, "wb") as file:
        file.truncate(RESULTS_SIZE)
    disks = [f"file={images.root},snapshot=on", f"file={handed_in},readonly=on", f"file={out}"]
    for number, size in enumerate(job.disks):
        if isinstance(size, str):
            run(["truncate", "-s", size, work / f"disk{number}"])
            size = work / f"disk{number}"
        disks.append(f"file={size}")

    accelerator = "kvm" if kvm_answers(images) else "tcg"
    argv = _qemu(images, accelerator, job.memory_mb, CMDLINE)
    for disk in disks:
        argv += ["-drive", f"{disk},format=raw,if=virtio,cache=unsafe"]
    argv += ["-serial", "mon:stdio" if interactive else "stdio"]
    return argv, out


def _qemu(images: Images, accelerator: str, memory_mb: int, cmdline: str) -> list[str]:
    accel = {
        "kvm": ["-accel", "kvm", "-cpu", "host,arch-capabilities=off"],
        "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"],
    }
    # setpriv: should this process be killed, the machine goes with it.
    argv = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *accel[accelerator]]
    argv += ["-smp", str(min(4, os.cpu_count() or 1)), "-m", str(memory_mb)]
    argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]
    return argv + ["-kernel", str(images.kernel), "-initrd", str(images.initrd), "-append", cmdline]


def kvm_answers(images: Images) -> bool:
    """Whether a stock kernel boots under this machine's kvm; that the device opens says little.

    Asked once per boot of this machine and per kernel.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache_dir() / f"kvm-{key_of(boot_id, str(images.kernel))}"
    if not known.exists():
        for older in cache_dir().glob("kvm-*"):
            older.unlink(missing_ok=True)
        known.write_text("yes" if _probe_kvm(images) else "no")
    return known.read_text() == "yes"


def _probe_kvm(images: Images) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    argv = _qemu(images, "kvm", 512, f"{CMDLINE} vz.probe") + ["-serial", "stdio"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S
        )
        alive = b"vz-probe: alive" in done.stdout
    except subprocess.TimeoutExpired:
        alive = False
    if not alive:
        say("kvm is there but boots no stock kernel, so the machine is emulated")
    return alive
