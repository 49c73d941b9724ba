"""What the test bed asks of the machine it runs on: Debian packages, apt's sources, the cache.

Only the standard library and Debian's packages are used here. Nothing names a mirror: whatever
apt is configured with on this machine is what the virtual machine is made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

UNUSED_FOR_S = 3 * 86400
LEFT_ALONE_S = 60

EMULATOR = ("qemu-system-x86",)
BUILDERS = ("mmdebstrap", "cpio", "e2fsprogs", "busybox-static", "kmod")


class VMError(Exception):
    """The test bed failed, which says nothing about the command that was to run in it."""


def say(text: str) -> None:
    print(f"vm: {text}", file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, stdin: str | None = None) -> str:
    """The standard output of a command; a failure carries what the command complained of."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        text = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise VMError(f"{' '.join(map(str, argv[:4]))} ... gave {done.returncode}: {text}")
    return done.stdout


def check_machine() -> None:
    if platform.machine() != "x86_64":
        raise VMError(f"the virtual machine is an x86_64 one, this machine is {platform.machine()}")
    if not shutil.which("apt-get"):
        raise VMError("the virtual machine is made from Debian packages, and there is no apt-get")
    if os.geteuid():
        raise VMError("building and booting the virtual machine is done as root")


def ensure_packages(names: Sequence[str] = EMULATOR + BUILDERS) -> list[str]:
    """Installs those of the packages that are missing, and returns them."""
    missing = [name for name in names if not _installed(name)]
    if not missing:
        return []
    say(f"installing {' '.join(missing)}")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    # The lists on a machine may be absent or older than what the mirror still holds.
    if subprocess.run(install, env=env, capture_output=True).returncode:
        run(["apt-get", "update", "-q"])
        done = subprocess.run(install, env=env, capture_output=True, text=True)
        if done.returncode:
            raise VMError(f"cannot install {' '.join(missing)}: {done.stderr.strip()[-2000:]}")
    return missing


def _installed(package: str) -> bool:
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(asked, capture_output=True, text=True).stdout == "installed"


def suite() -> str:
    name = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if not name:
        raise VMError("/etc/os-release has no VERSION_CODENAME, so the Debian suite is not known")
    return name


def apt_sources() -> str:
    """This machine's sources of the suite, as sources.list lines; third parties' are left out."""
    question = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
    question += ["Created-By: Packages", "Origin: Debian"]
    answer = run(question)
    if not answer.strip():
        run(["apt-get", "update", "-q"])
        answer = run(question)
    lines = sorted({line for line in answer.splitlines() if line.split()[1].startswith(suite())})
    if not lines:
        raise VMError(f"apt has no Debian source of {suite()} on this machine")
    return "".join(f"deb {line}\n" for line in lines)


def apt_proxies() -> list[str]:
    """The proxy settings, which are no part of the sources, as mmdebstrap's options."""
    out = []
    for scheme in ("http", "https"):
        key = f"Acquire::{scheme}::Proxy"
        shell = run(["apt-config", "shell", "value", key])
        if shell:
            address = shell.strip().removeprefix("value=").strip("'")
            out.append(f'--aptopt={key} "{address}"')
    return out


def cache_dir() -> Path:
    path = Path(os.environ.get("VZ_TEST_CACHE", "/var/cache/vzpy-tests"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@contextmanager
def locked() -> Iterator[None]:
    """One builder at a time; a second one waits and then finds the cache filled."""
    with open(cache_dir() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A folder in the cache for one run or build, and an end to those that were killed in theirs.

    A living owner holds a lock on its folder; a very new one may be about to take it.
    """
    for other in cache_dir().glob("scratch-*"):
        try:
            if time.time() - other.stat().st_mtime > LEFT_ALONE_S:
                held = _hold(other)
                remove(other)
                os.close(held)
        except OSError:
            continue
    with tempfile.TemporaryDirectory(prefix=f"scratch-{kind}-", dir=cache_dir()) as name:
        held = _hold(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(held)


def _hold(folder: Path) -> int:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise
    return held


def cached(kind: str, key: str, build: Callable[[Path], None], *, fresh: bool = False) -> Path:
    """The file or folder `kind-key` of the cache; what is not there yet is built.

    It appears under its name only when it is whole, so a builder that was killed leaves nothing
    that a later one would believe. Called with the lock held.
    """
    final = cache_dir() / f"{kind}-{key}"
    if final.exists() and not fresh:
        os.utime(final)
        return final
    partial = cache_dir() / f"{kind}-{key}.partial"
    remove(partial)
    began = time.monotonic()
    say(f"building {kind} ...")
    try:
        build(partial)
        remove(final)
        partial.rename(final)
    finally:
        remove(partial)
    say(f"building {kind} took {time.monotonic() - began:.1f} s")
    for other in cache_dir().glob(f"{kind}-*"):
        if time.time() - other.stat().st_mtime > UNUSED_FOR_S:
            remove(other)
    return final


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
