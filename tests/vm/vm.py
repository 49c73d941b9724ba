"""The test bed's face: run a command in a virtual machine, build its images, get a shell.

    python3 -m tests.vm run [options] -- python3 -m pytest tests/node
    python3 -m tests.vm run -- sh -c 'mount | grep vda'
    python3 -m tests.vm shell

Exit status: the command's own; 124 when its time was over, 125 when the test bed failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import boot
from .build import build
from .host import VMError, say

EXIT_TIMEOUT = 124
EXIT_VM_FAILED = 125


def run_command(
    command: Sequence[str],
    *,
    results: Path,
    output: Callable[[bytes], None] | None = None,
    memory_mb: int = 4096,
    timeout_s: float = 1800.0,
    put: Sequence[tuple[Path, str]] = (),
    disks: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
    cut: bytes = b"",
) -> boot.Outcome:
    """Runs the command in a virtual machine, with the checkout as its working directory.

    Raises VMTimeout when it does not end in time (booting is not counted), and VMError when the
    machine itself fails. /results inside comes back in the folder `results`. For `cut` and disks
    that are kept see boot.Job.
    """
    results.mkdir(parents=True, exist_ok=True)
    job = boot.Job(command, memory_mb, timeout_s, put, disks, env or {}, cut)
    return boot.boot(job, build(), results, output or to_stdout)


def to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    # So that temporary disks are removed when something ends us politely.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _act(options)
    except BrokenPipeError:
        # Whoever read us has seen enough; python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except boot.VMTimeout as error:
        print(f"vm: {error}", file=sys.stderr)
        return EXIT_TIMEOUT
    except VMError as error:
        print(f"vm: {error}", file=sys.stderr)
        return EXIT_VM_FAILED


def _act(options: argparse.Namespace) -> int:
    if options.action == "build":
        began = time.monotonic()
        images = build(fresh=options.fresh)
        for path in (images.kernel, images.initrd, images.root):
            say(f"{path} ({path.stat().st_blocks * 512 / 1e6:.0f} MB)")
        say(f"ready after {time.monotonic() - began:.1f} s")
        return 0
    if options.action == "shell":
        job = boot.Job((), options.mem, 0, options.put, options.disk, dict(options.env))
        return boot.shell(job, build())
    with tempfile.TemporaryDirectory(prefix="vzpy-vm-") as scratch:
        outcome = run_command(
            options.command,
            results=options.results or Path(scratch),
            memory_mb=options.mem,
            timeout_s=options.timeout,
            put=options.put,
            disks=options.disk,
            env=dict(options.env),
        )
    print(
        f"vm: exit status {outcome.status}, up after {outcome.boot_s:.1f} s,"
        f" {outcome.total_s:.1f} s in all",
        file=sys.stderr,
    )
    return outcome.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)

    building = actions.add_parser("build", help="build the images, or find them in the cache")
    building.add_argument("--fresh", action="store_true", help="do not use the cache")

    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--mem", type=int, default=4096, metavar="MIB", help="memory (4096)")
    machine.add_argument(
        "--put", type=_put, action="append", default=[], metavar="FILE:/PATH",
        help="a file or folder of this machine, laid to that path inside",
    )  # fmt: skip
    machine.add_argument(
        "--disk", action="append", default=[], metavar="SIZE",
        help="an empty disk (2G); their names inside are in $VZ_TEST_DISKS",
    )  # fmt: skip
    machine.add_argument("--env", type=_env, action="append", default=[], metavar="NAME=VALUE")

    running = actions.add_parser("run", parents=[machine], help="run a command inside")
    running.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="(1800)")
    running.add_argument("--results", type=Path, metavar="DIR", help="where /results comes back")
    running.add_argument("command", nargs="+", help="put -- before it")
    actions.add_parser("shell", parents=[machine], help="a shell inside, on this terminal")
    return parser


def _put(text: str) -> tuple[Path, str]:
    source, colon, target = text.rpartition(":")
    if not colon or not target.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE:/PATH")
    if not Path(source).exists():
        raise argparse.ArgumentTypeError(f"there is no {source}")
    return Path(source), target


def _env(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
