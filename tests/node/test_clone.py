"""vz clone: the same files under ids of their own, and nothing that may be there only once."""

from __future__ import annotations

from pathlib import Path

import pytest
from belongings import furnish, picture

import tools
from vzpy.errors import VzError

# What the copy has its own of.
OWN = ("./etc/machine-id", "./etc/ssh", "./etc/hostname", "./etc/hosts")


def files(vps) -> dict[str, tuple[object, ...]]:
    return {path: what for path, what in picture(vps).items() if not path.startswith(OWN)}


@pytest.fixture(params=["overlay", "simfs", "image"])
def source(request, node):
    vps = node.create(
        101, layout=request.param, diskspace="64M", hostname="web", name="web",
        ipadd=["192.0.2.7"], numproc=77,
    )  # fmt: skip
    furnish(vps)
    return vps


def test_files_and_configuration(cli, node, source):
    before = files(source)
    done = cli("vz", "clone", "web", 102, "--hostname", "other.example", "--name", "other")
    assert done.code == 0, done
    assert done.stdout.endswith("Container private area was created\n")
    copy = node.vps("other")
    own = copy.config.own
    assert copy.ctid == 102 and own("VEID") == "102"
    assert not any(own(key) for key in ("IP_ADDRESS", "NETIF"))
    assert (own("HOSTNAME"), own("NUMPROC"), own("VE_LAYOUT")) == (
        "other.example", "77", source.layout)
    assert copy.private != source.private
    assert not {*range(copy.ids.base, copy.ids.base + copy.ids.count)} & {source.ids.base}
    ours = files(copy)
    changed = {path for path in before if ours.get(path) != before[path]}
    assert changed <= {".", "./etc"} and ours.keys() == before.keys()
    source.start()
    copy.start()
    assert tools.sh(copy, "cat /etc/hostname; id -u") == "other.example\n0\n"
    tools.sh(copy, "echo x > /home/one/plain")
    assert tools.sh(source, "cat /home/one/plain; cat /etc/hostname") == "plainweb\n"


def test_identity(node, source):
    source.start()
    tools.sh(source, "mkdir -p /etc/ssh /bin; for k in rsa ed25519; do"
             " echo secret > /etc/ssh/ssh_host_${k}_key; done; echo config > /etc/ssh/sshd_config;"
             " echo 0123456789abcdef0123456789abcdef > /etc/machine-id;"
             " printf '#!/bin/sh\\necho made > /etc/ssh/ssh_host_made_key\\n' > /bin/ssh-keygen;"
             " chmod 755 /bin/ssh-keygen")
    source.stop(fast=True)
    copy = node.clone(101, 102)
    found = picture(copy)
    assert found["./etc/machine-id"][5][0] == 0
    keys = {path for path in found if path.startswith("./etc/ssh/")}
    assert keys == {"./etc/ssh/ssh_host_made_key", "./etc/ssh/sshd_config"}
    assert len([p for p in picture(source) if "ssh_host" in p]) == 2


def test_refusals(cli, node, source):
    source.start()
    done = cli("vz", "clone", 101, 102)
    assert (done.code, done.stderr) == (32, "Container is running (stop it first)\n")
    source.stop(fast=True, umount=False)
    assert cli("vz", "clone", 101, 102).code == 41
    source.umount()
    assert cli("vz", "clone", 101, 101).code == 9
    Path(node.vps(102).private).mkdir()
    Path(node.vps(102).private, "file").write_text("")
    done = cli("vz", "clone", 101, 102)
    assert (done.code, "already exists" in done.stderr) == (44, True)
    assert not node.vps(102).config.exists
    tools.remove_tree(node.vps(102).private)
    with pytest.raises(VzError, match="does not exist"):
        node.clone(777, 102)


@pytest.mark.parametrize("step", ["build", "private", "tree", "config"])
def test_killed(cli, node, source, step):
    before = picture(source)
    assert cli("vz", "clone", 101, 102, env={"VZ_TEST_STOP_AT": step}).code == -9
    assert not node.vps(102).config.exists
    assert cli("vz", "clone", 101, 102).code == 0
    assert picture(source) == before
