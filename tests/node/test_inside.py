"""What a VPS is, seen from inside: as if the machine had just been switched on, and no host."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest

import tools
from tools import IDLE, plant, sh
from vzpy import capabilities
from vzpy.kernel import caps

MASK = f"{capabilities.bounding({}):016x}"
# What /proc/PID/status has after a boot; a fresh process of the kernel's, but for the filter.
FRESH = {
    "Umask": "0022",
    "TracerPid": "0",
    "Uid": "0 0 0 0",
    "Gid": "0 0 0 0",
    "Groups": "",
    "SigPnd": "0" * 16,
    "ShdPnd": "0" * 16,
    "SigBlk": "0" * 16,
    "SigIgn": "0" * 16,
    "SigCgt": "0" * 16,
    "CapInh": "0" * 16,
    "CapPrm": MASK,
    "CapEff": MASK,
    "CapBnd": MASK,
    "CapAmb": "0" * 16,
    "NoNewPrivs": "0",
    "Seccomp": "2",
    "Seccomp_filters": "1",
}
# gotcha G22: what the kernel gives its first process; systemd's hard limit of descriptors.
LIMITS = {
    "Max cpu time": ("unlimited", "unlimited"),
    "Max file size": ("unlimited", "unlimited"),
    "Max data size": ("unlimited", "unlimited"),
    "Max stack size": ("8388608", "unlimited"),
    "Max core file size": ("0", "unlimited"),
    "Max resident set": ("unlimited", "unlimited"),
    "Max open files": ("1024", "524288"),
    "Max locked memory": ("8388608", "8388608"),
    "Max address space": ("unlimited", "unlimited"),
    "Max file locks": ("unlimited", "unlimited"),
    "Max msgqueue size": ("819200", "819200"),
    "Max nice priority": ("0", "0"),
    "Max realtime priority": ("0", "0"),
    "Max realtime timeout": ("unlimited", "unlimited"),
}


def dirty() -> None:
    """An administrator's shell at its worst, in the process that becomes the tool."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2, 40})
    os.umask(0o077)
    os.nice(7)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.setgroups([4, 27])
    os.chdir("/usr/bin")
    Path("/proc/self/oom_score_adj").write_text("500")
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_AS):
        hard = resource.getrlimit(limit)[1]
        soft = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_STACK: 1 << 20}.get(limit, 1 << 40)
        resource.setrlimit(limit, (soft, hard))
    ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE
    os.set_inheritable(os.open("/etc/shadow", os.O_RDONLY), True)
    os.dup2(os.open("/", os.O_RDONLY), 77)


DIRT = {"LD_LIBRARY_PATH": "/tmp", "SECRET": "of the host", "PYTHONPATH": "/tmp", "LANG": "xx"}


@pytest.fixture(scope="module")
def idle(bed):
    """A VPS whose init does nothing, started from a dirty shell; one for all that only look."""
    node = bed.node()
    vps = node.create(101)
    plant(vps, "/sbin/init", IDLE, 0o755)
    ran = tools.run_tool(node, ("vzctl", "start", 101), preexec_fn=dirty, env=DIRT, close_fds=False)
    assert ran.code == 0, ran
    tools.wait_for(lambda: "sleep" in sh(vps, "cat /proc/1/cmdline"))
    yield vps
    bed.clear(node)


@pytest.fixture
def run_dirty(idle):
    """Run a shell line inside from a dirty shell."""

    def run(line: str) -> str:
        ran = tools.run_tool(idle.node, ("vzctl", "exec", 101, line), preexec_fn=dirty, env=DIRT,
                             close_fds=False)
        assert ran.code == 0, ran
        return ran.stdout

    return run


def status_of(text: str) -> dict[str, str]:
    rows = (line.split(":", 1) for line in text.splitlines())
    return {name: " ".join(value.split()) for name, value in rows}


def limits_of(text: str) -> dict[str, tuple[str, str]]:
    found = {}
    for line in text.splitlines()[1:]:
        soft, hard = line[26:].split()[:2]
        found[line[:26].strip()] = (soft, hard)
    return found


def check_status(text: str) -> None:
    status = status_of(text)
    assert {key: status[key] for key in FRESH} == FRESH
    assert status["Cpus_allowed_list"] == Path(
        "/sys/devices/system/cpu/online").read_text().strip()


def check_limits(text: str) -> None:
    limits = limits_of(text)
    privileged = caps.bounding_of(os.getpid()) & caps.mask(["sys_resource"])
    for name, (soft, hard) in LIMITS.items():
        assert limits[name][0] == soft, name
        if privileged:
            assert limits[name][1] == hard, name


class TestCleanProcess:
    """DESIGN 2.5: init and whatever is exec'ed."""

    def test_status(self, idle):
        check_status(sh(idle, "cat /proc/1/status"))

    def test_status_of_exec(self, run_dirty):
        check_status(run_dirty("exec cat /proc/self/status"))

    def test_limits(self, idle):
        check_limits(sh(idle, "cat /proc/1/limits"))

    def test_limits_of_exec(self, run_dirty):
        check_limits(run_dirty("exec cat /proc/self/limits"))

    def test_environment(self, idle):
        env = dict(x.split("=", 1) for x in sh(idle, "cat /proc/1/environ").split("\0") if x)
        assert re.fullmatch("[0-9a-f-]{36}", env.pop("container_uuid"))
        # The last three are of the shell that is this init.
        for own in ("PATH", "PWD", "SHLVL"):
            env.pop(own, None)
        assert env == {"HOME": "/", "TERM": "linux", "container": "vzpy"}

    def test_environment_of_exec(self, run_dirty):
        env = run_dirty("exec cat /proc/self/environ").split("\0")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        assert {x for x in env if x and not x.startswith(("PWD=", "SHLVL=", "_="))} == {
            f"PATH={path}", "HOME=/", "TERM=linux"}

    def test_descriptors(self, idle):
        init = f"/proc/{idle.running().pid}/fd"
        assert sorted(os.listdir(init)) == ["0", "1", "2"]
        assert {os.readlink(f"{init}/{n}") for n in "012"} == {"/dev/console"} or {
            os.readlink(f"{init}/{n}") for n in "012"} <= {"/dev/console", "/null", "/dev/null"}
        assert sh(idle, "readlink /proc/1/fd/0") == "/dev/console\n"

    def test_descriptors_of_exec(self, run_dirty):
        listed = run_dirty("exec ls -l /proc/self/fd")
        targets = [line.partition(" -> ")[2] for line in listed.splitlines() if " -> " in line]
        assert len(targets) >= 3 and all(t.startswith("pipe:") for t in targets[:3])
        assert all("/proc/" in t for t in targets[3:])  # of ls itself

    @pytest.mark.parametrize("who", ["1", "self"])
    def test_scheduling(self, idle, run_dirty, who):
        stat = run_dirty(f"cat /proc/{who}/stat").rpartition(")")[2].split()
        nice, threads, policy = stat[16], stat[17], stat[38]
        assert (nice, threads, policy) == ("0", "1", "0")
        assert run_dirty(f"cat /proc/{who}/oom_score_adj") == "0\n"
        assert run_dirty(f"cat /proc/{who}/personality") == "00000000\n"

    def test_session(self, idle, run_dirty):
        for who in ("1", "self"):
            stat = run_dirty(f"exec cat /proc/{who}/stat").rpartition(")")[2].split()
            pgrp, session, tty = stat[2], stat[3], stat[4]
            assert pgrp == session != "0"
            assert tty == "0"

    def test_keyring(self, idle):
        """A key in the session keyring of the caller is not one of the VPS."""
        add_key, ours = 248, b"vzpy-node-suite"
        libc = ctypes.CDLL(None, use_errno=True)
        if os.uname().machine != "x86_64":
            pytest.skip("needs the number of add_key(2)")
        session_keyring = ctypes.c_int(-3)
        key = libc.syscall(add_key, b"user", ours, b"secret", 6, session_keyring)
        assert key > 0
        try:
            assert ours.decode() not in sh(idle, "cat /proc/keys")
            assert "1 keyring" not in sh(idle, "cat /proc/1/status")
        finally:
            libc.syscall(250, 3, key, 0, 0, 0)  # KEYCTL_REVOKE

    def test_where(self, run_dirty):
        assert run_dirty("pwd; id -u; id -G; umask") == "/\n0\n0\n0022\n"


class TestNamespaces:
    def test_uptime_starts_at_zero(self, idle):
        age = time.time() - idle.facts().started
        inside = float(sh(idle, "cat /proc/uptime").split()[0])
        assert age - 2 < inside < age + 5 * tools.PATIENCE  # it had begun when that was noted
        assert inside < float(Path("/proc/uptime").read_text().split()[0]) - 2

    def test_every_kind_is_its_own(self, idle):
        for name in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"):
            inside = sh(idle, f"readlink /proc/1/ns/{name}").strip()
            assert inside != os.readlink(f"/proc/self/ns/{name}"), name
            assert sh(idle, f"readlink /proc/self/ns/{name}").strip() == inside, name

    def test_no_process_of_the_host_shows(self, idle):
        assert len(sh(idle, "cd /proc; echo [0-9]*").split()) == 2
        names = sh(idle, "cat /proc/[0-9]*/comm").split()
        assert set(names) <= {"sleep", "cat", "sh"}
        assert sh(idle, "cat /proc/1/stat").split(")")[1].split()[1] == "0"  # no parent

    def test_ids(self, idle):
        assert sh(idle, "cat /proc/self/uid_map").split() == ["0", str(idle.ids.base), "65536"]
        assert sh(idle, "cat /proc/self/gid_map").split() == ["0", str(idle.ids.base), "65536"]
        assert os.stat(f"/proc/{idle.running().pid}").st_uid == idle.ids.base

    def test_the_way_in_the_tree_is_its_own(self, idle):
        lines = sh(idle, "cat /proc/self/cgroup").splitlines()
        assert lines[-1].startswith("0::/") and ".." not in lines[-1]
        assert sh(idle, "cat /proc/1/cgroup").splitlines()[-1] == "0::/"
        assert "cgroup.type" in sh(idle, "ls /sys/fs/cgroup")

    def test_a_hostname_of_its_own(self, node):
        vps = node.create(102, hostname="two.example")
        before = os.uname().nodename
        vps.start()
        assert sh(vps, "hostname; cat /proc/sys/kernel/hostname /etc/hostname") == (
            "two.example\n" * 3)
        sh(vps, "hostname other")
        assert os.uname().nodename == before

    def test_loopback_is_up(self, idle):
        assert "<LOOPBACK,UP" in sh(idle, "ip link show lo")
        assert sh(idle, "ls /proc/sys/net/ipv4/conf") == "all\ndefault\nlo\n"

    def test_nested_namespaces(self, idle):
        """What rootless containers and systemd's sandboxes do (gotcha G6: mount_too_revealing)."""
        line = "unshare -Urmpf sh -c 'mount -t proc none /proc && echo /proc/[0-9]*'"
        assert sh(idle, line).split()[0] == "/proc/1"
        line = "unshare -Urmn sh -c 'mount -t sysfs none /sys && ls /sys/class/net'"
        assert sh(idle, line) == "lo\n"

    def test_machine_id(self, vps):
        vps.start()
        assert sh(vps, "cat /etc/machine-id") == ""
        uuid = sh(vps, "cat /run/host/container-uuid").strip()
        assert f"container_uuid={uuid}" in sh(vps, "cat /proc/1/environ").split("\0")
        vps.stop(fast=True)
        vps.start()
        assert sh(vps, "cat /run/host/container-uuid").strip() == uuid


class TestMounts:
    def test_no_path_of_the_host(self, idle):
        table = sh(idle, "cat /proc/self/mountinfo /proc/mounts")
        host = str(tools.CACHE)
        assert host not in table and idle.private not in table and "/private" not in table
        roots = {line.split()[3] for line in sh(idle, "cat /proc/self/mountinfo").splitlines()}
        assert roots <= {"/", "/null", "/zero", "/full", "/random", "/urandom", "/tty"} | {
            f"/{n}" for n in range(9)}

    def test_table(self, idle):
        lines = [line.split() for line in sh(idle, "cat /proc/mounts").splitlines()]
        found = {(point, kind) for _, point, kind, *_ in lines}
        assert {
            ("/", "overlay"), ("/proc", "proc"), ("/sys", "sysfs"), ("/sys/fs/cgroup", "cgroup2"),
            ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"),
            ("/dev/mqueue", "mqueue"), ("/run", "tmpfs"),
        } <= found  # fmt: skip
        options = {point: rest[0].split(",") for _, point, _, *rest in lines}
        assert "ro" in options["/sys"] and "rw" in options["/proc"]
        for point in ("/proc", "/sys", "/sys/fs/cgroup", "/dev/pts"):
            assert {"nosuid", "noexec"} <= set(options[point])

    def test_sys_is_read_only(self, idle):
        assert idle.exec(["mkdir", "/sys/x"]).returncode
        assert idle.exec(["sh", "-c", "echo 1 >/sys/kernel/mm/ksm/run"]).returncode
        assert b"Read-only" in idle.exec(["sh", "-c", "echo 1 >/sys/kernel/uevent_seqnum"]).stderr
        assert sh(idle, "ls /sys/block /sys/firmware /sys/class/block /sys/dev/block | grep -v :"
                  ).split() == []

    def test_shared(self, idle):
        """Credentials of systemd's services need it (G9)."""
        lines = sh(idle, "cat /proc/self/mountinfo").splitlines()
        assert all("shared:" in line for line in lines)

    def test_nothing_comes_in_from_the_host(self, idle):
        """A mount that the host makes on a device node of its own stays there."""
        lines = sh(idle, "cat /proc/self/mountinfo").splitlines()
        assert [line for line in lines if "master:" in line] == []

    def test_devices(self, idle):
        assert sh(idle, "ls /dev").split() == [
            "console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero"]  # fmt: skip
        assert sh(idle, "echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom"
                  " | wc -c") == "4\n4\n"
        links = "for x in ptmx fd stdin stdout stderr; do readlink /dev/$x; done"
        assert sh(idle, links).split() == [
            "pts/ptmx", "/proc/self/fd", *(f"/proc/self/fd/{n}" for n in range(3))]

    def test_run_host(self, idle):
        assert sh(idle, "cat /run/host/container-manager") == "vzpy\n"
        assert sh(idle, "cd /run/host/inaccessible; stat -c '%n %a %F' *").splitlines() == [
            "chr 0 character special file", "dir 0 directory", "fifo 0 fifo",
            "reg 0 regular empty file", "sock 0 socket"]  # fmt: skip


class TestRefused:
    """Whatever would reach the host."""

    @pytest.mark.parametrize("path", [
        "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/panic", "/proc/sys/vm/drop_caches", "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/printk", "/proc/irq/default_smp_affinity",
        "/proc/sys/vm/overcommit_memory", "/proc/1/oom_score_adj", "/sys/power/state",
        "/sys/kernel/uevent_helper", "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/randomize_va_space",
    ])  # fmt: skip
    def test_files(self, idle, path):
        done = idle.exec(["sh", "-c", f"echo -900 >{path}"])
        assert done.returncode, done

    @pytest.mark.parametrize("device", [
        "b 8 0", "b 254 0", "c 1 1", "c 1 11", "c 10 200", "c 4 0", "b 7 0", "c 5 1"])
    def test_mknod(self, idle, device):
        assert idle.exec(["sh", "-c", f"mknod /dev/x {device}"]).returncode
        assert idle.exec(["sh", "-c", f"mknod /root/x {device}"]).returncode

    @pytest.mark.parametrize("line", [
        "cat /dev/mem", "cat /proc/kcore", "cat /proc/kmsg", "modprobe dummy",
        "insmod /bin/busybox", "swapon /root/x", "mount -t ext4 /dev/vda /mnt", "dmesg",
        "mount -t debugfs none /mnt", "mount -t tracefs none /mnt", "mount -o remount,rw /sys",
        "hwclock -w", "losetup /dev/loop0 /bin/busybox", "chroot /proc/1/root/.."
        " cat /etc/debian_version", "renice -n -5 1", "ionice -c 1 true",
    ])  # fmt: skip
    def test_commands(self, idle, line):
        before = Path("/proc/mounts").read_text()
        done = idle.exec(["sh", "-c", f"echo x >/root/x; {line}"])
        assert done.returncode, done
        assert Path("/proc/mounts").read_text() == before

    def test_the_clock(self, idle):
        assert b"not permitted" in idle.exec(["date", "-s", "2001-01-01"]).stderr

    def test_a_nested_root_gains_nothing(self, idle):
        done = idle.exec(["unshare", "-Urm", "sh", "-c", "mount -o remount,bind,rw /sys && echo 1"])
        assert done.returncode, done


# System calls are made by this host's python, handed in as a program without libraries: a static
# busybox has no way to make an arbitrary one. Each: number, arguments, errno expected.
EPERM, ENOSYS = 1, 38
X32 = 0x40000000
CALLS = [
    ("syslog", 103, (3, 0, 0), EPERM),
    ("init_module", 175, (0, 0, 0), EPERM),
    ("finit_module", 313, (0, 0, 0), EPERM),
    ("delete_module", 176, (0, 0), EPERM),
    ("kexec_load", 246, (0, 0, 0, 0), EPERM),
    ("open_by_handle_at", 304, (0, 0, 0), EPERM),
    ("bpf", 321, (0, 0, 0), EPERM),
    ("perf_event_open", 298, (0, 0, 0, 0, 0), EPERM),
    ("iopl", 172, (3,), EPERM),
    ("acct", 163, (0,), EPERM),
    ("io_uring_setup", 425, (0, 0), ENOSYS),
    ("unknown", 999, (), ENOSYS),
    ("unknown, large", 100000, (), ENOSYS),
    ("getpid of x32", X32 + 39, (), ENOSYS),
    ("syslog of x32", X32 + 103, (3, 0, 0), ENOSYS),
    ("reboot with a bad magic", 169, (0, 0, 0), 22),
]


def machine_code(number: int, args: tuple[int, ...]) -> bytes:
    """An x86-64 program: one system call; its exit status is the errno, 255 for success."""
    code = b""
    registers = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
    for register, value in zip(registers, args):  # mov $value, %rdi ...
        code += register + value.to_bytes(8, "little")
    code += b"\x48\xb8" + number.to_bytes(8, "little") + b"\x0f\x05"  # mov %rax; syscall
    code += b"\x48\xf7\xd8"  # neg %rax
    code += b"\x48\x89\xc7"  # mov %rax, %rdi
    code += b"\x48\x85\xff\x7f\x05\xbf\xff\x00\x00\x00"  # test; jg +5; mov $255, %edi
    code += b"\xb8\x3c\x00\x00\x00\x0f\x05"  # exit
    return elf(code)


def elf(code: bytes) -> bytes:
    """The smallest static ELF-64 around some code."""
    base, size = 0x400000, 120 + len(code)
    word = [n.to_bytes(8, "little") for n in (base + 120, 64, 0)]
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00\x01\x00\x00\x00" + b"".join(word)
    head += b"\x00\x00\x00\x00\x40\x00\x38\x00\x01\x00" + bytes(6)
    segment = b"\x01\x00\x00\x00\x05\x00\x00\x00" + b"".join(
        n.to_bytes(8, "little") for n in (0, base, base, size, size, 0x1000))
    return head + segment + code


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86_64: machine code")
class TestSystemCalls:
    def call(self, vps, number, *args) -> int:
        program = machine_code(number, args)
        made = vps.exec(["sh", "-c", "cat >/run/call; chmod 755 /run/call"], stdin=program)
        assert made.returncode == 0
        return vps.exec(["/run/call"]).returncode

    @pytest.mark.parametrize("name,number,args,errno", CALLS, ids=[c[0] for c in CALLS])
    def test_filter(self, idle, name, number, args, errno):
        assert self.call(idle, number, *args) == errno

    def test_the_program_works(self, idle):
        """getpid succeeds, and an errno comes through: closing what is not open."""
        assert self.call(idle, 39) > 9
        assert self.call(idle, 3, 99) == 9
