"""Namespaces, processes, paths and filters: what the kernel gives to whoever asks."""

from __future__ import annotations

import ctypes
import os
import struct
import time

from vzpy import ns
from vzpy.doctor.probe import Failed, probe
from vzpy.kernel import libc
from vzpy.kernel import mount as m
from vzpy.kernel import process as p
from vzpy.kernel.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_USER_NS = (
    "Set sysctl user.max_user_namespaces above 0, and kernel.unprivileged_userns_clone"
    " where it exists to 1"
)
_OTHER_NS = "Boot a kernel with CONFIG_NAMESPACES and all its members"
_NESTED = "Set sysctl kernel.apparmor_restrict_unprivileged_userns, where it exists, to 0"
_BASE = 0x7FFD0000  # the pool's last range


def _unshare(flag: int) -> Callable[[], object]:
    return lambda: p.unshare(flag)


def _id_map() -> str:
    os.close(ns.idmap_userns(b"0 %d 65536\n" % _BASE))
    return ""


def _all_at_once() -> str:
    pid = p.clone3(ns.SEVEN)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return ""


def _nested() -> str:
    """What bwrap, Docker and PrivateUsers= do as root of a VPS: namespaces of their own.

    AppArmor can take all capabilities there from whoever is not root of the machine."""
    p.setns(ns.idmap_userns(b"0 %d 65536\n" % _BASE), p.CLONE_NEWUSER)
    ns.become_root()
    p.unshare(p.CLONE_NEWUSER | p.CLONE_NEWUTS)
    p.sethostname(b"nested")
    return ""


def _time() -> str:
    """A child of a new time namespace sees a boot that was just now."""
    p.unshare(p.CLONE_NEWTIME)
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    with open("/proc/self/timens_offsets", "w") as file:
        file.write(f"monotonic {-now} 0\nboottime {-now} 0\n")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if time.clock_gettime(time.CLOCK_BOOTTIME) < 60 else 1)
    if os.waitpid(pid, 0)[1]:
        raise Failed("offsets are taken but not applied")
    return ""


def _openat2() -> str:
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    inside = m.openat2(root, "../../../uptime", os.O_RDONLY)
    if not os.path.samestat(os.fstat(inside), os.stat("/proc/uptime")):
        raise Failed("a path leads out of its root")
    return ""


def _pidfd() -> str:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    p.pidfd_send_signal(os.pidfd_open(pid), p.SIGKILL)
    os.waitpid(pid, 0)
    return ""


_NNP = 38  # PR_SET_NO_NEW_PRIVS
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_RET_K, _ALLOW = 0x06, 0x7FFF0000


def _seccomp(flags: int) -> Callable[[], object]:
    """Install a filter of one instruction that allows everything (seccomp(2))."""

    def act() -> None:
        code = ctypes.create_string_buffer(struct.pack("=HBBI", _RET_K, 0, 0, _ALLOW))
        program = struct.pack("@HP", 1, ctypes.addressof(code))
        p.prctl(_NNP, 1)
        libc.syscall(NR["seccomp"], _SET_MODE_FILTER, flags, program)

    return act


def _rlimit() -> str:
    """Raise a hard limit, which takes CAP_SYS_RESOURCE of the host."""
    import resource

    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (4096, 4096))
    except (ValueError, OSError):
        raise Failed("hard limits cannot be raised, a VPS inherits those of this shell") from None
    return ""


PROBES = (
    *(
        (f"{name} namespace", True, probe(_unshare(flag), todo))
        for name, flag, todo in (
            ("user", p.CLONE_NEWUSER, _USER_NS),
            ("mount", p.CLONE_NEWNS, _OTHER_NS),
            ("pid", p.CLONE_NEWPID, _OTHER_NS),
            ("network", p.CLONE_NEWNET, _OTHER_NS),
            ("ipc", p.CLONE_NEWIPC, _OTHER_NS),
            ("uts", p.CLONE_NEWUTS, _OTHER_NS),
            ("cgroup", p.CLONE_NEWCGROUP, _OTHER_NS),
        )
    ),
    ("clone3 of all seven", True, probe(_all_at_once, "Allow clone3 in the seccomp filter here")),
    ("map of 65536 ids", True, probe(_id_map, "Run as root of the machine, not of a container")),
    ("namespaces inside a VPS", False, probe(_nested, _NESTED)),
    ("time namespace with offsets", False, probe(_time, "uptime inside will be the host's")),
    ("openat2 within a root", True, probe(_openat2, "Boot Linux 5.6 or newer")),
    ("pidfd", True, probe(_pidfd, "Boot Linux 5.3 or newer")),
    ("seccomp filter", True, probe(_seccomp(0), "Boot a kernel with CONFIG_SECCOMP_FILTER")),
    ("seccomp notification", False, probe(_seccomp(_NEW_LISTENER),
                                          "Quota tools inside a VPS will not work")),
    ("CAP_SYS_RESOURCE", False, probe(_rlimit, "Run as full root of the machine")),
)
