"""vzctl without a running VPS: order of checks, texts, streams, codes, and what `set` saves."""

import os
import re

import pytest

from vzpy import nodesetup
from vzpy.commands import vzctl
from vzpy.model import NodePaths


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node made by `vz setup`; vzctl runs in this process, without its signal handlers."""
    monkeypatch.setenv("VZ_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("VZ_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(vzctl, "_cancel_on_signals", lambda: None)
    paths = NodePaths.of()
    nodesetup.setup(paths, str(tmp_path / "vz"))
    return paths


@pytest.fixture
def run(node, capfd):
    """run("set 101 --save") or run("set", "101", "--description", "a b"): (code, out, err)."""

    def run(*words):
        argv = words[0].split() if len(words) == 1 else list(words)
        code = vzctl.main(argv)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def conf(node):
    """The text of 101's N.conf, or its replacement."""
    path = f"{node.conf}/101.conf"

    def conf(text=None):
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        with open(path) as file:
            return file.read()

    return conf


SAVED = "CT configuration saved to {conf}/101.conf\n"


@pytest.mark.parametrize(
    "line, code, err",
    [
        ("wings 101", 20, "Bad command: wings\n"),
        ("--wings status 101", 20, "Bad command: --wings\n"),
        ("status", 21, "CT ID missing\n"),
        ("status web", 21, "Bad CT ID web\n"),
        ("status -1", 21, "Bad CT ID -1\n"),
        ("status 2147483645", 21, "Bad CT ID 2147483645\n"),
        ("status ../101", 21, "Bad CT ID ../101\n"),
        ("start 0", 21, "Only set actions are allowed for CT0\n"),
        ("start 102", 14, "Container config file does not exist\n"),
        ("destroy 102 a b", 20, "Invalid options: a b \n"),
        ("start 102 a b", 20, "Invalid extra arguments: a b \n"),
        ("start 102 --wings", 20, "vzctl: unrecognized option '--wings'\n"),
        ("exec 102", 20, "No command line given for exec\n"),
        ("exec2 102", 20, "No command line given for exec\n"),
        ("exec 102 true", 14, "Container config file does not exist\n"),
        ("runscript 102", 20, "Script not specified\n"),
    ],
)
def test_order_of_checks(run, line, code, err):
    assert run(line) == (code, "", err)
    assert run("--quiet " + line)[0] == code


def test_without_vz_conf(run, node):
    os.unlink(f"{node.etc}/vz.conf")
    for line in ("start 101", "start 101 --wings", "status 101", "set 101 --save"):
        code, out, err = run(line)
        assert (code, out) == (10, "")
        assert err.startswith(f"Unable to open {node.etc}/vz.conf: No such file or directory\n")
        assert "vz setup" in err
    assert run("wings 101")[0] == 20 and run("start web")[0] == 21


def test_help_and_version(run):
    code, out, err = run("--version")
    version = re.fullmatch(r"vzctl version (\S+)\n", out)[1]
    assert (code, err) == (0, "")
    assert [int(n) for n in version.split("-")[0].split(".")] > [3, 0, 23]  # panels compare it
    code, out, err = run("--help")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[4] == "Usage: vzctl [options] <command> <ctid> [parameters]" and not lines[3]
    code, nothing, err = run("--verbose")
    assert (code, nothing, err) == (20, "", out)
    assert vzctl.main([]) == 20


def test_status_of_what_never_was(run, conf):
    assert run("status 101") == (0, "CTID 101 deleted unmounted down\n", "")
    assert run("--quiet status 101") == (0, "CTID 101 deleted unmounted down\n", "")
    assert run("status 101 x")[0] == 20


def test_set_creates_and_saves(run, node, conf):
    code, out, err = run("set 101 --numproc 10:20 --onboot yes --kmemsize 1M --save")
    assert (code, out) == (0, SAVED.format(conf=node.conf))
    assert err == f"WARNING: {node.conf}/101.conf not found: No such file or directory\n"
    assert conf() == 'KMEMSIZE="1048576"\nNUMPROC="10:20"\nONBOOT="yes"\n'
    assert run("set 101 --onboot no --save") == (0, SAVED.format(conf=node.conf), "")
    assert conf() == 'KMEMSIZE="1048576"\nNUMPROC="10:20"\nONBOOT="no"\n'


UNSAVED = "WARNING: Settings were not saved to config (use --save flag)\n"


@pytest.mark.parametrize(
    "line, code, out, err",
    [
        ("--save", 0, "No changes in CT configuration, not saving\n", ""),
        ("--onboot no", 0, UNSAVED, ""),
        ("--capability net_admin:on", 0, UNSAVED, ""),
        ("--numproc 5", 31, "", "Unable to apply UBC parameters: container is not running\n"),
        ("--cpus 1 --cpuunits 9 --ipadd 10.0.0.1", 31, "",
         "Unable to apply CPU parameters: container is not running\n"
         "Unable to apply network parameters: container is not running\n"),
        ("--hostname a", 31, "", "Unable to configure container: not running\n"),
        ("--iolimit 5", 31, "", "Container is not running\n"),
        ("--reset_ub", 31, "", "Unable to apply UBC parameters: container is not running\n"),
        ("--reset_ub --save", 31, "",
         "Unable to apply UBC parameters: container is not running\n"),
        ("--reset_ub --onboot no", 20, "", "Error: option --reset_ub is exclusive\n"),
        ("--force", 20, "", "Error: --force is useless without --save\n"),
        ("--name web", 131, "", "Error: unable to use --name option without --save\n"),
        ("--ostemplate a", 20, "", "Error: unable to use --ostemplate option without --save\n"),
        ("--stop-timeout 5", 20, "", "Error: unable to use --stop-timeout option without --save\n"),
        ("--nodemask 0 --save", 20, "", "Error: --nodemask option requires --cpumask\n"),
        ("--cpumask auto --save", 20, "", "Error: --cpumask auto requires --nodemask\n"),
        ("--offline --save", 20, "", "Error: --offline-resize option requires --diskspace\n"),
        ("--mac 0:0:0:0:0:1 --save", 20, "", "Invalid usage.  Option --ifname not specified\n"),
        ("--ifname eth7 --bridge br0 --save", 20, "",
         "Invalid usage: veth device eth7 is not configured, use --netif_add option first\n"),
        ("--applyconfig wings --save", 109, "",
         "Sample config file not found: {conf}/ve-wings.conf-sample\n"),
        ("--features wings:on --save", 21, "Warning: Unknown feature: wings:on\n",
         "Bad parameter for --features: wings:on\n"),
    ],
)  # fmt: skip
def test_set_of_a_stopped_vps_that_changes_nothing(run, node, conf, line, code, out, err):
    text = conf('NUMPROC="7"\n')
    assert run(f"set 101 {line}") == (code, out, err.format(conf=node.conf))
    assert conf() == text


@pytest.mark.parametrize(
    "before, line, after",
    [
        ('IP_ADDRESS="10.0.0.1 10.0.0.2"\n', "--ipadd 10.0.0.3 --ipdel 10.0.0.1",
         'IP_ADDRESS="10.0.0.2 10.0.0.3"\n'),
        ('IP_ADDRESS="10.0.0.1 10.0.0.2"\n', "--ipadd 10.0.0.1/24",
         'IP_ADDRESS="10.0.0.2 10.0.0.1/24"\n'),
        ('IP_ADDRESS="10.0.0.1"\n', "--ipadd 10.0.0.1", 'IP_ADDRESS="10.0.0.1"\n'),
        ('IP_ADDRESS="10.0.0.1"\n', "--ipdel all --ipadd 10.0.0.9", 'IP_ADDRESS="10.0.0.9"\n'),
        ('IP_ADDRESS="10.0.0.1"\n', "--ipdel all", 'IP_ADDRESS=""\n'),
        ('CAPABILITY="CHOWN:off"\n', "--capability cap_net_admin:on,chown:on",
         'CAPABILITY="CHOWN:on NET_ADMIN:on"\n'),
        ('FEATURES="nfs:on"\n', "--features ppp:off", 'FEATURES="nfs:on ppp:off"\n'),
        ('NETDEV="eth1"\n', "--netdev_add eth2 --netdev_del eth1", 'NETDEV="eth2"\n'),
        ("", "--pci_add 3:0.0 --pci_add 3:0.0", 'PCI="0000:03:00.0"\n'),
        ('NAMESERVER="10.0.0.1"\n', "--nameserver 10.0.0.2 --nameserver inherit",
         'NAMESERVER="10.0.0.2 inherit"\n'),
        ('NETIF="ifname=eth0,mac=00:18:51:00:00:01"\n', "--ifname eth0 --bridge br0",
         'NETIF="ifname=eth0,bridge=br0,mac=00:18:51:00:00:01"\n'),
        ('NETIF="ifname=eth0;ifname=eth1"\n', "--netif_del eth0", 'NETIF="ifname=eth1"\n'),
        ("", "--ram 512M --swap 1G", 'PHYSPAGES="0:131072"\nSWAPPAGES="0:262144"\n'),
        ("", "--ram 1G --physpages 5", 'PHYSPAGES="5"\n'),
        ("", "--diskspace 2G:2.2G --diskinodes 1000",
         'DISKSPACE="2097152:2306867"\nDISKINODES="1000:1000"\n'),
        ("", "--iolimit 10 --iopslimit unlimited", 'IOLIMIT="10485760"\nIOPSLIMIT="0"\n'),
        ("", "--private /p/$VEID --root /r/$VEID", 'VE_ROOT="/r/$VEID"\nVE_PRIVATE="/p/$VEID"\n'),
        ("# c\nONBOOT=no\n", "--onboot yes", '# c\nONBOOT="yes"\n'),
        ("", "--disabled yes --bootorder 5 --stop-timeout 9 --ostemplate x-1",
         'OSTEMPLATE="x-1"\nDISABLED="yes"\nBOOTORDER="5"\nSTOP_TIMEOUT="9"\n'),
    ],
)  # fmt: skip
def test_what_set_stores(run, node, conf, before, line, after):
    conf(before)
    assert run(f"set 101 {line} --save") == (0, SAVED.format(conf=node.conf), "")
    assert conf() == after


def test_ct0_is_the_node(run, node, monkeypatch):
    """Its 0.conf is there from the start; but for its share of CPU time, what is asked is kept and
    not applied."""
    monkeypatch.setattr("vzpy.story.host.set_cpuunits", lambda *_: False)  # no controller
    code, out, err = run("set 0 --cpuunits 1000")
    assert (code, out) == (2, "") and err.endswith(": cpuunits\n")
    code, out, err = run("set 0 --cpuunits 1000 --numproc 9 --onboot no --save")
    assert (code, out) == (0, f"CT configuration saved to {node.conf}/0.conf\n")
    assert err == "Warning: not applied on this node: cpuunits, numproc\n"
    with open(f"{node.conf}/0.conf") as file:
        assert 'CPUUNITS="1000"\n' in file.read()


def test_new_interfaces_are_completed(run, conf):
    conf("")
    assert run("set 101 --netif_add eth3 --netif_add x,00:18:51:00:00:01,h,,br0 --save")[0] == 0
    mac = "00:18:51:[0-9A-F]{2}:[0-9A-F]{2}:[0-9A-F]{2}"
    assert re.fullmatch(
        f'NETIF="ifname=eth3,mac={mac},host_ifname=veth101.3,host_mac={mac};'
        'ifname=x,bridge=br0,mac=00:18:51:00:00:01,host_ifname=h,host_mac=00:18:51:00:00:01"\n',
        conf(),
    )


def test_applyconfig(run, node, conf):
    conf('HOSTNAME="keep"\nNUMPROC="7"\nONBOOT="yes"\n')
    with open(f"{node.conf}/ve-x.conf-sample", "w") as file:
        file.write('NUMPROC="50"\nHOSTNAME="no"\nLOCAL_UID="1"\nLOCKDIR="/x"\nDISKSPACE="1G"\n')
    assert run("set 101 --applyconfig x --numproc 60 --save")[0] == 0
    assert conf() == (
        'HOSTNAME="keep"\nNUMPROC="50"\nONBOOT="yes"\nORIGIN_SAMPLE="x"\n'
        'DISKSPACE="1048576:1048576"\n'
    )


def test_names(run, node, conf):
    conf("")
    code, out, err = run("set", "101", "--name", "web 1", "--save")
    assert (code, out) == (0, "Name web 1 assigned\n" + SAVED.format(conf=node.conf))
    assert conf() == 'VEID="101"\nNAME="web 1"\n'
    assert run("status", "web 1")[1] == "CTID 101 deleted unmounted down\n"
    code, out, err = run("set", "102", "--name", "web 1", "--save")
    assert code == 131 and "Conflict: name web 1 already used by container 101" in err
    assert not os.path.exists(f"{node.conf}/102.conf")

    os.unlink(f"{node.names}/web 1")
    assert run("set 101 --applyconfig_map name --save")[1].startswith("Name web 1 assigned\n")
    assert os.readlink(f"{node.names}/web 1") == f"{node.conf}/101.conf"

    assert run("set 101 --name other --save")[0] == 0
    assert os.listdir(node.names) == ["other"]
    conf('NAME="changed by hand"\n')
    assert run("mount other") == (21, "", "Unable to find container by name other\n")
    conf('NAME="other"\n')
    assert run("set", "101", "--name", "", "--save")[0] == 0
    assert os.listdir(node.names) == [] and 'NAME=""' in conf()


def test_a_failed_save_takes_the_name_back(run, node, conf):
    conf("")
    os.mkdir(f"{node.conf}/101.conf.tmp")
    assert run("set 101 --name web --save")[0] == 139
    assert os.listdir(node.names) == [] and conf() == ""


def test_warnings_verbosity_and_log(run, node, conf):
    conf('rubbish\nWINGS="1"\nONBOOT="maybe"\n')
    path = f"{node.conf}/101.conf"
    lines = (
        f"Warning: can't parse {path}:1 ('=' not found), skipping\n"
        f'Warning at {path}:3: invalid value for ONBOOT ("maybe"), skipped\n'
    )
    assert run("set 101 --save") == (0, "No changes in CT configuration, not saving\n", lines)
    unknown = f'Warning at {path}:2: unknown parameter WINGS ("1"), ignored\n'
    assert run("--verbose set 101 --save")[1].startswith(unknown)
    assert run("--quiet set 101 --numproc 5") == (31, "", "")
    with open(f"{node.etc}/var/vzctl.log") as log:
        last = log.read().splitlines()[-1]
    stamp, text = last.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", stamp)
    assert text == "vzctl : CT 101 : Unable to apply UBC parameters: container is not running"


def test_the_lock_decides(run, node, conf):
    conf("")
    lock = f"{node.etc}/../vz/lock/101.lck"
    os.makedirs(os.path.dirname(lock), exist_ok=True)
    with open(lock, "w") as file:
        file.write(f"{os.getppid()}\n\n")
    code, out, err = run("set 101 --onboot yes --save")
    assert code == 9 and "Container already locked" in err and conf() == ""
    assert run("status 101")[0] == 0
    assert run("--skiplock set 101 --onboot yes --save")[0] == 0


@pytest.mark.parametrize(
    "line, code, out, err",
    [
        ("convert 101 --layout simfs", 0, "CT is already on simfs\n", ""),
        ("compact 101", 0, "Compact only makes sense for ploop containers\n", ""),
        ("snapshot 101", 43, "", "Container private area {vz}/private/101 does not exist\n"),
        ("snapshot-delete 101", 20, "", "Invalid syntax: snapshot id is missing\n"),
        ("enter 101 x", 20, "", "Invalid option 'x'\n"),
        ("enter 101 --exec", 20, "", "No command line given for --exec\n"),
        ("enter 101", 31, "", "Container is not running\n"),
        ("exec 101 true", 8, "", "Container is not running\n"),
        ("exec2 101 true", 31, "", "Container is not running\n"),
        ("console 101 1 2", 20, "", "Invalid syntax: too many parameters!\n"),
        ("console 101 x", 21, "", "Invalid tty number: x\n"),
        ("runscript 101 /nonexistent", 11, "", "Script not found: /nonexistent\n"),
        ("suspend 101 --dump --kill", 20, "", "Invalid syntax: only one sub command may be used\n"),
        ("suspend 101", 31, "", "Unable to setup checkpointing: container is not running\n"),
        ("stop 101", 0, "", "Unable to stop: container is not running\n"),
        ("start 101", 43, "", "Container private area {vz}/private/101 does not exist\n"),
    ],
)  # fmt: skip
def test_actions_on_a_stopped_vps(run, node, conf, line, code, out, err):
    conf("")
    vz = os.path.normpath(f"{node.etc}/../vz")
    assert run(line) == (code, out, err.format(vz=vz))


def test_quota_off(run, node, conf):
    conf('DISK_QUOTA="no"\n')
    for verb, code in (("on", 60), ("off", 66), ("init", 61)):
        said = "Disk quota is not enabled, skipping operation\n"
        assert run(f"quota{verb} 101") == (code, said, "")
