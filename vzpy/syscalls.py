"""Which system calls a VPS may make, and the compiled filter.

The rule: what we know is allowed, what the user namespace cannot contain is refused, and what
nobody knew when this was written does not exist (ENOSYS, so that newer programs fall back; EPERM
would make them fail). libseccomp compiles the table; its output, made smaller by squeeze.py, is
shipped beside this file and read at start, since loading the library costs more than the rest of a
start."""

from __future__ import annotations

import os

from vzpy.errors import VzError
from vzpy.kernel.numbers import NR
from vzpy.kernel.proc import slurp

# EPERM: contained by nothing but a capability check in the kernel, or showing the host.
REFUSED = (
    "syslog",  # the host's kernel log, with the troubles of the neighbours
    "init_module finit_module delete_module kexec_load kexec_file_load",
    "swapon swapoff acct iopl ioperm lookup_dcookie",
    "open_by_handle_at",  # handles reach files outside of the root
    "bpf perf_event_open userfaultfd",  # where most kernel exploits began
)
# ENOSYS: programs are ready for kernels without it.
ABSENT = (
    "io_uring_setup io_uring_enter io_uring_register",
    "nfsservctl uselib _sysctl vm86 vm86old",
)
# Calls younger than the libseccomp of Debian 12, whose numbers all architectures share:
# cachestat .. file_setattr.
YOUNGER = range(451, 470)
_HIGHEST_KNOWN = 450

_SHIPPED = os.path.join(os.path.dirname(__file__), "filters")


def quota_handover() -> bytes:
    """The filter that hands quotactl to vzeventd: for VPSs that limit their own users."""
    from vzpy.kernel.seccomp import handover

    return handover((NR["quotactl"], NR["quotactl_fd"]))


def programs(cache: str | None = None, netfilter: str = "") -> tuple[bytes, ...]:
    """The filters that every process of a VPS gets, in the order of loading.

    netfilter  the level that its start put in force (Facts.netfilter)"""
    if netfilter != "disabled":
        return (program(cache),)
    from vzpy.netfilter import refusal

    return program(cache), refusal()


def program(cache: str | None = None) -> bytes:
    """The filter for this machine: shipped, cached in a directory, or compiled now.

    Raises VzError when it must be compiled and libseccomp is missing: a VPS is not started without
    its filter."""
    name = f"{os.uname().machine}.bpf"
    for directory in (_SHIPPED, cache):
        if directory:
            try:
                return slurp(os.path.join(directory, name))
            except FileNotFoundError:
                pass
    compiled = compile_filter()
    if cache:
        os.makedirs(cache, exist_ok=True)
        temp = os.path.join(cache, f"{name}.{os.getpid()}")
        with open(temp, "wb") as f:
            f.write(compiled)
        os.rename(temp, os.path.join(cache, name))
    return compiled


def compile_filter() -> bytes:
    """Compile the table with libseccomp, through pyseccomp.

    Raises VzError when the library or its binding is not installed."""
    try:
        import pyseccomp as s
    except (ImportError, RuntimeError) as err:
        raise VzError(
            f"The seccomp filter for {os.uname().machine} has to be compiled: {err}",
            hint="Install libseccomp2 (apt-get install libseccomp2) and pyseccomp.",
        ) from None
    import errno
    import tempfile

    from vzpy.squeeze import squeeze

    refused = set(" ".join(REFUSED).split())
    absent = set(" ".join(ABSENT).split())
    known = []
    for number in range(_HIGHEST_KNOWN + 1):
        try:
            known.append(s.resolve_syscall(s.Arch.NATIVE, number).decode())
        except ValueError:
            pass  # a hole in the table
    filt = s.SyscallFilter(s.ERRNO(errno.ENOSYS))
    filt.set_attr(s.Attr.ACT_BADARCH, s.ERRNO(errno.ENOSYS))
    filt.set_attr(s.Attr.CTL_NNP, 0)
    filt.set_attr(s.Attr.CTL_OPTIMIZE, 2)
    # The younger ones have to be in before a second architecture comes: libseccomp cannot
    # translate a number without a name.
    for number in YOUNGER:
        filt.add_rule(s.ALLOW, number)
    if os.uname().machine == "x86_64":
        filt.add_arch(s.Arch.X86)
        known += _OF_32_BIT
    for name in known:
        if name not in absent:
            filt.add_rule(s.ERRNO(errno.EPERM) if name in refused else s.ALLOW, name)
    with tempfile.TemporaryFile() as f:
        filt.export_bpf(f)
        f.seek(0)
        return squeeze(f.read())


# Calls that only the 32-bit personality has (the native resolver does not name them).
_OF_32_BIT = (
    "_llseek _newselect chown32 clock_getres_time64 clock_gettime64 clock_nanosleep_time64"
    " fadvise64_64 fchown32 fcntl64 fstat64 fstatat64 fstatfs64 ftruncate64 futex_time64"
    " getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32 getuid32"
    " io_pgetevents_time64"
    " ipc lchown32 lstat64 mmap2 mq_timedreceive_time64 mq_timedsend_time64 nice oldfstat oldlstat"
    " oldolduname oldstat olduname ppoll_time64 pselect6_time64 readdir recvmmsg_time64"
    " rt_sigtimedwait_time64 sched_rr_get_interval_time64 semtimedop_time64 send sendfile64"
    " setfsgid32 setfsuid32 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32"
    " setuid32 sgetmask sigaction signal sigpending sigprocmask sigreturn sigsuspend socketcall"
    " ssetmask stat64 statfs64 stime sync_file_range2 timer_gettime64 timer_settime64"
    " timerfd_gettime64 timerfd_settime64 truncate64 ugetrlimit umount utimensat_time64 waitpid"
    " clock_adjtime64 clock_settime64 set_thread_area get_thread_area"
).split()
