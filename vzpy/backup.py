"""vzdump's archives: their names, which of them are kept, what stays out (migrate.md 5)."""

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
_NAME = r"vzdump-openvz-(\d+)-\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d(\.tar|\.tgz|\.tar\.zst)"

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
    stopwait: int = 10  # minutes


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
