"""Devices of a VPS: a fence around them, and the nodes by which they are reached.

The fence is a program that the kernel asks at each open of a device by a process of a cgroup. One
stands on the node's cgroup and lets through what every VPS has; a VPS that was granted more has a
fence of its own, which replaces that one.

The nodes are made by the host in a small file system of the host's, since the kernel believes
no device node of a file system that was mounted in a user namespace (user_namespaces(7)), and bound
into /dev of the VPS."""

from __future__ import annotations

import _stat as stat
import os

from vzpy.kernel import mount as m
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vzpy.model import IdRange

MARK = "trusted.vz.devices"
VERSION = b"1"  # of the node's fence: another one is replaced
NODES = "dev/.vz/nodes"  # where the nodes stand before they are bound to their places

_ALL = -1


@record
class Rule:
    """Access to devices of one kind.

    kind    "b" or "c"
    major   of `majors` numbers beginning with it
    minor   -1 for all
    access  of "rwq", or "none"; q, OpenVZ's right to switch on disk quota, means nothing here"""

    kind: str
    major: int
    minor: int
    access: str
    majors: int = 1


DEFAULT = (
    Rule("c", 1, 3, "rw"),  # null
    Rule("c", 1, 5, "rw"),  # zero
    Rule("c", 1, 7, "rw"),  # full
    Rule("c", 1, 8, "rw"),  # random
    Rule("c", 1, 9, "rw"),  # urandom
    Rule("c", 5, 0, "rw"),  # tty
    Rule("c", 5, 1, "rw"),  # console
    Rule("c", 5, 2, "rw"),  # ptmx
    Rule("c", 136, _ALL, "rw", majors=8),  # pts/*
)


def rule_of_number(device: str, access: str) -> Rule:
    """The rule of a device of DEVICES, `b|c:major:minor|all`."""
    kind, major, minor = device.split(":")
    return Rule(kind, int(major), _ALL if minor == "all" else int(minor), access)


def rule_of_node(name: str, access: str) -> Rule:
    """The rule for what the host has under a name of DEVNODES. Raises OSError."""
    about = os.stat(f"/dev/{name}")
    kind = "b" if stat.S_ISBLK(about.st_mode) else "c"
    return Rule(kind, os.major(about.st_rdev), os.minor(about.st_rdev), access)


_EVERYTHING = tuple(Rule(kind, 0, _ALL, "rw", majors=4096) for kind in "bc")


# The fence


def is_fenced(node_cgroup: str) -> bool:
    """Somebody has put up the node's fence: asked at each start, so it is a mark of a file."""
    try:
        return os.getxattr(node_cgroup, MARK) == VERSION
    except OSError:
        return False


def fence_node(node_cgroup: str) -> None:
    """What every VPS may open. Raises OSError where the kernel has no such programs."""
    from vzpy.kernel import bpf

    _attach(node_cgroup, DEFAULT, bpf.ALLOW_OVERRIDE)
    os.setxattr(node_cgroup, MARK, VERSION)  # should it fail, the next start does it again


def fence(cgroup: str, rules: Iterable[Rule]) -> None:
    """What one VPS may open: the default, changed by rules of which the last one counts.

    The fence it had is replaced in one step. Raises OSError."""
    _attach(cgroup, (*DEFAULT, *rules), 0)


def leave_open(cgroup: str) -> None:
    """No fence for what of the node's cgroup is no VPS. Raises OSError."""
    _attach(cgroup, _EVERYTHING, 0)


def _attach(cgroup: str, rules: tuple[Rule, ...], flags: int) -> None:
    from vzpy.kernel import bpf

    bpf.attach_alone(cgroup, bpf.PROG_CGROUP_DEVICE, bpf.CGROUP_DEVICE, fence_program(rules),
                     "vz_devices", flags)


# struct bpf_cgroup_dev_ctx (linux/bpf.h): access << 16 | kind, major, minor
_ACCESS, _MAJOR, _MINOR = 0, 4, 8
_KINDS = {"b": 1, "c": 2}
_MKNOD, _BITS = 1, {"r": 2, "w": 4}


def fence_program(rules: tuple[Rule, ...]) -> bytes:
    """R2 the kind, R3 the access asked for, R4 and R5 the numbers. A rule that fits decides."""
    from vzpy.kernel.bpf import R1, R2, R3, R4, R5, Code

    code = Code()
    code.load(R2, R1, _ACCESS, 4)
    code.load(R4, R1, _MAJOR, 4)
    code.load(R5, R1, _MINOR, 4)
    code.set_to(R3, "=", R2)
    code.set(R3, ">>", 16)
    code.set(R2, "&", 0xFFFF)
    for number, rule in enumerate(reversed(rules)):
        following = f"after {number}"
        code.jump_if(following, R2, "!=", _KINDS[rule.kind])
        code.jump_if(following, R4, "<", rule.major)
        code.jump_if(following, R4, ">", rule.major + rule.majors - 1)
        if rule.minor != _ALL:
            code.jump_if(following, R5, "!=", rule.minor)
        granted = sum(bit for letter, bit in _BITS.items() if letter in rule.access)
        # Nobody in a VPS has the right to make nodes (mknod(2)): where a device is granted the
        # fence need not forbid it too.
        code.set(R3, "&", ~(granted | _MKNOD if granted else 0))
        code.jump_if("refuse", R3, "!=", 0)
        code.exit(1)
        code.label(following)
    code.label("refuse")
    code.exit(0)
    return code.assemble()


# Nodes


def make_nodes(names: Iterable[str], ids: IdRange) -> int:
    """A detached file system with the host's nodes of these names: its descriptor.

    An owner that the VPS cannot have becomes its root; mode and group stay the host's.
    Raises OSError."""
    tree = m.fsmount("tmpfs", m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC, mode="0755", size="64k")
    try:
        for name in names:
            _make_node(tree, name, ids)
    except BaseException:
        os.close(tree)
        raise
    return tree


def _make_node(tree: int, name: str, ids: IdRange) -> None:
    about = os.stat(f"/dev/{name}")
    for parent in _parents(name):
        try:
            os.mkdir(parent, 0o755, dir_fd=tree)
        except FileExistsError:
            continue
        os.chmod(parent, 0o755, dir_fd=tree)
    os.mknod(name, about.st_mode, about.st_rdev, dir_fd=tree)
    os.chmod(name, stat.S_IMODE(about.st_mode), dir_fd=tree)
    uid, gid = (x if x < ids.count else 0 for x in (about.st_uid, about.st_gid))
    os.chown(name, ids.base + uid, ids.base + gid, dir_fd=tree)


def make_inert(tree: int, name: str, number: int) -> None:
    """A block node for tools that want to see one, in a tree of make_nodes(): of the host's root
    and without any mode, so that nobody inside opens it or changes that."""
    for parent in _parents(name):
        if not os.path.isdir(f"/proc/self/fd/{tree}/{parent}"):
            os.mkdir(parent, 0o755, dir_fd=tree)
    os.mknod(name, stat.S_IFBLK, number, dir_fd=tree)
    os.chmod(name, 0, dir_fd=tree)


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


# In the mount namespace of the VPS, as its root


def bind_nodes(names: Sequence[str], place: Callable[[str, int, bool], None]) -> None:
    """Bind the nodes of make_nodes(), which stand at NODES, to their places in /dev.

    place  attaches a detached mount at a path below the root, on a directory or a file"""
    if not names:
        return
    try:
        for name in names:
            for parent in _parents(name):
                try:
                    os.mkdir(f"/dev/{parent}", 0o755)
                except FileExistsError:
                    pass
            place(f"dev/{name}", m.open_tree(f"/{NODES}/{name}", m.OPEN_TREE_CLONE), False)
    finally:
        m.umount2(f"/{NODES}", m.MNT_DETACH | m.UMOUNT_NOFOLLOW)
        os.rmdir(f"/{NODES}")


def remove_nodes(names: Iterable[str]) -> None:
    """Take nodes away again. Absence is success, and so is what the VPS did to them itself."""
    for name in names:
        path = f"/dev/{name}"
        try:
            m.umount2(path, m.MNT_DETACH | m.UMOUNT_NOFOLLOW)
            os.unlink(path)
        except OSError:
            pass
