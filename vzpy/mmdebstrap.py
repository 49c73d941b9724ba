"""The builder of Debian's templates: mmdebstrap(1) with the machine's own apt sources.

It runs in namespaces of its own (mounts, pids, host name, IPC): mounts of the build are never
the host's, and all of it dies with us, so that no half-built system is left working."""

from __future__ import annotations

import os

from vzpy import aptsources
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.unpack import Progress

STEPS = 15  # lines "I: ..." that mmdebstrap prints on its way
LAST_LINES = 8
# apt settings of the machine that decide how packages are fetched, not which
FETCHING = ("http", "https", "ftp", "socks", "retries", "forceipv", "check-", "proxy-auto-detect")
FENCE = (
    ("setpriv", "--pdeathsig", "KILL"),
    ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
# what the build leaves behind: the machine's proxies, name and name servers
CLEAN = (
    'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname'
    ' && : > "$1"/etc/resolv.conf && : > "$1"/etc/hostname'
)


def build(recipe: dict[str, object], scratch: str, progress: Progress | None = None) -> str:
    """Build the tarball of a recipe with keys suite, variant, packages, exclude, options, setup.

    Returns SCRATCH/cache.tar.zst, or .gz where zstd is not installed.
    Raises VzError 47 with mmdebstrap's last words."""
    import shutil

    for program, package in (("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux")):
        if not shutil.which(program):
            raise VzError(
                f"Cannot build the template: {program} is not installed",
                Exit.FS_BAD_TMPL,
                hint=f"apt-get install {package}",
            )
    suite = str(recipe["suite"])
    sources = os.path.join(scratch, "debian.sources")
    with open(sources, "w", encoding="utf-8") as file:
        file.write(aptsources.for_suite(suite))
    tarball = os.path.join(scratch, "cache.tar" + (".zst" if shutil.which("zstd") else ".gz"))
    os.chmod(scratch, 0o711)  # apt fetches as the user _apt
    command = [word for words in FENCE for word in words]
    command += ["mmdebstrap", "--mode=root", "--format=tar"]
    command += options(recipe, scratch, fetching())
    command += [suite, tarball, sources]
    _run(command, scratch, progress)
    return tarball


def options(recipe: dict[str, object], scratch: str, aptopts: list[str]) -> list[str]:
    """mmdebstrap's options for a recipe; `setup` is written to a file in `scratch`."""
    words = [f"--variant={recipe.get('variant', 'minbase')}"]
    if packages := recipe.get("packages"):
        assert isinstance(packages, list)
        words.append("--include=" + ",".join(map(str, packages)))
    words += [f"--aptopt={option}" for option in aptopts]
    words.append("--aptopt=Acquire::Languages none")
    excluded = recipe.get("exclude", [])
    assert isinstance(excluded, list)
    words += [f"--dpkgopt=path-exclude={path}" for path in excluded]
    if setup := recipe.get("setup"):
        script = os.path.join(scratch, "setup.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(str(setup))
        words.append(f"--customize-hook=chroot \"$1\" /bin/sh -eu < '{script}'")
    words.append(f"--customize-hook={CLEAN}")
    extra = recipe.get("options", [])
    assert isinstance(extra, list)
    return words + [str(option) for option in extra]


def fetching() -> list[str]:
    """The machine's apt settings about fetching: proxies, time-outs, whether dates are checked."""
    import subprocess

    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty", "Acquire"], capture_output=True, text=True
    )
    prefix = "Acquire::"
    return [
        line.rstrip(";")
        for line in dump.stdout.splitlines()
        if line.startswith(prefix) and line[len(prefix) :].lower().startswith(FETCHING)
    ]


def _run(command: list[str], scratch: str, progress: Progress | None) -> None:
    from subprocess import DEVNULL, PIPE, STDOUT, Popen

    environment = {name: os.environ[name] for name in PROXIES if name in os.environ}
    environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
    environment["TMPDIR"] = scratch
    last: list[str] = []
    done = 0
    build = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment)
    try:
        assert build.stdout is not None
        for raw in build.stdout:
            # its bars redraw a line with carriage returns
            line = raw.decode(errors="replace").replace("\r", "\n").strip().rpartition("\n")[2]
            if line.startswith("I: "):
                done = min(done + 1, STEPS - 1)
                if progress:
                    progress(done, STEPS)
            if line:
                last = [*last[1 - LAST_LINES :], line]
        build.wait()
    finally:
        build.kill()
        build.wait()
    if build.returncode:
        last = [line for line in last if line.startswith("E: ")] or last
        raise VzError(
            "mmdebstrap could not build the template", Exit.FS_BAD_TMPL, hint="\n".join(last)
        )
    if progress:
        progress(STEPS, STEPS)
