"""The file that a program is run from (program.py): an ELF with the loop in it, in memory."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _struct as struct
import fcntl
import os

CODE, DATA, CALLS = 0x10000000, 0x10010000, 0x10400000  # addresses of its segments
LAUNCHER = "vz-launcher"  # name of the process
FIRST = 3  # descriptor that a program is given
_PAGE = 0x10000  # the largest there are
_HEAD = 64 + 56 * 3  # bytes of the ELF header, and what it says of segments
_MFD_CLOEXEC, _MFD_NOEXEC_SEAL, _MFD_EXEC = 1, 8, 16

_EACCES, _EINVAL = 13, 22  # without `errno`, which is made at 45 us

# The loop: `told` at DATA in one register, the address of the call in another.
_X86_64 = (
    "4c8d2d11ff0000"  # lea told(%rip), %r13
    "4d8b6518"  #       mov 24(%r13), %r12
    "498b0424"  #  1:   mov (%r12), %rax
    "498b7c2408"  #     mov 8(%r12), %rdi
    "498b742410"  #     mov 16(%r12), %rsi
    "498b542418"  #     mov 24(%r12), %rdx
    "4d8b542420"  #     mov 32(%r12), %r10
    "4d8b442428"  #     mov 40(%r12), %r8
    "4d8b4c2430"  #     mov 48(%r12), %r9
    "0f05"  #           syscall
    "4d896508"  #       mov %r12, 8(%r13)
    "49894510"  #       mov %rax, 16(%r13)
    "498b4c2438"  #     mov 56(%r12), %rcx
    "488901"  #         mov %rax, (%rcx)
    "498b4c2440"  #     mov 64(%r12), %rcx
    "4885c0"  #         test %rax, %rax
    "490f444c2448"  #   cmovz 72(%r12), %rcx
    "490f484c2450"  #   cmovs 80(%r12), %rcx
    "4989cc"  #         mov %rcx, %r12
    "ebb3"  #           jmp 1b
)
_AARCH64 = (
    "d4f80710"  #       adr x20, told
    "930e40f9"  #       ldr x19, [x20, #24]
    "680240f9"  #  1:   ldr x8, [x19]
    "608640a9"  #       ldp x0, x1, [x19, #8]
    "628e41a9"  #       ldp x2, x3, [x19, #24]
    "649642a9"  #       ldp x4, x5, [x19, #40]
    "010000d4"  #       svc #0
    "938200a9"  #       stp x19, x0, [x20, #8]
    "691e40f9"  #       ldr x9, [x19, #56]
    "200100f9"  #       str x0, [x9]
    "692240f9"  #       ldr x9, [x19, #64]
    "6aae44a9"  #       ldp x10, x11, [x19, #72]
    "1f0000f1"  #       cmp x0, #0
    "4901899a"  #       csel x9, x10, x9, eq
    "73b1899a"  #       csel x19, x11, x9, lt
    "f3ffff17"  #       b 1b
)
_RISCV64 = (
    "97090100938989f1"  # la s3, told
    "03b98901"  #       ld s2, 24(s3)
    "83380900"  #  1:   ld a7, 0(s2)
    "03358900"  #       ld a0, 8(s2)
    "83350901"  #       ld a1, 16(s2)
    "03368901"  #       ld a2, 24(s2)
    "83360902"  #       ld a3, 32(s2)
    "03378902"  #       ld a4, 40(s2)
    "83370903"  #       ld a5, 48(s2)
    "73000000"  #       ecall
    "23b42901"  #       sd s2, 8(s3)
    "23b8a900"  #       sd a0, 16(s3)
    "83328903"  #       ld t0, 56(s2)
    "23b0a200"  #       sd a0, 0(t0)
    "93020900"  #       mv t0, s2
    "03b90205"  #       ld s2, 80(t0)
    "e34405fc"  #       bltz a0, 1b
    "03b98204"  #       ld s2, 72(t0)
    "e30005fc"  #       beqz a0, 1b
    "03b90204"  #       ld s2, 64(t0)
    "6ff09ffb"  #       j 1b
)
_MACHINES = {
    # e_machine of elf(5), the loop
    "x86_64": (62, _X86_64),
    "aarch64": (183, _AARCH64),
    "riscv64": (243, _RISCV64),
}


def write(data: bytes | bytearray, calls: bytes | bytearray) -> int:
    """A memfd with a program, to be executed (start()). Raises OSError."""
    machine, loop = _MACHINES[os.uname().machine]
    head = _head(machine, len(loop) // 2, len(data), len(calls))
    fd = memory(executable=True)
    try:
        for address, part in ((CODE, head + bytes.fromhex(loop)), (DATA, data), (CALLS, calls)):
            os.pwrite(fd, part, address - CODE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def start(file: int, fds: list[int]) -> int:
    """Run a program (Program.load) as a child, with all signals blocked and none ignored but 32 and
    33, which the C library keeps to itself and ignores: its pid.

    fds  what it has as descriptors FIRST, FIRST + 1 ...; -1 leaves a number out
    From any thread: nothing is forked. Raises OSError: EACCES where no memfd may be executed."""
    # Out of the way, so that none is overwritten before it is its turn; the program too.
    beyond = FIRST + len(fds)
    lifted = [_dup(fd, beyond) for fd in (file, *fds) if fd >= 0]
    numbers = (to for to, fd in enumerate(fds, FIRST) if fd >= 0)
    try:
        return os.posix_spawn(
            f"/proc/self/fd/{lifted[0]}", [LAUNCHER], {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(lifted[1:], numbers)],
            setsigmask=_signal.valid_signals(), setsigdef=_signal.valid_signals(),
        )
    finally:
        for fd in lifted:
            os.close(fd)


def _dup(fd: int, least: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


def memory(executable: bool = False) -> int:
    """A descriptor of memory that several processes can have. Raises OSError: EACCES where none may
    be executed."""
    kind = _MFD_EXEC if executable else _MFD_NOEXEC_SEAL  # which Linux 6.3 began to ask for
    try:
        return os.memfd_create("vz", _MFD_CLOEXEC | kind)
    except PermissionError:
        raise OSError(
            _EACCES, "a program cannot be executed from memory here", "sysctl vm.memfd_noexec"
        ) from None
    except OSError as err:
        if err.errno != _EINVAL:
            raise
        return os.memfd_create("vz", _MFD_CLOEXEC)


def _head(machine: int, code: int, data: int, calls: int) -> bytes:
    """The ELF header and the segments (elf(5)): code to read and execute, data to read and write,
    calls too, whose arguments are results of others."""
    header = struct.pack(
        "=16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, CODE + _HEAD, 64, 0, 0,
        64, 56, 3, 0, 0, 0,
    )
    parts = ((5, CODE, _HEAD + code), (6, DATA, data), (6, CALLS, calls))
    return header + b"".join(
        struct.pack("=IIQQQQQQ", 1, flags, at - CODE, at, at, size, size, _PAGE)
        for flags, at, size in parts
    )
