"""`set` of a running VPS whose cgroup is a plain folder: what is applied, told, saved."""

import os

import pytest

from vzpy import nodesetup
from vzpy.errors import AlreadyRunning, Exit, VzError
from vzpy.model import Facts, NodePaths
from vzpy.node import Node
from vzpy.story import limits
from vzpy.vps import VPS

PAGE = 4096
KNOBS = (
    "memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max", "pids.max",
    "cpu.weight", "cpu.max",
)  # fmt: skip


class Running(VPS):
    """A VPS that runs for whoever asks; `knobs` are the cgroup files of this node."""

    def __init__(self, node, knobs):
        super().__init__(node, 101)
        self.cgroup = f"{node.paths.run}/cgroup"
        os.makedirs(self.cgroup)
        for name in knobs:
            open(f"{self.cgroup}/{name}", "w").close()
        with open(self.conf_path, "w") as file:
            file.write('PHYSPAGES="0:1000"\nSWAPPAGES="0:1000"\n')
        self.told = []

    def facts(self):
        return Facts(
            ctid=101, pid=os.getpid(), starttime=0, boot_id="", layout="simfs", private="",
            root="", base=1 << 20, count=65536, cgroup=self.cgroup, init="busybox", daemon=False,
            started=0.0,
        )  # fmt: skip

    def given(self, **params):
        """What set() told of, as "stream text"."""
        told = []
        try:
            self.set(report=lambda event: told.append(event), **params)
        finally:
            self.told = [("err " if e.level < 0 else "out ") + str(e) for e in told]
        return self.told

    def knob(self, name):
        with open(f"{self.cgroup}/{name}") as file:
            return file.read().strip()

    def conf(self):
        with open(self.conf_path) as file:
            return file.read()


@pytest.fixture
def make(tmp_path):
    paths = NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))
    nodesetup.setup(paths, str(tmp_path / "vz"))
    node = Node(etc=paths.etc, run=paths.run)
    return lambda knobs=KNOBS: Running(node, knobs)


def test_limits_are_applied_told_and_saved(make, monkeypatch):
    monkeypatch.setattr(limits, "slurp", lambda path: b"Filename\n/dev/sda2\n")
    vps = make()
    assert vps.given(numproc="50:60", ram="16M", swap="32M") == [
        "out UB limits were set successfully",
        f"out CT configuration saved to {vps.conf_path}",
    ]
    assert vps.knob("pids.max") == "60"
    assert vps.knob("memory.max") == str(16 << 20) and vps.knob("memory.swap.max") == str(32 << 20)
    assert vps.conf() == 'PHYSPAGES="0:4096"\nSWAPPAGES="0:8192"\nNUMPROC="50:60"\n'

    assert vps.given(cpuunits=2000, cpulimit=50, save=False) == [
        "out Setting CPU limit: 50",
        "out Setting CPU units: 2000",
        "out WARNING: Settings were not saved to config and will be lost after CT restart"
        " (use --save flag)",
    ]
    assert vps.knob("cpu.weight") == "200" and vps.knob("cpu.max") == "50000 100000"
    assert "CPU" not in vps.conf()
    assert vps.given(reset_ub=True, save=False) == ["out UB limits were set successfully"]
    assert vps.knob("cpu.weight") == "200"  # no beancounter
    assert vps.knob("memory.high") == str((16 << 20) * 97 // 100 // PAGE * PAGE)


def test_swap_on_a_node_without(make, monkeypatch):
    """Written, since swap may come; and told."""
    monkeypatch.setattr(limits, "slurp", lambda path: b"Filename\n")
    vps = make()
    told = "err Warning: not applied on this node: swappages (this node has no swap)"
    assert told in vps.given(ram="16M", swap="32M")
    assert vps.knob("memory.swap.max") == str(32 << 20)
    assert told not in vps.given(ram="16M", swap="0")


def test_an_error_leaves_what_was_set_before(make):
    """Also what was set without --save, which N.conf does not know."""
    vps = make()
    vps.given(numproc=77, save=False)
    if not os.listxattr(vps.cgroup):
        pytest.skip("needs trusted extended attributes")
    with pytest.raises(VzError):
        vps.given(numproc=88, ipadd="10.0.0.1", save=False)
    with pytest.raises(VzError):
        vps.given(numproc=88, diskspace=5, save=False)
    assert vps.knob("pids.max") == "77"


def test_memory_in_use_is_not_taken(make):
    vps = make((*KNOBS, "memory.current", "memory.reclaim", "memory.swap.current"))
    for name, text in (("memory.current", 900 * PAGE), ("memory.swap.current", 0),
                       ("memory.high", "max"), ("memory.max", 1000 * PAGE)):
        with open(f"{vps.cgroup}/{name}", "w") as file:
            file.write(f"{text}\n")
    before = vps.conf()
    with pytest.raises(VzError) as err:
        vps.given(physpages="0:500", numproc=9, save=False)
    assert err.value.code == Exit.SETUBC
    assert str(err.value) == (
        "Error: unable to lower physpages to 500 pages: 900 pages are in use"
    )
    assert (vps.conf(), vps.knob("memory.max")) == (before, str(1000 * PAGE))
    assert vps.knob("memory.high").startswith("max") and not vps.knob("pids.max")


@pytest.mark.parametrize(("given", "code", "says"), [
    ({"cpumask": "8-9"}, Exit.SETFSHD, "Error: nothing of --cpumask is online: the node has 0,1"),
    ({"vmguarpages": "900T:unlimited", "physpages": "0:990T", "swappages": "0:0"},
     Exit.OVERCOMMIT, "Hardware node is overcommitted: vmguarpages of 241591910400 pages, other"),
    ({"iolimit": 5}, Exit.SET_IO, "Error: no I/O limit is possible:  lies on no block device"),
])
def test_what_cannot_be_on_this_node(make, given, code, says):
    vps = make()
    for name, text in (("cpus", "0-1"), ("mems", "0")):
        with open(f"{vps.node.paths.run}/cpuset.{name}.effective", "w") as file:
            file.write(text)
    before = vps.conf()
    for save in (True, False):
        with pytest.raises(VzError) as err:
            vps.given(**given, cpulimit=50, save=save)
        assert err.value.code == code and vps.conf() == before and not vps.knob("cpu.max")
    assert str(err.value).startswith(says)


def test_a_missing_controller(make):
    """Without save an error, and nothing is changed; with save a line that names it."""
    vps = make(("memory.max", "memory.high", "memory.swap.max", "cpu.weight"))
    before = vps.conf()
    with pytest.raises(VzError) as err:
        vps.given(numproc=50, save=False)
    assert err.value.code == Exit.SETUBC and err.value.message.endswith(": numproc")
    assert vps.conf() == before and vps.told == []
    assert vps.given(numproc=50, cpuunits=500) == [
        "out Setting CPU units: 500",
        "err Warning: not applied on this node: numproc",
        f"out CT configuration saved to {vps.conf_path}",
    ]
    assert vps.conf() == before + 'NUMPROC="50"\nCPUUNITS="500"\n'


def test_a_room_that_is_not_there(make):
    vps = make()
    before = vps.conf()
    for given, code in (({"pci_add": "00:1f.2"}, Exit.SET_DEVICES),
                        ({"cpuweight": 5}, Exit.SETFSHD)):
        with pytest.raises(VzError) as err:
            vps.given(**given, numproc=9, save=False)
        assert err.value.code == code and vps.conf() == before
        assert vps.knob("pids.max") in ("", "max")
    told = vps.given(pci_add="00:1f.2", numproc=9)
    assert told == [
        "out UB limits were set successfully",
        "err Warning: not applied on this node: pci_add",
        f"out CT configuration saved to {vps.conf_path}",
    ]


def test_swap_is_required(make):
    vps = make()
    with open(vps.conf_path, "w"):
        pass
    with pytest.raises(VzError) as err:
        vps.given(ram="1G")
    assert vps.told == ["err Error: required UB parameter (swap) not set"]
    assert err.value.code == Exit.NOTENOUGHUBCPARAMS
    assert err.value.message.startswith("Error: failed to apply some parameters, not saving")
    assert vps.conf() == ""


def test_what_needs_a_restart(make):
    vps = make()
    with pytest.raises(AlreadyRunning, match="Unable to change VE_ROOT on a running container"):
        vps.given(root="/x")
    told = vps.given(capability="net_admin:on", features={"nfs": True}, quotaugidlimit=5, numproc=7)
    assert told == [
        "err Unable to set capability on a running container",
        "err Unable to set features on a running container",
        "err Unable to turn on second-level disk quota on a running container",
        "out UB limits were set successfully",
        "err Warning: not applied on this node: quotaugidlimit",
        "err WARNING: Some of the parameters could not be applied to a running container.\n"
        "\tPlease consider using --setmode option",
        f"out CT configuration saved to {vps.conf_path}",
    ]
    saved = vps.conf()
    assert 'CAPABILITY="NET_ADMIN:on"\nQUOTAUGIDLIMIT="5"\nFEATURES="nfs:on"\n' in saved
    # The same again changes nothing, so nothing needs a restart.
    assert vps.given(capability="net_admin:on") == [
        f"out CT configuration saved to {vps.conf_path}"
    ]
    with pytest.raises(AlreadyRunning) as err:
        vps.given(capability="net_admin:off", numproc=8, setmode="ignore")
    assert err.value.message == "Unable to set capability on a running container"
    assert vps.conf() == saved and vps.knob("pids.max") == "7"


def test_setmode_restart_that_fails_restores(make, monkeypatch):
    from vzpy.story import set as story

    vps, calls = make(), []
    before = vps.conf()

    def restart(vps, report):
        calls.append(vps.config.own("CAPABILITY"))
        if len(calls) == 1:
            raise VzError("no", 47)

    monkeypatch.setattr(story, "_restart", restart)
    with pytest.raises(VzError, match="no"):
        vps.given(capability="net_admin:on", setmode="restart", name="web")
    assert vps.conf() == before and not os.listdir(vps.node.paths.names)
    assert vps.given(capability="net_admin:on", setmode="restart") == [
        f"out CT configuration saved to {vps.conf_path}"
    ]
    assert calls == ["NET_ADMIN:on"] * 2
