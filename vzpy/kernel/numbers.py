"""Numbers of the system calls that are made by number, for this machine; -1 on an unknown one.

From asm/unistd_64.h and asm-generic/unistd.h, which aarch64 and riscv64 share."""

from __future__ import annotations

import os

_TABLE = """
    bind 49 200                    bpf 321 280                    capset 126 91
    chdir 80 49                    clone3 435 435                 close_range 436 436
    dup3 292 24                    execve 59 221                  exit_group 231 94
    faccessat 269 48               fchdir 81 50                   fcntl 72 25
    fsconfig 431 431               fsmount 432 432                fsopen 430 430
    fspick 433 433                 ioctl 16 29                    ioprio_set 251 30
    keyctl 250 219                 kill 62 129                    mkdirat 258 34
    mknodat 259 33                 mmap 9 222                     mount 165 40
    mount_setattr 442 442          move_mount 429 429             nanosleep 35 101
    open_tree 428 428              openat 257 56                  openat2 437 437
    personality 135 92             pidfd_getfd 438 438            pidfd_send_signal 424 424
    pivot_root 155 41              prctl 157 167                  prlimit64 302 261
    quotactl 179 60                quotactl_fd 443 443            reboot 169 142
    recvfrom 45 207                recvmsg 47 212                 rt_sigaction 13 134
    rt_sigprocmask 14 135          rt_sigtimedwait 128 137        sched_setaffinity 203 122
    sched_setscheduler 144 119     seccomp 317 277                sendmsg 46 211
    sendto 44 206                  setgroups 116 159              sethostname 170 161
    setns 308 268                  setpriority 141 140            setresgid 119 149
    setresuid 117 147              setsid 112 157                 socket 41 198
    symlinkat 266 36               umask 95 166                   umount2 166 39
    unlinkat 263 35                unshare 272 97                 write 1 64
""".split()
_COLUMN = {"x86_64": 1, "aarch64": 2, "riscv64": 2}.get(os.uname().machine, 0)

NR = {
    name: int(_TABLE[at + _COLUMN]) if _COLUMN else -1
    for at, name in enumerate(_TABLE)
    if not at % 3
}
