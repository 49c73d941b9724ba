"""vzdump's archives: their names and settings, which of them are kept, what stays out
(migrate.md 5)."""

from __future__ import annotations

import time

from vzpy.errors import ConfigError, ValueInvalid
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What is in every archive beside the tree of the VPS, and never taken from that.
FOLDER = "etc/vzdump"
SCRIPTS = ("start", "stop", "mount", "umount", "premount", "postumount")

STANDARD_EXCLUDES = ("/var/log/.+", "/tmp/.+", "/var/tmp/.+", "/var/run/.+pid")
# suffix -> program and its options
COMPRESSORS = {".tar": (), ".tgz": ("gzip", "-c"), ".tar.zst": ("zstd", "-q", "-c", "-T0")}
# Without a suffix it is a directory, which only root can enter, and in it the tree:
TREE = "root"
_NAME = r"vzdump-openvz-(\d+)-\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d(\.tar|\.tgz|\.tar\.zst)?"

MODES = ("plain", "stop", "suspend", "snapshot")


@record
class Job:
    """How VPSs are dumped."""

    mode: str = "plain"
    dumpdir: str = ""
    suffix: str = ".tar"
    exclude: tuple[str, ...] = ()
    maxfiles: int = 0  # 0: all are kept
    script: str = ""
    rate: int = 0  # bytes a second
    lockwait: int = 180  # minutes
    stopwait: int = 0  # minutes; 0: STOP_TIMEOUT of the VPS


def path_of(dumpdir: str, ctid: int, when: float, suffix: str) -> str:
    stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.localtime(when))
    return f"{dumpdir}/vzdump-openvz-{ctid}-{stamp}{suffix}"


def log_of(archive: str) -> str:
    for suffix in sorted(COMPRESSORS, key=len, reverse=True):
        if archive.endswith(suffix):
            return archive.removesuffix(suffix) + ".log"
    return f"{archive}.log"


def surplus(names: Iterable[str], ctid: int, keep: int) -> list[str]:
    """The oldest archives of a VPS beyond `keep`, by their names."""

    import re

    own = sorted(n for n in names if (m := re.fullmatch(_NAME, n)) and int(m[1]) == ctid)
    return own[: max(len(own) - keep, 0)] if keep else []


class Excluded:
    """The paths that stay out: each expression matches a whole path, and what is below goes too.

    Raises ValueInvalid for what is no regular expression."""

    def __init__(self, patterns: Iterable[str]) -> None:

        import re

        self._patterns = []
        for text in patterns:
            try:
                self._patterns.append(re.compile(text, re.DOTALL))
            except re.error as err:
                raise ValueInvalid(f"--exclude-path {text}: {err}") from None

    def __call__(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._patterns)


_KEYS = ("tmpdir", "dumpdir", "storage", "mode", "bwlimit", "lockwait", "stopwait", "size",
         "maxfiles", "script")


def load_config(path: str) -> dict[str, str]:
    """vzdump.conf: `key: value` lines, # comments; empty when there is none.

    Raises ConfigError with the line."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).split("\n")
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise ConfigError.of("Unable to read the configuration", err) from err
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        key, colon, value = text.partition(":")
        if not colon or key.strip() not in _KEYS:
            raise ConfigError(f"{path}:{number}: not a setting of vzdump: {text}")
        found[key.strip()] = value.strip()
    return found


def storage(path: str, name: str) -> tuple[str, str]:
    """The dump directory of a storage that Proxmox VE knows, and its `maxfiles`, "" for none.

    path  of its storage.cfg: `TYPE: NAME` and indented `key value` lines
    Raises ConfigError when there is no such storage, or it is no directory for backups."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError as err:
        raise ConfigError.of(f"storage '{name}' is not known here", err) from err
    kind, found = "", dict[str, str]()
    for line in lines:
        if line[:1] not in ("", "#", " ", "\t"):
            if kind:
                break
            word, _, called = line.partition(":")
            kind = word if called.strip() == name else ""
        elif kind and line.strip():
            key, _, value = line.strip().partition(" ")
            found[key] = value.strip()
    if not kind:
        raise ConfigError(f"storage '{name}' does not exist: {path} has none of that name")
    folder = found.get("path", "/mnt/pve/" + name if kind in ("nfs", "cifs") else "")
    if "backup" not in found.get("content", "").split(",") or not folder:
        raise ConfigError(f"storage '{name}' of {path} is no directory for backups")
    return f"{folder.rstrip('/')}/dump", found.get("maxfiles", "")
