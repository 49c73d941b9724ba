"""Templates and guests that mean harm: nothing of the host is touched, read or run, and the
administrator's next command works."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tarfile
import time
from pathlib import Path

import pytest

import tools
from tools import plant, sh
from vzpy.errors import Exit, VzError
from vzpy.story import enter

DOWN = "exist unmounted down"
UP = "exist mounted running"


@pytest.fixture
def outside(bed):
    """A folder of the host that nobody may reach; its photo is the same afterwards."""
    folder = Path(bed.folder, "outside")
    for name in ("etc", "dev", "run/host", "sbin", "sys/fs/cgroup", "proc", "pts", "root"):
        (folder / name).mkdir(parents=True)
    for name in ("etc/hostname", "etc/resolv.conf", "etc/hosts", "etc/passwd", "etc/shadow"):
        (folder / name).write_text("secret of the host\n")
    (folder / "sbin/init").write_text(f"#!/bin/sh\ntouch {folder}/ran\nexec sleep 1000\n")
    (folder / "sbin/init").chmod(0o755)
    before = photo(folder)
    yield folder
    assert photo(folder) == before
    shutil.rmtree(folder)


def photo(folder: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [folder, *folder.rglob("*")]:
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        owner = (about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns)
        found[str(path)] = (*owner, content)
    return found


@pytest.fixture
def own(bed, make_node):
    """A node with templates of its own, and a way to make one: the embedded one, changed."""
    store = Path(bed.folder, "own-template")
    (store / "cache").mkdir(parents=True)
    node = make_node(str(store))

    def make(**changes) -> str:
        source = Path(bed.template, "cache/busybox-x86_64.tar")
        write_template(source, store / "cache/x.tar", changes)
        return "x"

    yield node, make
    shutil.rmtree(store)


def write_template(source: Path, target: Path, changes: dict) -> None:
    """changes: path without its first / -> target of a link (str), content (bytes), kind of node
    (tarfile's), None to leave it out. What lies below a changed path goes."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            name = member.name.removeprefix("./")
            if not any(name == path or name.startswith(f"{path}/") for path in changes):
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
        for path, what in changes.items():
            info = tarfile.TarInfo(f"./{path}")
            info.mode = 0o755
            if isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
                new.addfile(info)
            elif isinstance(what, tuple):
                (info.type,) = what
                new.addfile(info)
            elif what is not None:
                info.size = len(what)
                new.addfile(info, io.BytesIO(what))


# Every place that create, start or set writes to or mounts on; those of a line in one template.
PLACES = [
    ["etc/resolv.conf", "etc/hostname", "etc/hosts", "etc/machine-id", "etc/passwd", "etc/shadow"],
    ["tmp", "root", "var", "etc/init.d"],
    ["etc"], ["dev"], ["proc"], ["sys"], ["run"], ["sbin"], ["sbin/init"],
]  # fmt: skip
WAYS = {
    "absolute": "{outside}/{place}",
    "relative": "../../../../../../../../../../../..{outside}/{place}",
    "proc": "/proc/self/root{outside}/{place}",
    "fd": "/proc/self/fd/0",
    "loop": "{name}",
}


@pytest.mark.parametrize("way,layout", [*((way, "overlay") for way in WAYS), ("relative", "simfs")])
def test_links_of_a_template(own, outside, way, layout):
    """What comes of it may be a VPS or an error, but only inside."""
    node, make = own
    for places in PLACES:
        links = {
            place: WAYS[way].format(outside=outside, place=place, name=os.path.basename(place))
            for place in places
        }
        try:
            vps = node.create(101, ostemplate=make(**links), layout=layout, hostname="h.example",
                              nameserver="192.0.2.1")
        except VzError as err:
            assert err.code in (Exit.FS_NEW_VE_PRVT, Exit.FS_BAD_TMPL), (places, err)
            assert str(node.vps(101).status) == "deleted unmounted down"
            continue
        try:
            vps.start()
        except VzError as err:
            assert err.code in (Exit.FS_BAD_TMPL, Exit.ENVCREATE), (places, err)
            assert str(vps.status) == DOWN, places
        else:
            vps.exec(["sh", "-c", "echo x >/etc/new; cat /etc/hostname"])
            vps.stop(fast=True)
        try:
            vps.set(hostname="other.example", userpasswd="root:secret")
        except VzError:
            pass
        vps.destroy()


def test_links_that_the_guest_makes_itself(vps, outside, vzctl):
    """While it runs: what is applied to a running VPS is written by nobody of the host."""
    vps.start()
    for place in ("hostname", "resolv.conf", "hosts", "passwd", "shadow"):
        sh(vps, f"ln -sf {outside}/etc/{place} /etc/{place}")
    vzctl("set", 101, "--hostname", "new.example", "--nameserver", "192.0.2.1", "--save")
    vzctl("set", 101, "--userpasswd", "root:secret")
    vzctl("stop", 101, "--fast")
    vzctl("set", 101, "--userpasswd", "root:secret")
    vzctl("start", 101)


@pytest.mark.parametrize("changes", [
    {"dev/null": b"a file, not a device"}, {"dev": None}, {"dev": b"a file"}, {"proc": None},
    {"sys": None}, {"run": None}, {"run": b""}, {"etc/hostname": (tarfile.FIFOTYPE,)},
    {"etc/machine-id": (tarfile.FIFOTYPE,)}, {"etc/resolv.conf": (tarfile.FIFOTYPE,)},
    {"etc": None}, {"etc": b""}, {"dev/console": (tarfile.FIFOTYPE,)}, {"dev/pts": b"x"},
    {"etc/os-release": (tarfile.FIFOTYPE,)}, {"etc/os-release": b"\xff\0=" * 9999},
], ids=lambda c: "{}={}".format(*next((k, type(v).__name__) for k, v in c.items())))  # fmt: skip
def test_strange_files_of_a_template(own, changes):
    """No hang; it starts, or says why not."""
    node, make = own
    begun = time.monotonic()
    try:
        vps = node.create(101, ostemplate=make(**changes), hostname="h.example")
        vps.start()
    except VzError as err:
        assert err.code in (Exit.FS_BAD_TMPL, Exit.ENVCREATE, Exit.FS_NEW_VE_PRVT)
        assert str(node.vps(101).status).endswith("unmounted down")
    else:
        assert sh(vps, "echo x >/dev/null; hostname") == "h.example\n"
    assert time.monotonic() - begun < 30 * tools.PATIENCE


class TestInit:
    """What is started as process 1."""

    ARM = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 183, 1) + bytes(200)
    CASES = {
        "missing": "/no/such/init",
        "loop": "init",
        "not executable": b"#!/bin/sh\n",
        "of another architecture": ARM,
        "without an interpreter": b"#!/no/such/interpreter\n",
        "empty": b"",
        "rubbish": b"\0\1\2\3" * 100,
        "truncated": ARM[:20],
    }

    @pytest.mark.parametrize("case", CASES)
    def test_cannot_be_executed(self, vps, vzctl, case):
        what = self.CASES[case]
        if isinstance(what, str):
            plant(vps, "/sbin/init", link=what)
        else:
            plant(vps, "/sbin/init", what, 0o644 if case == "not executable" else 0o755)
        for path in ("/etc/init", "/bin/init"):
            plant(vps, path, link="/no/such")
        ran = vzctl("start", 101)
        assert ran.code == 47, ran
        assert "Unable to start init, probably incorrect template\n" in ran.stderr
        assert "Container start failed\n" in ran.stderr and "/sbin/init" in ran.stderr
        assert vzctl("status", 101).stdout == f"CTID 101 {DOWN}\n"

    @pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device 0:0"])
    def test_is_no_file(self, vps, vzctl, kind):
        at = plant(vps, "/sbin/init")
        at.unlink()
        if kind == "directory":
            at.mkdir()
        elif kind == "device 0:0":
            os.mknod(at, stat.S_IFCHR | 0o755)  # overlayfs takes it for a whiteout: missing
        else:
            os.mknod(at, {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}[kind] | 0o755)
        assert vzctl("start", 101).code == 47
        assert vzctl("status", 101).stdout == f"CTID 101 {DOWN}\n"

    @pytest.mark.parametrize("line", ["exit 0", "exit 3", "kill -9 $$; exit 1", "poweroff -f"])
    def test_ends_at_once(self, parent, vps, vzctl, line):
        plant(vps, "/sbin/init", f"#!/bin/sh\n{line}\n", 0o755)
        assert vzctl("start", 101).code in (0, 47)
        tools.wait_for(lambda: vzctl("status", 101).stdout == f"CTID 101 {DOWN}\n", 10)
        assert vzctl("exec", 101, "true").code == 8
        assert vzctl("stop", 101).code == 0

    def test_is_the_second_that_is_tried(self, vps):
        plant(vps, "/sbin/init", link="/no/such")
        plant(vps, "/etc/init", tools.IDLE, 0o755)
        vps.start()
        assert vps.status.running


class TestGuest:
    """The root of a running VPS against whoever comes in or takes it down."""

    @pytest.fixture
    def up(self, vps):
        vps.start()
        return vps

    def gone(self, vps) -> None:
        begun = time.monotonic()
        vps.stop(fast=True)
        assert time.monotonic() - begun < 30 * tools.PATIENCE
        assert str(vps.status) == DOWN

    def test_another_thing_in_place_of_ptmx(self, up, vzctl):
        sh(up, "mount -t tmpfs none /dev/pts")
        for make in ("mkfifo /dev/pts/ptmx", "echo x >/dev/pts/ptmx", "mkdir /dev/pts/ptmx",
                     "ln -s /dev/null /dev/pts/ptmx"):  # fmt: skip
            sh(up, make)
            ran = vzctl("enter", 101, stdin=b"exit\n", timeout=90)
            assert ran.code and "enter into CT 101 failed" in ran.stdout, (make, ran)
            assert "Traceback" not in ran.stderr
            sh(up, "rm -r /dev/pts/ptmx")
        self.gone(up)

    def test_mounts_over_everything(self, up, vzctl):
        sh(up, "for d in sys/fs/cgroup proc sys dev run tmp etc var; do"
               " busybox mount -t tmpfs none /$d; done")
        assert sh(up, "echo in") == "in\n"
        assert vzctl("exec", 101, "echo in").stdout == "in\n"
        up.exec(["sh", "-c", "mount -t tmpfs none /bin"])
        assert vzctl("exec", 101, "echo in").code == 8
        self.gone(up)

    def test_a_thousand_mounts(self, up):
        sh(up, "mkdir /m; i=0; while [ $i -lt 1000 ]; do mount -t tmpfs none /m; i=$((i+1)); done")
        assert sh(up, "echo in") == "in\n"
        self.gone(up)

    def test_a_thousand_cgroups(self, up):
        """With threads in a threaded subtree, processes at many depths, one of them frozen."""
        sh(up, """
            cd /sys/fs/cgroup; i=0
            while [ $i -lt 1000 ]; do mkdir -p g$((i%10))/h$i; i=$((i+1)); done
            exec >/dev/null 2>&1
            for d in g0/h0 g1/h1 g2/h2; do sleep 999 & echo $! >$d/cgroup.procs; done
            d=.; for x in 1 2 3 4 5 6 7 8 9 10; do d=$d/deep; mkdir $d; done
            sleep 999 & echo $! >$d/cgroup.procs
            echo 1 >g0/cgroup.freeze; mkdir t; echo threaded >t/cgroup.type; true""")
        assert sh(up, "echo in") == "in\n"
        self.gone(up)

    def test_cgroups_with_the_names_of_leaves(self, up):
        sh(up, "cd /sys/fs/cgroup; for i in $(seq 0 300); do mkdir .vz-$i-0; done;"
               " sleep 99 >/dev/null 2>&1 & echo $! >.vz-7-0/cgroup.procs")
        assert sh(up, "echo in") == "in\n"
        self.gone(up)

    def test_a_frozen_program(self, up):
        """Who comes in is moved into a frozen cgroup, before or after it has become a program."""
        up.exec(["sh", "-c", """
            cd /sys/fs/cgroup; mkdir jail; echo 1 >jail/cgroup.freeze
            echo $$ >cgroup.procs  # or it would be the first in the jail
            (while :; do for f in .vz-*/cgroup.procs; do while read p; do
                [ $p != 0 ] && echo $p >jail/cgroup.procs; done <$f; done 2>/dev/null; done) &
            echo $! >cgroup.procs"""], timeout=20)  # fmt: skip
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(VzError) as caught:
                up.exec(["sleep", "3600"], timeout=1)
            assert caught.value.code == Exit.EXEC_TIMEOUT
        assert time.monotonic() - begun < 20 * tools.PATIENCE
        self.gone(up)

    def test_a_program_frozen_before_it_is_one(self, up, monkeypatch):
        monkeypatch.setattr(enter, "_LAUNCH_TIMEOUT", 0.5)
        real = enter.Program.start

        def frozen(calls, fds):
            leaf = fds[2]
            Path(f"/proc/self/fd/{leaf}", "cgroup.freeze").write_text("1")
            return real(calls, fds)

        monkeypatch.setattr(enter.Program, "start", frozen)
        begun = time.monotonic()
        with pytest.raises(VzError) as caught:
            up.exec(["true"])
        assert caught.value.code == Exit.EXEC_TIMEOUT
        assert time.monotonic() - begun < 10 * tools.PATIENCE
        monkeypatch.undo()
        assert sh(up, "ps | grep -c [p]ython || true") == "0\n"
        assert not list(Path(up.running().cgroup, "ve").glob(".vz-*"))

    def test_a_stopped_program(self, up):
        """SIGSTOP to all, again and again."""
        up.exec(["sh", "-c", "(trap '' HUP; while :; do for p in /proc/[0-9]*; do p=${p#/proc/};"
                 " [ $p != 1 ] && [ $p != $$ ] && kill -STOP $p; done 2>/dev/null; done)"
                 " >/dev/null 2>&1 & sleep 0.1"], timeout=20)
        with pytest.raises(VzError) as caught:
            up.exec(["sleep", "3600"], timeout=1)
        assert caught.value.code == Exit.EXEC_TIMEOUT
        self.gone(up)

    def test_descriptors_held_for_ever(self, up, vzctl):
        """The pipes of every command are kept open by somebody inside."""
        begun = time.monotonic()
        for _ in range(5):
            assert vzctl("exec", 101, "sleep 3600 & echo in").stdout == "in\n"
        assert time.monotonic() - begun < 15 * tools.PATIENCE
        self.gone(up)

    def test_rights_taken_from_everything(self, up, vzctl):
        sh(up, "chmod 000 /etc /root /tmp /var /; chown 1000:1000 /")
        assert sh(up, "echo in") == "in\n"
        self.gone(up)
        assert vzctl("start", 101).code == 0
        assert vzctl("exec", 101, "echo in").stdout == "in\n"

    def test_a_shell_that_is_proc_self_exe(self, up, vzctl, outside):
        """CVE-2019-5736: whoever executes /proc/self/exe must not hand in the host's program."""
        sh(up, "rm /bin/sh; ln -s /proc/self/exe /bin/sh")
        python = os.path.realpath("/usr/bin/python3")
        before = (os.stat(python).st_mtime_ns, os.stat(python).st_size)
        for action in ("exec", "exec2"):
            ran = vzctl(action, 101, "echo in")
            assert ran.code and ran.stdout == "", ran
        done = up.exec(["ls", "-l", "/proc/1/exe", "/proc/self/exe"])
        assert b"python" not in done.stdout and b"/bin/busybox" in done.stdout
        assert (os.stat(python).st_mtime_ns, os.stat(python).st_size) == before

    def test_the_host_s_program_cannot_be_reopened(self, up):
        """While a task of ours is inside it is not dumpable: its /proc entry is the host's."""
        up.exec(["sh", "-c", """(while :; do for p in /proc/[0-9]*; do
            case $(readlink $p/exe) in *python*) : >>$p/exe && touch /GOT; readlink $p/fd/*;; esac
            done; done) >/run/seen 2>/dev/null &"""], timeout=20)
        for _ in range(40):
            up.exec(["true"])
        assert sh(up, "ls /GOT 2>/dev/null; cat /run/seen") == ""
        self.gone(up)

    def test_many_processes(self, node):
        flood(node, 1000)

    @tools.slow
    def test_ten_thousand_processes(self, node):
        flood(node, 10000)

    def test_a_fork_bomb(self, up):
        """Whatever it takes, --fast ends it."""
        script = "f() { f | f & }; ulimit -u 3000; f"
        up.exec(["sh", "-c", f"({script}) >/dev/null 2>&1 </dev/null &"], timeout=20)
        time.sleep(0.5)
        self.gone(up)

    def test_init_made_deaf(self, vps):
        """Process 1 that ignores all: stop asks, waits for STOP_TIMEOUT, kills."""
        plant(vps, "/sbin/init", "#!/bin/sh\ntrap '' TERM INT HUP USR1 USR2 PWR\n"
              "while :; do sleep 1000; done\n", 0o755)
        vps.set(stop_timeout=2)
        vps.start()
        begun = time.monotonic()
        vps.stop()
        assert time.monotonic() - begun < 20 * tools.PATIENCE
        assert str(vps.status) == DOWN


def flood(node, count: int) -> None:
    vps = node.create(101, numproc=str(count + 500))
    vps.start()
    line = f"exec >/dev/null; i=0; while [ $i -lt {count} ]; do sleep 999 2>&1 & i=$((i+1)); done"
    vps.exec(["sh", "-c", line], timeout=500)
    assert len(sh(vps, "echo /proc/[0-9]*").split()) > count
    begun = time.monotonic()
    vps.stop(fast=True)
    assert time.monotonic() - begun < 60 * tools.PATIENCE
    assert str(vps.status) == DOWN


def test_a_private_area_with_links_in_place_of_its_folders(node, vps, outside, vzctl):
    """Nobody but root can make them; still nothing outside is touched."""
    upper = Path(vps.private, "upper")
    shutil.rmtree(upper)
    upper.symlink_to(outside)
    ran = vzctl("start", 101)
    assert ran.code == 47 and f"{upper} is not a directory" in ran.stderr, ran
    assert vzctl("destroy", 101).code == 0
