"""Numbers of the system calls that lists of calls (program.py) are made of, for this machine.

From asm/unistd_64.h and asm-generic/unistd.h, which aarch64 and riscv64 share."""

from __future__ import annotations

import os

_TABLE = """
    bind 49 200             capset 126 91           chdir 80 49
    close 3 57              close_range 436 436     clone3 435 435
    dup3 292 24             execve 59 221           exit_group 231 94
    faccessat 269 48        fcntl 72 25             nanosleep 35 101
    reboot 169 142          fchdir 81 50            ioctl 16 29             ioprio_set 251 30
    keyctl 250 219          kill 62 129             mkdirat 258 34          mknodat 259 33
    mount 165 40            move_mount 429 429      open_tree 428 428
    openat 257 56           personality 135 92      pivot_root 155 41
    prctl 157 167           prlimit64 302 261       recvfrom 45 207
    rt_sigaction 13 134     rt_sigprocmask 14 135   sched_setaffinity 203 122
    sched_setscheduler 144 119  seccomp 317 277     sendmsg 46 211
    sendto 44 206           sethostname 170 161     setgroups 116 159
    setns 308 268           setpriority 141 140     setresgid 119 149
    setresuid 117 147       setsid 112 157          socket 41 198
    symlinkat 266 36        umask 95 166            umount2 166 39
    unshare 272 97          write 1 64              unlinkat 263 35
    fsopen 430 430          fsconfig 431 431        fsmount 432 432
    openat2 437 437         mount_setattr 442 442
""".split()
_COLUMN = {"x86_64": 1, "aarch64": 2, "riscv64": 2}.get(os.uname().machine, 0)

NR = {
    name: int(_TABLE[at + _COLUMN])
    for at, name in enumerate(_TABLE)
    if _COLUMN and not at % 3
}
