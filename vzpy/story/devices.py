"""The devices that a VPS is granted: --devices by number, --devnodes by name, and the feature that
means one (vzctl-cli 5, config-files 6).

What holds stands in an attribute of vz/N, whatever N.conf says by now: a later change adds
to it."""

from __future__ import annotations

import _stat as stat
import os

from vzpy import devices
from vzpy.devices import NODES as NODES
from vzpy.devices import make_inert as make_inert
from vzpy.devices import make_nodes as make_nodes
from vzpy.errors import Exit, VzError
from vzpy.events import Devices
from vzpy.model import IdRange
from vzpy.once import once
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.live import Change
    from vzpy.vps import VPS

_MARK = "trusted.vz.granted"
# Devices of the host that come with a module, which the host loads for a VPS that wants them.
_MODULES = {"net/tun": "tun", "fuse": "fuse", "ppp": "ppp_generic"}
_FEATURE_NODES = {"ppp": "ppp"}
_FEATURE_MODULES = {
    "sit": "sit", "ipip": "ipip", "ipgre": "ip_gre", "bridge": "bridge", "ppp": "ppp_generic",
}
# What iptables of the old kind needs, and no VPS may load, by the level of netfilter.
_STATELESS = ("iptable_filter", "iptable_mangle", "ip6table_filter", "ip6table_mangle")
_TABLES = {
    "stateless": _STATELESS,
    "stateful": _STATELESS,
    "full": (*_STATELESS, "iptable_nat", "ip6table_nat"),
}
_ALWAYS_ON = ("sysfs",)
_LOOP_MAJOR = 7  # denied, whatever a file says (vzctl-cli 5)


@record
class Granted:
    """Device -> access ("rw", "none" ...), by number (`c:10:200`) and by name (`net/tun`)."""

    numbers: dict[str, str]
    nodes: dict[str, str]

    def rules(self) -> list[devices.Rule]:
        """Raises OSError for a name that the host has not."""
        return [
            *(devices.rule_of_number(*item) for item in self.numbers.items()),
            *(devices.rule_of_node(*item) for item in self.nodes.items()),
        ]

    def names(self) -> list[str]:
        """Nodes that the VPS sees."""
        return [name for name, access in self.nodes.items() if access != "none"]

    def write(self, cgroup: str) -> None:
        rows = (" ".join(f"{k}:{v}" for k, v in x.items()) for x in (self.numbers, self.nodes))
        os.setxattr(cgroup, _MARK, "\n".join(rows).encode())


def of_config(conf: Config) -> Granted:
    nodes = _pairs(conf.value("DEVNODES") or ())
    for feature, on in (conf.value("FEATURES") or {}).items():
        if on and feature in _FEATURE_NODES:
            nodes.setdefault(_FEATURE_NODES[feature], "rw")
    return Granted(_pairs(conf.value("DEVICES") or ()), nodes)


def of_running(cgroup: str) -> Granted:
    try:
        numbers, nodes = os.getxattr(cgroup, _MARK).decode().split("\n")
    except OSError:
        return Granted({}, {})
    return Granted(_pairs(numbers.split()), _pairs(nodes.split()))


def _pairs(words: list[str] | tuple[str, ...]) -> dict[str, str]:
    split = (word.rpartition(":") for word in words)
    return {device: access for device, _, access in split}


def before_birth(vps: VPS, cgroup: str, report: Report) -> list[str]:
    """Put up the fence of the node, and one of vz/N where its configuration asks for devices.

    Returns the options that this node cannot apply."""
    node = os.path.dirname(cgroup)
    if not devices.is_fenced(node):
        try:
            devices.fence_node(node)
        except OSError:
            pass  # `vz doctor` tells; without rights of the host a VPS makes no node anyway
    for name in _TABLES.get(vps.config.own("NETFILTER") or "", ()):
        load_module(name)  # where it is missing, iptables inside says so
    if not any(vps.config.raw(key) for key in ("DEVICES", "DEVNODES", "FEATURES")):
        return []
    refused = _load_features(vps.config.value("FEATURES") or {})
    granted, missing = _available(of_config(vps.config))
    refused += missing
    if not granted.numbers and not granted.nodes:
        return refused
    report(Devices())
    try:
        devices.fence(cgroup, granted.rules())
    except OSError:
        return [*refused, *(["devices"] if granted.numbers else []),
                *(f"devnodes {name}" for name in granted.nodes)]
    granted.write(cgroup)
    return refused


def nodes(conf: Config, cgroup: str) -> tuple[str, ...]:
    """Names of the devices of the host that a VPS is born with, after before_birth()."""
    if not any(conf.raw(key) for key in ("DEVNODES", "FEATURES")):
        return ()
    return tuple(of_running(cgroup).names())


def _load_features(switches: dict[str, bool]) -> list[str]:
    """Load what features stand for; those that this node has not, and those that no VPS can have
    without the host's kernel serving files for it (nfs, nfsd)."""
    return [
        f"features {name}"
        for name, on in switches.items()
        if on and name not in _ALWAYS_ON
        and not (name in _FEATURE_MODULES and load_module(_FEATURE_MODULES[name]))
    ]


def _available(asked: Granted) -> tuple[Granted, list[str]]:
    """Without the nodes that the host has not, or does not give away, which are named."""
    missing = [name for name in asked.nodes if not _on_host(name)]
    nodes = {name: access for name, access in asked.nodes.items() if name not in missing}
    return Granted(asked.numbers, nodes), [f"devnodes {name}" for name in missing]


def _on_host(name: str) -> bool:
    path = f"/dev/{name}"
    if not os.path.exists(path) and name in _MODULES:
        load_module(_MODULES[name])
    try:
        about = os.stat(path)
    except OSError:
        return False
    is_loop = stat.S_ISBLK(about.st_mode) and os.major(about.st_rdev) == _LOOP_MAJOR
    return stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode) and not is_loop


_loadable: dict[str, bool] = {}  # whether there are modules, by kernel


def load_module(name: str) -> bool:
    """Whether the kernel has a module, loading it (modprobe(8))."""
    if os.path.isdir(f"/sys/module/{name}"):
        return True
    folder = f"/lib/modules/{os.uname().release}"
    if not once(_loadable, folder, lambda: os.path.isdir(folder)):
        return False  # a kernel without modules: modprobe would take 2 ms to say so
    try:
        pid = os.posix_spawn("/sbin/modprobe", ["modprobe", "-q", name], {"PATH": "/sbin:/bin"})
    except OSError:
        return False
    return os.waitpid(pid, 0)[1] == 0


# A running VPS


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 86."""
    facts = change.facts
    before = of_running(facts.cgroup)
    after = _merged(before, of_config(change.before), of_config(change.after))
    gone = [name for name in before.names() if name not in after.names()]
    new = [name for name in after.names() if name not in before.names()]
    report(Devices())
    try:
        devices.fence(facts.cgroup, after.rules())
    except OSError as err:
        raise VzError.of("Unable to set devperms", err, Exit.SET_DEVICES) from err
    try:
        if new or gone:
            _change_nodes(facts, new, gone)
        after.write(facts.cgroup)
    except OSError as err:
        devices.fence(facts.cgroup, before.rules())
        raise VzError.of("Unable to create device", err, Exit.SET_DEVICES) from err
    return []


def _merged(running: Granted, before: Granted, after: Granted) -> Granted:
    """What holds, changed by what the configuration gained and lost."""

    def merge(now: dict[str, str], old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
        return {**{k: v for k, v in now.items() if k in new or k not in old}, **new}

    return Granted(
        merge(running.numbers, before.numbers, after.numbers),
        merge(running.nodes, before.nodes, after.nodes),
    )


def _change_nodes(facts: Facts, new: list[str], gone: list[str]) -> None:
    """Raises OSError; then no new node is there."""
    from vzpy import rootfs
    from vzpy.kernel import process
    from vzpy.story import within

    tree = devices.make_nodes(new, IdRange(facts.base, facts.count))

    def act() -> None:
        devices.remove_nodes(gone)
        if not new:
            return
        try:
            rootfs.place(devices.NODES, tree)
            devices.bind_nodes(new, rootfs.place)
        except OSError:
            devices.remove_nodes(new)
            raise

    try:
        within.as_root(facts.pid, process.CLONE_NEWNS, act)
    finally:
        os.close(tree)
