"""What a distribution needs from outside, on directories that stand for a VPS's root."""

from __future__ import annotations

import os
import stat

import pytest

from vzpy import dist
from vzpy.errors import VzError
from vzpy.model import IdRange

OWN = IdRange(os.getuid())


def test_hostname_in_every_form(tree, root):
    (tree / "etc/sysconfig").mkdir()
    (tree / "etc/sysconfig/network").write_text("NETWORKING=yes\nHOSTNAME=old\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    dist.set_hostname(root, "a.example.com", OWN, "10.0.0.1")
    dist.set_hostname(root, "b", OWN)
    assert (tree / "etc/hostname").read_text() == "b\n"
    assert (tree / "etc/sysconfig/network").read_text() == 'NETWORKING=yes\nHOSTNAME="b"\n'
    assert (tree / "etc/hosts").read_text() == (
        f"127.0.0.1 localhost\n{dist.HOSTS_MARK}\n127.0.1.1 b\n"
    )
    assert not (tree / "etc/HOSTNAME").exists()


def test_hosts_names_the_short_form_too():
    assert dist.hosts_with("", "a.b.c", "fe80::1") == [dist.HOSTS_MARK, "fe80::1 a.b.c a"]


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "$(id)", "-x", 'a"b'])
def test_hostname_refused(root, name):
    with pytest.raises(VzError) as error:
        dist.set_hostname(root, name, OWN)
    assert error.value.code == 70


def test_links_that_point_out_are_the_guests(tree, root, tmp_path_factory):
    """A link to a file of the host is a link to the same name inside."""
    outside = tmp_path_factory.mktemp("host")
    for name in ("hostname", "hosts", "shadow", "machine-id"):
        (outside / name).write_text("root::0:0:\n")
        (tree / "etc" / name).symlink_to(outside / name)
    dist.set_hostname(root, "guest", OWN)
    dist.post_create(root, OWN)
    for name in ("hostname", "hosts", "shadow", "machine-id"):
        assert (outside / name).read_text() == "root::0:0:\n"
    assert (tree / "etc/hostname").read_text() == "guest\n"


def test_a_folder_that_points_out(tmp_path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("host")
    (tmp_path / "etc").symlink_to(outside)
    fd = os.open(tmp_path, os.O_RDONLY)
    dist.set_hostname(fd, "guest", OWN)
    dist.post_create(fd, OWN)
    os.close(fd)
    assert list(outside.iterdir()) == []


def test_a_link_inside_is_followed(tree, root):
    (tree / "etc/HOSTNAME").symlink_to("hostname")
    (tree / "etc/hostname").write_text("old\n")
    dist.set_hostname(root, "new", OWN)
    assert (tree / "etc/HOSTNAME").is_symlink()
    assert (tree / "etc/HOSTNAME").read_text() == "new\n"


def test_special_files_do_not_hang_us(tree, root):
    os.mkfifo(tree / "etc/shadow")
    os.mkfifo(tree / "etc/hosts")
    (tree / "etc/machine-id").mkdir()
    dist.post_create(root, OWN)
    dist.set_hostname(root, "x", OWN)
    assert stat.S_ISFIFO((tree / "etc/hosts").stat().st_mode)


def test_post_create(tree, root):
    (tree / "etc/shadow").write_text("daemon::1\nroot::19000:0:::\n")
    (tree / "etc/shadow").chmod(0o600)
    (tree / "etc/machine-id").write_text("0" * 32)
    (tree / "var/lib/dbus").mkdir(parents=True)
    (tree / "var/lib/dbus/machine-id").write_text("0" * 32)
    dist.post_create(root, OWN)
    assert (tree / "etc/shadow").read_text() == "daemon::1\nroot:!!:19000:0:::\n"
    assert stat.S_IMODE((tree / "etc/shadow").stat().st_mode) == 0o600
    assert (tree / "etc/machine-id").read_text() == ""
    assert not (tree / "var/lib/dbus/machine-id").exists()
    assert (tree / "etc/resolv.conf").read_text() == ""
    assert (tree / "etc/hosts").read_text().startswith("127.0.0.1\tlocalhost\n::1\t")


def test_crontab_minutes_are_spread():
    text = (
        b"SHELL=/bin/sh\n17 *\t* * *\troot\trun-parts /etc/cron.hourly\n"
        b"5 1 * * * root /usr/bin/mine\n25\t6 * * * root run-parts /etc/cron.daily\n"
    )
    assert dist.spread_crontab(text, bytes([61, 2])) == (
        b"SHELL=/bin/sh\n1 *\t* * *\troot\trun-parts /etc/cron.hourly\n"
        b"5 1 * * * root /usr/bin/mine\n2\t6 * * * root run-parts /etc/cron.daily\n"
    )


def test_password_is_on_no_command_line():
    argv, stdin = dist.password_script("root", "s3:cr et'$x")
    assert stdin == b"s3:cr et'$x\n"
    assert not any("s3:cr" in word for word in argv)


@pytest.mark.parametrize("user", ["", "-a", "a b", "a:b", "a/b", "a\n", "ä", "x" * 33])
def test_user_refused(user):
    with pytest.raises(VzError) as error:
        dist.password_script(user, "x")
    assert error.value.code == 74


def test_password_refused():
    with pytest.raises(VzError):
        dist.password_script("root", "a\nroot:b")
