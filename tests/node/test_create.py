"""vzctl create: texts, codes, what lies on disk, and that a failure at any step leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tools import needs, wait_for
from vzpy import config, ids, names
from vzpy.errors import VzError
from vzpy.kernel import mount as m
from vzpy.story import create

FAILED = "Creation of container private area failed\n"


def picture(node) -> dict[str, object]:
    """All files of a node but locks, the log and its folder of quotas: name -> content or
    target."""
    top = Path(node.paths.etc).parent
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        if path.name in (".lock", "vzquota"):
            continue
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file() and path.suffix not in (".lck", ".log"):
            found[str(path)] = path.read_bytes()
        elif path.is_dir():
            found[str(path)] = None
    return found


def mine(node) -> list[int]:
    return [e.owner.ctid for e in ids.Registry().entries() if e.owner.etc == node.paths.etc]


def test_transcript(vzctl, node):
    done = vzctl("create", 101, "--name", "web", "--hostname", "web.example")
    assert (done.code, done.errors) == (0, "")
    assert done.stdout == (
        "Name web assigned\n"
        "Creating container private area (busybox-x86_64)\n"
        "Performing postcreate actions\n"
        f"CT configuration saved to {node.paths.conf}/101.conf\n"
        "Container private area was created\n"
    )
    assert vzctl("status", "web").stdout == "CTID 101 exist unmounted down\n"


def test_what_is_stored(vzctl, node):
    done = vzctl(
        "create", 101, "--name", "web", "--ipadd", "10.0.0.1", "--ipadd", "10.0.0.2/24",
        "--diskspace", "1G:2G", "--description", 'a "quoted" $text',
    )  # fmt: skip
    assert done.code == 0, done
    text = Path(f"{node.paths.conf}/101.conf").read_text()
    sample = Path(f"{node.paths.conf}/ve-vswap-256m.conf-sample").read_text()
    assert text.startswith(sample.splitlines()[0])
    lines = text.splitlines()
    own = node.vps(101).config.own
    for line in (
        f'VE_ROOT="{node.config.literal("VE_ROOT")}"',
        f'VE_PRIVATE="{node.config.literal("VE_PRIVATE")}"',
        'VE_LAYOUT="overlay"',
        'OSTEMPLATE="busybox-x86_64"',
        'ORIGIN_SAMPLE="vswap-256m"',
        'IP_ADDRESS="10.0.0.1 10.0.0.2/24"',
        'DISKSPACE="1048576:2097152"',
        'NAME="web"',
        'VEID="101"',
    ):
        assert line in lines
    assert "$VEID" in node.config.literal("VE_ROOT")
    assert own("DESCRIPTION") == 'a "quoted" $text'
    assert int(own("LOCAL_UID")) == int(own("LOCAL_GID")) >= ids.POOL_FIRST
    assert os.readlink(f"{node.paths.names}/web") == f"{node.paths.conf}/101.conf"


def test_overlay_area(node, vps):
    private, base = Path(vps.private), vps.ids.base
    assert sorted(p.name for p in private.iterdir()) == ["tree", "upper", "work"]
    assert (private.stat().st_uid, private.stat().st_mode & 0o7777) == (0, 0o700)
    upper, tree = (private / "upper").stat(), (private / "tree").stat()
    assert (upper.st_uid, upper.st_gid, upper.st_mode) == (base, base, tree.st_mode)
    assert vps.layout == "overlay"
    config.save(vps.conf_path, {"VE_LAYOUT": None})
    assert node.vps(101).layout == "overlay"
    assert os.path.isdir(vps.root)


def test_simfs_area(node):
    vps = node.create(101, layout="simfs")
    base = vps.ids.base
    owners = {os.lstat(p).st_uid for p in (Path(vps.private), *Path(vps.private).rglob("*"))}
    assert owners == {base}
    assert os.path.lexists(f"{vps.private}/sbin/init")
    config.save(vps.conf_path, {"VE_LAYOUT": None})
    assert node.vps(101).layout == "simfs"


def test_a_guest_cannot_make_its_simfs_look_like_an_overlay(node):
    vps = node.create(101, layout="simfs")
    os.mkdir(f"{vps.private}/upper")
    os.symlink("/", f"{vps.private}/tree")
    os.chmod(vps.private, 0o700)
    config.save(vps.conf_path, {"VE_LAYOUT": None})
    assert node.vps(101).layout == "simfs"


def test_second_level_quota_needs_simfs(node):
    sample = f"{node.paths.conf}/ve-vswap-256m.conf-sample"
    config.save(sample, {"QUOTAUGIDLIMIT": "100"})
    assert node.create(101).layout == "simfs"
    assert node.create(102, layout="overlay").layout == "overlay"


def test_library_keywords(node):
    vps = node.create(
        101, hostname="a.example", numproc=77, onboot=True, ipadd=["10.0.0.1"], ram="64M"
    )
    own = vps.config.own
    assert own("NUMPROC") == "77"
    assert own("ONBOOT") == "yes"
    assert own("IP_ADDRESS") == "10.0.0.1"
    assert vps.config.value("PHYSPAGES") == (0, 16384)
    with pytest.raises(VzError, match="no such parameter"):
        node.create(102, nonsense=1)


def test_ranges_are_given_and_refused(node):
    assert node.create(101, local_uid=200000000).ids.base == 200000000
    assert node.create(102, local_ids=2).ids.count == 131072
    before = picture(node)
    for given, text in (
        ({"local_uid": 200000000}, "held by container 101"),
        ({"local_uid": 0}, "0"),
        ({"local_uid": 1000}, "1000"),
    ):
        with pytest.raises(VzError, match=text) as info:
            node.create(103, **given)
        assert info.value.code == 21
    assert picture(node) == before


def test_a_global_range_is_not_believed(node):
    config.save(f"{node.paths.etc}/vz.conf", {"LOCAL_UID": "100000", "LOCAL_GID": "100000"})
    node = type(node)(etc=node.paths.etc, run=node.paths.run)
    assert node.create(101).ids.base >= ids.POOL_FIRST


def test_an_empty_private_area_is_taken(node, vzctl):
    os.makedirs(node.vps(101).private)
    assert vzctl("create", 101).code == 0


@pytest.mark.parametrize(
    "prepare, options, code, text",
    [
        ("private", [], 44, "Private area already exists in {private}\n"),
        ("link", [], 44, "Private area already exists in {private}\n"),
        ("", ["--config", "none"], 82, "Sample config {conf}/ve-none.conf-sample not found\n"),
        (
            "conf",
            ["--config", "basic"],
            82,
            "Error: container config file {conf}/101.conf already exists,"
            " can not use --config option\n",
        ),
        (
            "CONFIGFILE=none",
            [],
            82,
            "Sample config {conf}/ve-none.conf-sample not found\n"
            "Fix the value of CONFIGFILE in {etc}/vz.conf\n",
        ),
        ("TEMPLATE=", [], 24, "TEMPLATE is not set\n"),
        ("VE_PRIVATE=", [], 23, "VE_PRIVATE is not set\n"),
        ("VE_ROOT=", [], 22, "VE_ROOT is not set\n"),
        ("DEF_OSTEMPLATE=", [], 29, "OS template is not specified\n"),
        (
            "",
            ["--ostemplate", "none"],
            91,
            "Cached OS template {template}/cache/none.tar[.gz|.bz2|.xz] not found\n",
        ),
        ("name", ["--name", "web"], 131, "Conflict: name web already used by container 102\n"),
    ],
)
def test_refusals(node, vzctl, prepare, options, code, text):
    private = node.vps(101).private
    if prepare == "private":
        os.makedirs(f"{private}/something")
    elif prepare == "link":
        os.symlink("/nonexistent", private)
    elif prepare == "conf":
        Path(f"{node.paths.conf}/101.conf").touch()
    elif prepare == "name":
        Path(f"{node.paths.conf}/102.conf").touch()
        names.assign(node.paths, 102, "web")
    elif prepare:
        key, _, value = prepare.partition("=")
        config.save(f"{node.paths.etc}/vz.conf", {key: value or None})
    before = picture(node)
    done = vzctl("create", 101, *options)
    places = {
        "private": private,
        "conf": node.paths.conf,
        "etc": node.paths.etc,
        "template": node.config.raw("TEMPLATE"),
    }
    assert (done.code, done.errors) == (code, text.format(**places) + FAILED)
    assert picture(node) == before
    assert 101 not in mine(node)
    for path in (private, f"{node.paths.conf}/101.conf", f"{node.paths.conf}/102.conf"):
        subprocess.run(["rm", "-rf", path], check=True)
    names.release_all(node.paths, 102)
    config.save(
        f"{node.paths.etc}/vz.conf",
        {key: node.config.literal(key) for key in ("TEMPLATE", "VE_PRIVATE", "VE_ROOT")},
    )


def test_a_private_area_that_is_a_mount_point(node, vzctl):
    private = node.vps(101).private
    os.makedirs(private)
    m.mount(private, private, "none", m.MS_BIND)
    try:
        done = vzctl("create", 101)
    finally:
        m.umount2(private)
        os.rmdir(private)
    assert done.code == 48
    assert done.errors == (
        f"Can't create: private dir ({private}) is a mount point."
        f" Suggestion: use --private {private}/private\n" + FAILED
    )


def test_a_configuration_that_is_there_stays(node, vzctl):
    conf = Path(node.vps(101).conf_path)
    conf.write_text('# mine\nHOSTNAME="old.example"\nNUMPROC="50"\n')
    conf.chmod(0o600)
    done = vzctl("create", 101)
    assert done.code == 0, done
    assert done.stdout.startswith(
        "CT config file already exists, not applying a default config sample.\n"
    )
    lines = conf.read_text().splitlines()
    assert lines[:3] == ["# mine", 'HOSTNAME="old.example"', 'NUMPROC="50"']
    assert "ORIGIN_SAMPLE" not in conf.read_text()
    assert conf.stat().st_mode & 0o777 == 0o600


def test_leftovers_of_a_destroyed_vps_go(node, vzctl):
    for kind in ("conf", "mount"):
        Path(f"{node.paths.conf}/101.{kind}.destroyed").touch()
    Path(f"{node.paths.conf}/102.conf.destroyed").touch()
    assert vzctl("create", 101).code == 0
    left = [p.name for p in Path(node.paths.conf).glob("*.destroyed")]
    assert left == ["102.conf.destroyed"]


def hook(node, text):
    script = Path(f"{node.paths.conf}/vps.create")
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return script


def test_the_hook_sees_a_finished_vps(node, vzctl, tmp_path):
    hook(
        node,
        f'. "$VE_CONFFILE"; env >{tmp_path}/env; ls "$VE_PRIVATE" >{tmp_path}/ls; echo said',
    )
    done = vzctl("create", 101)
    assert (done.code, done.errors) == (0, "")
    assert done.stdout.endswith("101.conf\nsaid\nContainer private area was created\n")
    assert (tmp_path / "ls").read_text().split() == ["tree", "upper", "work"]
    seen = (tmp_path / "env").read_text().splitlines()
    assert "VEID=101" in seen and f"VE_CONFFILE={node.paths.conf}/101.conf" in seen


@pytest.mark.parametrize("conf", [None, '# mine\nNUMPROC="50"\n'])
def test_a_hook_that_fails_takes_all_back(node, vzctl, conf):
    script = hook(node, "exit 7")
    if conf:
        Path(node.vps(101).conf_path).write_text(conf)
    before = picture(node)
    done = vzctl("create", 101, "--name", "web")
    assert done.code == 79
    assert f"User create script {script} exited with error\n" in done.stdout
    assert done.errors == FAILED + f"{script}: exit status 7\n"
    assert picture(node) == before
    if conf:
        os.unlink(node.vps(101).conf_path)  # what is there keeps the range
    else:
        assert mine(node) == []


def test_a_signal_takes_all_back(node, cli, tmp_path):
    hook(node, f"echo $PPID >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60")
    before = picture(node)
    done = []
    thread = threading.Thread(target=lambda: done.append(cli("vzctl", "create", 101)))
    thread.start()
    wait_for((tmp_path / "pid").exists)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    thread.join()
    assert done[0].code != 0
    assert "Cancelling..." in done[0].stderr
    assert picture(node) == before
    assert mine(node) == []


@pytest.mark.parametrize("step", create.STEPS)
@pytest.mark.parametrize("layout", ["overlay", "simfs"])
def test_a_failure_at_any_step_leaves_nothing(node, vzctl, step, layout):
    before = picture(node)
    options = ("create", 101, "--layout", layout, "--name", "web")
    done = vzctl(*options, env={"VZ_TEST_FAIL_AT": step})
    assert done.code == 48, done
    assert done.errors.endswith(f"fault asked for at step {step}\n{FAILED}") or (
        "Input/output error" in done.errors and done.errors.endswith(FAILED)
    )
    assert picture(node) == before
    assert mine(node) == []
    assert vzctl(*options).code == 0


@pytest.mark.parametrize("step", create.STEPS)
@pytest.mark.parametrize("existing", ["", "conf", "conf of the same area"])
def test_a_kill_at_any_step_hinders_nothing(node, vzctl, step, existing):
    options = ["create", 101, "--name", "web"]
    if existing:
        Path(node.vps(101).conf_path).write_text('NUMPROC="50"\n')
    if existing != "conf of the same area":
        options += ["--private", node.vps(101).private + "-other"]
    done = vzctl(*options, env={"VZ_TEST_STOP_AT": step})
    assert done.code == -signal.SIGKILL
    status = vzctl("status", 101).stdout
    assert status in ("CTID 101 deleted unmounted down\n", "CTID 101 exist unmounted down\n")
    done = vzctl(*options)
    if "exist" in status:
        assert done.code == 44, done
    else:
        assert done.code == 0, done
    assert vzctl("destroy", 101).code == 0


def test_two_at_once(node, cli):
    done = []

    def work():
        done.append(cli("vzctl", "create", 101))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(d.code for d in done)
    assert codes[0] == 0
    assert set(codes[1:]) <= {9, 44}
    assert node.vps(101).status.exist


def test_many_at_once_from_one_process(node):
    threads = [
        threading.Thread(target=node.create, args=(n,), kwargs={"hostname": f"h{n}"})
        for n in range(101, 113)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert node.ids() == list(range(101, 113))
    assert len({node.vps(n).ids.base for n in node.ids()}) == 12


@needs("tmpfs")
@pytest.mark.parametrize("layout", ["simfs", "overlay"])
def test_a_full_disk(node, vzctl, layout):
    """Filled to the last block: what can be told before is, the rest is taken back."""
    small = Path(node.paths.etc).parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], check=True)
    (small / "ballast").write_bytes(bytes(12 << 10))
    try:
        before = picture(node)
        done = vzctl("create", 101, "--layout", layout, "--private", f"{small}/101")
        assert done.code == 46 if layout == "simfs" else done.code in (46, 0), done
        if done.code:
            assert picture(node) == before
            assert mine(node) == []
        else:
            assert vzctl("destroy", 101).code == 0
            wait_for(lambda: os.listdir(small / "vztmp") == ["rm.lck"])
    finally:
        subprocess.run(["umount", small], check=True)
        small.rmdir()


@pytest.mark.parametrize("layout", ["simfs", "overlay"])
def test_a_broken_template(make_node, layout, tmp_path):
    node = make_node(str(tmp_path / "template"))
    cache = tmp_path / "template/cache"
    cache.mkdir(parents=True)
    (cache / "broken.tar.gz").write_bytes(b"\x1f\x8b" + bytes(1000))
    before = picture(node)
    with pytest.raises(VzError) as info:
        node.create(101, ostemplate="broken", layout=layout, name="web")
    assert info.value.code == 47
    assert info.value.message.endswith("\n" + FAILED.strip())
    assert picture(node) == before
    assert mine(node) == []
