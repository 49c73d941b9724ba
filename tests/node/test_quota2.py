"""The second level of disk quota: stock quota tools inside an unprivileged VPS."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import stores
from test_quota import disk, of, start_daemon  # noqa: F401  # the fixture

import tools
from vzpy import config, quota
from vzpy.errors import Exit, VzError
from vzpy.kernel import quotactl as q

pytestmark = tools.needs("disks", "project quota", "quota template")
BOB = "setpriv --reuid=1000 --regid=1000 --clear-groups"
LIMITS = {"diskspace": "900M:1G", "diskinodes": "60000:60000", "quotatime": 0}


@pytest.fixture
def node(disk, make_node):  # noqa: F811
    """Private areas lie on the disk; the template brings the quota tools."""
    made = make_node(stores.debian_store(stores.QUOTA))
    config.save(f"{made.paths.etc}/vz.conf", {
        "VE_PRIVATE": f"{disk}/private/$VEID", "DEF_OSTEMPLATE": stores.QUOTA,
    })
    start_daemon(made)  # up before it has to answer in time
    return type(made)(etc=made.paths.etc, run=made.paths.run)


@pytest.fixture
def two(node):
    """Started as systemd would be, but with less: an init that sleeps."""
    made = []
    for number in (101, 102):
        vps = node.create(number, quotaugidlimit=20, **LIMITS)
        assert vps.layout == "simfs"
        idle(vps)
        vps.start()
        made.append(vps)
    return made


def idle(vps) -> None:
    vps.mount()
    init = Path(vps.root, "sbin/init")
    init.unlink(missing_ok=True)
    init.write_text(tools.IDLE)
    init.chmod(0o755)
    vps.umount()


def users(vps) -> None:
    """bob and ann, and a folder for them."""
    for file, rest in (("passwd", ":1001:1001::/:/bin/sh"), ("group", ":1001:")):
        lines = f"bob:*{rest}\n".replace("1001", "1000") + f"ann:*{rest}\n"
        tools.sh(vps, f"cat >>/etc/{file}", stdin=lines.encode())
    tools.sh(vps, "mkdir -m 1777 /d")


def words(text: str, first: str) -> list[str]:
    """The row that begins with a word, as repquota prints it."""
    rows = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    assert rows, text
    return rows[0]


# As bob, to the byte.
FILL = (f"{BOB} dd if=/dev/zero of=/d/fill bs=4k count=500 conv=fsync 2>&1;"
        " stat -c %b /d/fill")


def test_stock_tools(two, vzctl, cli):
    vps, other = two
    users(vps)
    bob_is_limited(vps)
    # In the other VPS somebody with his number is not.
    users(other)
    said = tools.sh(other, FILL)
    assert "exceeded" not in said and int(said.split()[-1]) == 2 * 2000
    row = words(tools.sh(other, "repquota -uv /"), "bob")
    assert row[2:5] == ["2000", "0", "0"]
    others_may_not(vps)
    groups_times_and_an_editor(vps)

    # The host sees the same.
    ran = cli("vzquota", "stat", 101, "-t")
    assert ran.code == 0
    assert "User/group quota: on,active" in ran.stdout
    assert "1000         user 1k-blocks        1200        1100        1200" in ran.stdout
    assert cli("vzquota", "setlimit2", 101, "-u", 1001, 72, 80, 0, 0).code == 0
    assert words(tools.sh(vps, "repquota -uv /"), "ann")[3:5] == ["72", "80"]

    # A stop and a start keep all that; a destroy leaves nothing in the kernel.
    vps.stop(fast=True)
    vps.start()
    assert words(tools.sh(vps, "repquota -uv /"), "bob")[3:5] == ["1100", "1200"]
    ids, private = vps.ids, vps.node.config.raw("VE_PRIVATE").rpartition("/")[0]
    vps.stop(fast=True)
    vps.destroy()
    fd = quota.open_tree(private)
    left = [u for u in quota.ugids(fd, ids) if quota.has_limits(u.dqblk)]
    os.close(fd)
    assert not left


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
@pytest.mark.parametrize("layout", ["image", "image:xfs"])
def test_an_image(node, layout):
    """A file system of its own, whose kernel knows no root of a user namespace either."""
    vps = node.create(101, layout=layout, quotaugidlimit=20, diskspace="500M")
    idle(vps)
    vps.start()
    users(vps)
    bob_is_limited(vps)
    others_may_not(vps)
    groups_times_and_an_editor(vps)
    vps.stop(fast=True)
    vps.start()
    assert words(tools.sh(vps, "repquota -uv /"), "bob")[3:5] == ["1100", "1200"]


def bob_is_limited(vps):
    assert tools.sh(vps, "setquota -u bob 1000 1200 20 30 /") == ""
    row = words(tools.sh(vps, "repquota -uv /"), "bob")
    assert row[3:] == ["1000", "1200", row[5], "20", "30"]
    said = tools.sh(vps, FILL)
    assert "quota exceeded" in said and int(said.split()[-1]) == 2 * 1200
    row = words(tools.sh(vps, "repquota -uv /"), "bob")
    assert row[1:5] == ["+-", "1200", "1000", "1200"]


def others_may_not(vps):
    """bob sees himself, and nobody else; and sets nothing."""
    assert "1200*" in vps.exec([*BOB.split(), "quota", "-w"]).stdout.decode()
    done = vps.exec([*BOB.split(), "quota", "-u", "ann"])
    assert done.returncode
    done = vps.exec([*BOB.split(), "setquota", "-u", "bob", "0", "0", "0", "0", "/"])
    assert done.returncode
    # Nor does a root of a user namespace of his own.
    line = f"{BOB} unshare -Ur setquota -u 0 0 0 0 0 /"
    done = vps.exec(line.split())
    assert done.returncode
    assert words(tools.sh(vps, "repquota -uv /"), "bob")[3:5] == ["1000", "1200"]


def groups_times_and_an_editor(vps):
    tools.sh(vps, "setquota -g ann 500 600 0 0 /; setquota -g -t 120 240 /")
    text = tools.sh(vps, "repquota -gv /")
    assert "Block grace time: 00:02; Inode grace time: 00:04" in text.replace("  ", " ")
    assert words(text, "ann")[3:5] == ["500", "600"]
    tools.sh(vps, "EDITOR='sed -i s/1000/1100/' edquota -u bob")
    assert words(tools.sh(vps, "repquota -uv /"), "bob")[3:5] == ["1100", "1200"]


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_one_vps(node, cli):
    """One after the other, since an emulated machine takes its time to unpack a template."""
    vps = node.create(101, quotaugidlimit=20, **LIMITS)
    idle(vps)
    vps.start()
    users(vps)
    a_hostile_caller(vps)
    grace_of_a_user_is_that_of_the_vps(vps)
    the_daemon_may_change(vps, cli)
    more_users_than_allowed(vps)


def grace_of_a_user_is_that_of_the_vps(vps):
    tools.sh(vps, "setquota -t 60 60 /; setquota -u bob 100 0 0 0 /")
    tools.sh(vps, f"{BOB} dd if=/dev/zero of=/d/fill bs=4k count=50 conv=fsync 2>&1")
    fd = quota.open_tree(vps.private)

    def left() -> float:
        return q.getquota(fd, q.USRQUOTA, vps.ids.base + 1000).btime - time.time()

    tools.wait_for(lambda: 0 < left() <= 61)
    os.close(fd)


def the_daemon_may_change(vps, cli):
    """Its listener is kept, and the next one answers; who was born before included."""
    assert cli("vzeventd", "--replace").code == 0
    assert tools.sh(vps, "setquota -u bob 1000 1200 0 0 / && repquota -uv / | grep -c bob") == "1\n"
    daemon = int(cli("vzeventd", "--status").stdout.split("pid ")[1].split(",")[0])
    os.kill(daemon, 9)
    assert cli("vzeventd").code == 0
    tools.sh(vps, "setquota -u bob 1000 1200 0 0 /")


def more_users_than_allowed(vps):
    line = "for i in $(seq 2000 2030); do setquota -u $i 10 10 0 0 / || break; done 2>/dev/null"
    vps.exec(["sh", "-c", line])
    done = vps.exec(["setquota", "-u", "3000", "10", "10", "0", "0", "/"])
    assert done.returncode and b"exceeded" in done.stderr


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_an_overlay_is_refused(node, vzctl):
    vps = node.create(103, **LIMITS)
    for more in ((), ("--save",)):
        ran = vzctl("set", 103, "--quotaugidlimit", "100", *more)
        assert ran.code == Exit.DQ_UGID_NOTINITIALIZED
        assert "vzctl convert 103 --layout simfs" in ran.stderr
    assert not vps.config.own("QUOTAUGIDLIMIT")
    with pytest.raises(VzError):
        vps.set(quotaugidlimit=5)


def a_hostile_caller(vps):
    device = tools.sh(vps, "grep ' / ' /proc/mounts").split()[0]
    assert tools.sh(vps, f"stat -c '%F %a' {device}") == "block special file 0\n"
    assert vps.exec(["head", "-c1", device]).returncode
    assert vps.exec(["chmod", "600", device]).returncode
    done = vps.exec(["perl", "-e", _perl(device)])
    assert done.returncode == 0, done
    assert done.stdout.decode().split() == "0 3 3 3 19 19 14 1 1 1 1 1 0".split(), done


def _perl(device: str) -> str:
    """Debian's smallest system has perl, not python."""
    return r"""
sub call { my ($cmd, $kind, $special, $id, $addr) = @_; $! = 0;
  my $r = syscall(179, $cmd << 8 | $kind, $special, $id, $addr); return $r < 0 ? $!+0 : 0 }
my $buf = "\0" x 256; my $full = "\xff" x 72; my $d = "DEVICE";
print join(" ",
  call(0x800007, 0, $d, 0, $buf), call(0x800007, 2, $d, 101, $buf),
  call(0x800007, 0, $d, 65536, $buf), call(0x800007, 0, $d, 4294967295, $buf),
  call(0x800007, 0, "/dev/vda", 0, $buf), call(0x800007, 0, "x" x 5000, 0, $buf),
  call(0x800007, 0, 8, 0, $buf), call(0x800008, 0, $d, 0, $full),
  call(0x800003, 0, $d, 0, $buf), call(0x800002, 0, $d, 4, $buf),
  call(0x5806, 0, $d, 0, $buf), call(0x123456, 0, $d, 0, $buf),
  call(0x800001, 0, 0, 0, 0)), "\n";
""".replace("DEVICE", device)
