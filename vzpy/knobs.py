"""Bounds inside a VPS that its own root could move, held in place by programs on vz/N.

Sysctls of its namespaces: writes to some of them are refused. Buffers of sockets: what
setsockopt(2) asks for is cut down to a limit. Namespaces nested in the VPS's have their own
sysctls; there the kernel's defaults hold, and the memory limit of the VPS."""

from __future__ import annotations

from vzpy.kernel import bpf
from vzpy.kernel.bpf import R0, R1, R2, R3, R4, R6, R7, R8, R10, Code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD = 8
_INT_MAX = 0x7FFFFFFF


def keep_sysctls(cgroup: str, names: Iterable[str]) -> None:
    """Refuse writes of these sysctls (kernel/shmall) with EPERM to the processes of a cgroup.

    Raises OSError."""
    bpf.attach_alone(cgroup, bpf.PROG_CGROUP_SYSCTL, bpf.CGROUP_SYSCTL,
                     sysctl_program(tuple(names)), "vz_sysctl", bpf.ALLOW_MULTI)


def clamp_buffers(cgroup: str, tcp: Iterable[int], other: Iterable[int]) -> None:
    """The most that setsockopt(2) gives a socket to send and to receive, two numbers of bytes each,
    0 for no limit.

    Raises OSError."""
    code = sockopt_program(*([_bytes(size) for size in pair] for pair in (tcp, other)))
    bpf.attach_alone(cgroup, bpf.PROG_CGROUP_SOCKOPT, bpf.CGROUP_SETSOCKOPT, code, "vz_sockbuf",
                     bpf.ALLOW_MULTI)


def _bytes(size: int) -> int:
    """What is asked for with SO_SNDBUF to get so much: the kernel doubles it (socket(7))."""
    return min(size // 2, _INT_MAX) if size else _INT_MAX


# struct bpf_sysctl (linux/bpf.h)
_WRITE = 0


def sysctl_program(names: tuple[str, ...]) -> bytes:
    """The name comes onto the stack and is compared by words."""
    code = Code()
    if not names:
        code.exit(1)
        return code.assemble()
    room = max(len(name) for name in names) // _WORD * _WORD + 2 * _WORD
    code.load(R2, R1, _WRITE, 4)
    code.jump_if("allow", R2, "==", 0)
    code.set(R2, "=", 0)
    for offset in range(0, room, _WORD):
        code.store(R10, offset - room, R2)
    code.set_to(R2, "=", R10)
    code.set(R2, "+", -room)
    code.set(R3, "=", room)
    code.set(R4, "=", 0)
    code.call(bpf.SYSCTL_GET_NAME)
    for name in names:
        padded = name.encode().ljust(len(name) // _WORD * _WORD + _WORD, b"\0")
        for offset in range(0, len(padded), _WORD):
            code.load(R2, R10, offset - room)
            code.number(R3, int.from_bytes(padded[offset : offset + _WORD], "little"))
            code.jump_if_to(f"not {name}", R2, "!=", R3)
        code.exit(0)
        code.label(f"not {name}")
    code.label("allow")
    code.exit(1)
    return code.assemble()


# struct bpf_sockopt (linux/bpf.h)
_SK, _OPTVAL, _OPTVAL_END, _LEVEL, _OPTNAME, _OPTLEN = 0, 8, 16, 24, 28, 32
_SK_TYPE, _SK_PROTOCOL, _SOCK_STREAM, _IPPROTO_TCP = 8, 12, 1, 6
_SOL_SOCKET, _SO_SNDBUF, _SO_RCVBUF, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 1, 7, 8, 32, 33
_SEEN = 4096  # a longer value no program can see, which then has to say that it left it alone


def sockopt_program(tcp: Iterable[int], other: Iterable[int]) -> bytes:
    """R6 the call, R7 and R8 the limits of its socket, R7 then the one of its option."""
    code = Code()
    code.set_to(R6, "=", R1)
    code.load(R2, R6, _OPTLEN, 4)
    code.jump_if("look", R2, "<", _SEEN + 1)
    code.set(R2, "=", 0)
    code.store(R6, _OPTLEN, R2, 4)
    code.exit(1)

    code.label("look")
    code.load(R2, R6, _LEVEL, 4)
    code.jump_if("allow", R2, "!=", _SOL_SOCKET)
    code.load(R2, R6, _SK)
    code.jump_if("other", R2, "==", 0)
    code.load(R3, R2, _SK_PROTOCOL, 4)
    code.jump_if("other", R3, "!=", _IPPROTO_TCP)
    code.load(R3, R2, _SK_TYPE, 4)
    code.jump_if("other", R3, "!=", _SOCK_STREAM)
    for register, size in zip((R7, R8), tcp):
        code.set(register, "=", size)
    code.jump("option")
    code.label("other")
    for register, size in zip((R7, R8), other):
        code.set(register, "=", size)

    code.label("option")
    code.load(R2, R6, _OPTNAME, 4)
    code.jump_if("clamp", R2, "==", _SO_SNDBUF)
    code.jump_if("clamp", R2, "==", _SO_SNDBUFFORCE)
    code.set_to(R7, "=", R8)
    code.jump_if("clamp", R2, "==", _SO_RCVBUF)
    code.jump_if("allow", R2, "!=", _SO_RCVBUFFORCE)
    code.label("clamp")
    code.load(R2, R6, _OPTVAL)
    code.load(R3, R6, _OPTVAL_END)
    code.set_to(R4, "=", R2)
    code.set(R4, "+", 4)
    code.jump_if_to("allow", R4, ">", R3)
    code.load(R0, R2, 0, 4)
    code.jump_if("cut", R0, ">", _INT_MAX)  # a negative number
    code.jump_if_to("allow", R7, "s>=", R0)
    code.label("cut")
    code.store(R2, 0, R7, 4)
    code.label("allow")
    code.exit(1)
    return code.assemble()
