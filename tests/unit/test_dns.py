"""Where DNS goes inside a VPS, on directories that stand for its root."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import dns
from vzpy.model import IdRange

OWN = IdRange(os.getuid())
STUB = "../run/systemd/resolve/stub-resolv.conf"


def test_a_plain_file_keeps_what_is_not_ours(tree, root):
    conf = tree / "etc/resolv.conf"
    conf.write_text("# mine\noptions rotate\nnameserver 9.9.9.9\ndomain old\n")
    assert dns.configure(root, ["10.0.0.1", "fd00::1"], ["a.example", "b"], OWN) == ()
    assert conf.read_text() == (
        "search a.example b\n# mine\noptions rotate\nnameserver 10.0.0.1\nnameserver fd00::1\n"
    )
    dns.configure(root, ["10.0.0.2"], None, OWN)
    assert conf.read_text() == "search a.example b\n# mine\noptions rotate\nnameserver 10.0.0.2\n"


def test_systemd_resolved_gets_a_file_of_its_own(tree, root):
    (tree / "etc/resolv.conf").symlink_to(STUB)
    told = dns.configure(root, ["10.0.0.1", "10.0.0.2"], None, OWN)
    assert told == ("systemctl", "try-restart", "systemd-resolved.service")
    mine = tree / dns.RESOLVED
    assert mine.read_text() == "[Resolve]\nDNS=10.0.0.1 10.0.0.2\n"
    dns.configure(root, ["10.0.0.3"], ["a"], OWN)
    assert mine.read_text() == "[Resolve]\nDNS=10.0.0.3\nDomains=a\n"
    assert os.readlink(tree / "etc/resolv.conf") == STUB


def test_resolvconf(tree, root):
    (tree / "etc/resolvconf/resolv.conf.d").mkdir(parents=True)
    (tree / "etc/resolv.conf").symlink_to("/run/resolvconf/resolv.conf")
    assert dns.configure(root, ["10.0.0.1"], ["a"], OWN) == ("resolvconf", "-u")
    assert (tree / dns.RESOLVCONF).read_text() == "search a\nnameserver 10.0.0.1\n"


def test_openresolv(tree, root):
    conf = tree / "etc/resolvconf.conf"
    conf.write_text("resolv_conf=/etc/resolv.conf\nname_servers=1.1.1.1\n")
    assert dns.configure(root, ["10.0.0.1", "10.0.0.2"], None, OWN) == ("resolvconf", "-u")
    assert conf.read_text() == 'resolv_conf=/etc/resolv.conf\nname_servers="10.0.0.1 10.0.0.2"\n'


def test_no_link_of_the_guest_leads_out(tree, root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("host") / "resolv.conf"
    outside.write_text("nameserver 9.9.9.9\n")
    (tree / "etc/resolv.conf").symlink_to(outside)
    dns.configure(root, ["10.0.0.1"], None, OWN)
    assert outside.read_text() == "nameserver 9.9.9.9\n"
    assert (tree / "etc/resolv.conf").read_text() == "nameserver 10.0.0.1\n"
    (tree / "etc/systemd").rmdir()
    (tree / "etc/systemd").symlink_to(outside.parent)
    (tree / "etc/resolv.conf").unlink()
    (tree / "etc/resolv.conf").symlink_to(STUB)
    with pytest.raises(Exception, match="Cannot make /etc/systemd"):
        dns.configure(root, ["10.0.0.1"], None, OWN)
    assert os.listdir(outside.parent) == ["resolv.conf"]


def test_a_directory_in_the_way_is_left_alone(tree, root):
    (tree / "etc/resolv.conf").mkdir()
    assert dns.configure(root, ["10.0.0.1"], None, OWN) == ()


def test_inherit_leaves_the_loopback_of_the_host_out(tmp_path, monkeypatch):
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nsearch host.example\n")
    real.write_text("nameserver 10.9.9.9\nnameserver ::1\n")
    monkeypatch.setattr(dns, "HOST_FILES", (str(tmp_path / "none"), str(stub), str(real)))
    assert dns.inherited(["inherit", "10.0.0.1"], "nameserver") == ["10.9.9.9", "10.0.0.1"]
    assert dns.inherited(["x", "inherit"], "search") == ["x", "host.example"]
    assert dns.inherited(["10.0.0.1"], "nameserver") == ["10.0.0.1"]


@given(st.text(max_size=300), st.lists(st.sampled_from(["10.0.0.1", "fd00::1"]), max_size=3))
def test_whatever_the_guest_wrote(text, servers):
    lines = dns.resolv_conf(text, servers, None)
    found = [line for line in lines if line.split()[:1] == ["nameserver"]]
    assert found == [f"nameserver {server}" for server in servers]
    assert dns.resolv_conf("".join(f"{x}\n" for x in lines), servers, None) == lines
