"""Templates that take long to build: made once, and kept over sessions and checkouts."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tools import CACHE, ROOT

DEBIAN = "debian-12-x86_64"
# One of each other init that Debian packs.
INITS = {
    kind: f"debian-12-{kind}-x86_64"
    for kind in ("sysvinit", "openrc-sysvinit", "openrc", "runit", "s6")
}
QUOTA = "debian-12-quota-x86_64"
_UNREAD = ("doc", "locale", "man", "zoneinfo", "bash-completion")


def debian_tarball(name: str = DEBIAN) -> Path | None:
    """The tarball of a Debian template, kept over sessions and checkouts; built when the machine
    can and what it is made from has changed, by one process at a time."""
    from vzpy import data, template
    from vzpy.errors import VzError
    from vzpy.events import silent
    from vzpy.lockfile import Flock

    store = CACHE / "templates"
    store.mkdir(parents=True, exist_ok=True)
    key = store / f"{name}.key"
    with Flock(str(store / f".{name}.lock")):
        found = next(iter(sorted(store.glob(f"{name}.tar*"))), None)
        wanted = _key_of(data.path("recipes", f"{name}.yaml"))
        current = found and key.exists() and key.read_text() == wanted
        if current or not shutil.which("mmdebstrap"):
            return found
        work = CACHE / f"build-{name}"
        try:
            made = template.build_cache(str(work), name, silent)
            for old in store.glob(f"{name}.tar*"):
                old.unlink()
            found = Path(shutil.move(made, store))
            key.write_text(wanted)
        except (VzError, OSError):
            pass
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return found


def _key_of(recipe: str) -> str:
    """Changes with all that the content of a template depends on, but for Debian itself."""
    parts = [recipe, *(ROOT / "vzpy" / f"{name}.py" for name in ("mmdebstrap", "aptsources"))]
    return hashlib.sha256(b"".join(Path(part).read_bytes() for part in parts)).hexdigest()


def quota_tarball() -> Path | None:
    """The smallest Debian that has the quota tools, kept over sessions: no recipe of ours."""
    made = CACHE / "templates" / f"{QUOTA}.tar.zst"
    if not made.exists() and shutil.which("mmdebstrap"):
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_name(f"new-{os.getpid()}.tar.zst")
        argv = ["mmdebstrap", "--variant=essential", "--include=quota", "bookworm", new]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _UNREAD]
        argv += ["--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*"]
        subprocess.run(argv, capture_output=True)
        if new.exists():
            new.rename(made)
    return made if made.exists() else None


def debian_store(name: str = DEBIAN) -> str:
    """A template folder with a Debian template, its tree kept over sessions."""
    store = CACHE / "debian"
    (store / "cache").mkdir(parents=True, exist_ok=True)
    tarball = quota_tarball() if name == QUOTA else debian_tarball(name)
    assert tarball
    link = store / "cache" / tarball.name
    if not link.is_symlink():
        link.symlink_to(tarball)
    return str(store)
