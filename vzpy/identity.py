"""What a VPS is, by its number: its configuration, its folders, its ids, and whether it runs."""

from __future__ import annotations

import os

from vzpy import state
from vzpy.errors import Exit, NoSuchVPS, VzError
from vzpy.kernel.proc import slurp
from vzpy.model import IdRange, layout_name
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.config import Config
    from vzpy.ids import Owner
    from vzpy.model import Facts
    from vzpy.node import Node


@record
class Status:
    """What `vzctl status` tells."""

    exist: bool
    mounted: bool
    running: bool
    suspended: bool

    def __str__(self) -> str:
        words = [
            "exist" if self.exist else "deleted",
            "mounted" if self.mounted else "unmounted",
            "running" if self.running else "down",
        ]
        return " ".join(words + ["suspended"] * self.suspended)


class Identity:
    """Reads what is asked for; making the object touches nothing."""

    def __init__(self, node: Node, ctid: int, config: Config | None = None) -> None:
        """config  of whoever has read it just now"""
        self.node = node
        self.ctid = ctid
        self._config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.ctid})"

    @property
    def conf_path(self) -> str:
        return f"{self.node.paths.conf}/{self.ctid}.conf"

    @property
    def config(self) -> Config:
        """vz.conf, over it N.conf, as read first; reload() reads again."""
        if self._config is None:
            self._config = self.node.config.vps(self.ctid, self.conf_path)
        return self._config

    def reload(self) -> None:
        self._config = None

    @property
    def root(self) -> str:
        return self._path("VE_ROOT", Exit.VE_ROOT_NOTSET)

    @property
    def private(self) -> str:
        return self._path("VE_PRIVATE", Exit.VE_PRIVATE_NOTSET)

    def _path(self, key: str, code: int) -> str:
        path = self.config.raw(key)
        if not path:
            raise VzError(f"{key} is not set", code)
        return path

    @property
    def layout(self) -> str:
        """VE_LAYOUT of N.conf, else what the private area looks like."""
        given = self.config.own("VE_LAYOUT")
        if given:
            return layout_name(given)
        from vzpy import rootfs

        return rootfs.layout_of(self.private)

    @property
    def owner(self) -> Owner:
        from vzpy import ids

        return ids.Owner(self.node.paths.etc, self.ctid, self.private)

    @property
    def ids(self) -> IdRange:
        """The host ids of its users, as N.conf says.

        Raises ValueInvalid (21) for a range that cannot be; VzError (47) when there is none."""
        from vzpy import ids

        own = self.config.own
        found = ids.range_of(own("LOCAL_UID"), own("LOCAL_GID"), own("LOCAL_IDS"))
        if found is None:
            raise VzError(
                f"{self.conf_path} names no id range (LOCAL_UID)",
                Exit.FS_BAD_TMPL,
                hint="`vzctl start` gives it one.",
            )
        return found

    @property
    def hostname(self) -> str:
        return self.config.value("HOSTNAME") or self.config.value("NAME") or f"vps{self.ctid}"

    @property
    def stop_timeout(self) -> int:
        """Seconds that a halt may take."""
        return self.config.value("STOP_TIMEOUT") or 120

    @property
    def uuid(self) -> str:
        """container_uuid: the same for this VPS of this node at every start (gotcha G20)."""
        try:
            machine = slurp("/etc/machine-id").strip()
        except OSError:
            machine = b""
        seed = machine + os.fsencode(f"{self.node.paths.etc}/{self.ctid}")
        hexes = _sha256(seed)
        # Version 5 and the RFC 4122 variant in their places, or systemd does not take it.
        return f"{hexes[:8]}-{hexes[8:12]}-5{hexes[13:16]}-8{hexes[17:20]}-{hexes[20:32]}"

    def facts(self) -> Facts | None:
        """The facts of its start while it runs, else None."""
        return state.find(self.node.paths, self.ctid)

    def running(self) -> Facts:
        """The facts of its start. Raises NotRunning (31)."""
        return state.running(self.node.paths, self.ctid)

    def require(self) -> None:
        """Raises NoSuchVPS (14) without an N.conf; VzError 21 for number 0, the host."""
        self._not_the_host()
        if not self.config.exists:
            raise NoSuchVPS

    def _not_the_host(self) -> None:
        if self.ctid == 0:
            raise VzError("Only set actions are allowed for CT0", Exit.INVALID_PARAMETER_VALUE)


def _sha256(data: bytes) -> str:
    """In hexadecimal. hashlib loads OpenSSL first, 3 ms of a start."""
    for module in ("_sha256", "_sha2", "hashlib"):  # before Python 3.12, since then, and for sure
        try:
            return str(__import__(module).sha256(data).hexdigest())
        except ImportError:
            pass
    raise ImportError("hashlib")
