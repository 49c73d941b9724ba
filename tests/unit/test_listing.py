"""vzlist against the contract: lines, JSON, sorting, filters, exit codes (vzlist.md)."""

import json
import os

import pytest

from vzpy import netnotes, state
from vzpy.commands import vzlist
from vzpy.kernel.proc import boot_id, starttime
from vzpy.model import Facts, NodePaths

UNLIMITED = 9223372036854775807


class Node:
    """Files of a node; this process plays the init of what runs."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.paths = NodePaths.of(str(tmp / "etc"), str(tmp / "run"))
        for folder in ("etc/conf", "etc/names", "private", "root", "dump", "cgroup"):
            (tmp / folder).mkdir(parents=True)
        (tmp / "etc/vz.conf").write_text(
            f'VE_PRIVATE="{tmp}/private/$VEID"\nVE_ROOT="{tmp}/root/$VEID"\n'
            f'DUMPDIR="{tmp}/dump"\nVE_LAYOUT="overlay"\n'
        )

    def add(self, ctid, running=False, private=True, **values):
        text = "".join(f'{key}="{value}"\n' for key, value in values.items())
        (self.tmp / f"etc/conf/{ctid}.conf").write_text(text, errors="surrogateescape")
        if private:
            (self.tmp / f"private/{ctid}").mkdir()
        if values.get("NAME"):
            self.link(values["NAME"], ctid)
        if running:
            self.run(ctid, values.get("IP_ADDRESS", ""))

    def link(self, name, ctid):
        os.symlink(f"{self.paths.conf}/{ctid}.conf", self.tmp / f"etc/names/{name}")

    def run(self, ctid, addresses="", **changes):
        cgroup = self.tmp / f"cgroup/{ctid}"
        (cgroup / "ve/init.scope").mkdir(parents=True)
        (cgroup / "cgroup.threads").touch()
        (cgroup / "ve/cgroup.threads").write_text("1\n2\n3\n")
        (cgroup / "ve/init.scope/cgroup.threads").write_text("4\n5\n")
        pid = os.getpid()
        facts = {
            "ctid": ctid, "pid": pid, "starttime": starttime(pid), "boot_id": boot_id(),
            "layout": "overlay", "private": "", "root": "", "base": 1, "count": 1,
            "cgroup": str(cgroup), "init": "busybox", "daemon": False, "started": 0.0,
        }  # fmt: skip
        state.write_facts(self.paths, Facts(**{**facts, **changes}))
        notes = [(netnotes.ADDRESS, address) for address in addresses.split()]
        netnotes.write(state.directory(self.paths, ctid), notes)
        return cgroup


@pytest.fixture
def node(tmp_path, monkeypatch):
    made = Node(tmp_path)
    monkeypatch.setenv("VZ_ETC", made.paths.etc)
    monkeypatch.setenv("VZ_RUN", made.paths.run)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


@pytest.fixture
def run(capfd):
    def call(*argv):
        code = vzlist.main(list(argv))
        done = capfd.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture
def lines(run):
    """Rows of a call that succeeds silently."""

    def call(*argv):
        code, out, err = run(*argv)
        assert (code, err) == (0, "")
        return out.splitlines()

    return call


@pytest.fixture
def two(node):
    node.add(101, running=True, HOSTNAME="vps1001.example", IP_ADDRESS="10.1.1.1/24 10.1.1.2")
    node.add(1043)
    return node


def test_canonical_look(two, lines):
    assert lines("-a") == [
        "      CTID      NPROC STATUS    IP_ADDR         HOSTNAME",
        "       101          5 running   10.1.1.1        vps1001.example",
        "      1043          - stopped   -               -",
    ]


def test_only_running_ones_without_options(two, lines):
    assert [line.split()[0] for line in lines("-H")] == ["101"]
    assert [line.split()[0] for line in lines("-H", "-S")] == ["1043"]
    assert [line.split()[0] for line in lines("-H", "-aS")] == ["1043"]
    assert [line.split()[0] for line in lines("-H", "1043")] == ["1043"]
    assert lines("-H", "-S", "101") == []


def test_ids_one_a_line_with_blanks_in_front(two, lines):
    assert lines("-1") == ["       101"]
    assert lines("-a1") == ["       101", "      1043"]
    assert lines("-H", "-o", "veid", "-a") == ["       101", "      1043"]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ("hostname,ctid", "a-very-long-host-name-of-a-custo        101"),
        ("ctid,hostname", "       101 a-very-long-host-name-of-a-customer.example"),
        ("ip,ctid", "10.1.1.1/24            101"),
        ("ctid,ip", "       101 10.1.1.1/24 10.1.1.2"),
        ("nameserver,searchdomain", "192.0.2.1       a.example b.example"),
    ],
)
def test_long_values_are_cut_but_in_the_last_column(node, lines, fields, expected):
    node.add(
        101,
        HOSTNAME="a-very-long-host-name-of-a-customer.example",
        IP_ADDRESS="10.1.1.1/24 10.1.1.2",
        NAMESERVER="192.0.2.1 192.0.2.2",
        SEARCHDOMAIN="a.example b.example",
    )
    assert lines("-aH", "-o", fields) == [expected]


def test_no_trim(node, lines):
    node.add(101, HOSTNAME="h" * 40, IP_ADDRESS="10.1.1.1 10.1.1.2")
    assert lines("-aHt", "-o", "hostname,ip,ctid") == [
        f"{'h' * 40} 10.1.1.1 10.1.1.2        101"
    ]


def test_wide_numbers_push_the_line(node, lines):
    node.add(101, KMEMSIZE="unlimited", NUMPROC="5:6")
    assert lines("-aH", "-o", "kmemsize.l,numproc.b,numproc.l") == [
        f"{UNLIMITED}          5          6"
    ]


def test_beancounters_stopped_and_running(node, lines):
    node.add(101, NUMPROC="10:20")
    node.add(102, running=True, NUMPROC="10:20")
    fields = "numproc,numproc.m,numproc.b,numproc.l,numproc.f,numfile.b"
    rows = lines("-aH", "-o", fields)
    assert rows[0].split() == ["-", "-", "10", "20", "-", "0"]
    assert rows[1].split() == ["5", "5", "10", "20", "-", str(UNLIMITED)]


def test_memory_of_a_running_vps_where_there_is_a_controller(node, lines):
    node.add(101, running=True)
    cgroup = node.tmp / "cgroup/101"
    (cgroup / "pids.current").write_text("7\n")
    (cgroup / "pids.peak").write_text("9\n")
    (cgroup / "memory.current").write_text(f"{3 * 4096}\n")
    (cgroup / "memory.swap.current").write_text("0\n")
    fields = "numproc,numproc.m,physpages,physpages.m,swappages"
    assert lines("-H", "-o", fields)[0].split() == ["7", "9", "3", "3", "0"]


def test_a_vps_that_ends_just_now_costs_the_others_nothing(node, lines):
    node.add(101, running=True)
    node.add(102, running=True)
    for file in ("cgroup.threads", "ve/cgroup.threads", "ve/init.scope/cgroup.threads"):
        (node.tmp / "cgroup/101" / file).unlink()
    for folder in ("ve/init.scope", "ve", ""):
        (node.tmp / "cgroup/101" / folder).rmdir()
    (node.tmp / "cgroup/102/memory.current").write_text("4096\n")
    rows = lines("-H", "-o", "physpages,numproc")
    assert [row.split() for row in rows] == [["-", "-"], ["1", "5"]]


def test_status_words(node, lines, monkeypatch):
    from vzpy.kernel import proc

    for ctid in (101, 102, 103, 104):
        node.add(ctid, running=ctid == 101)
    root = str(node.tmp / "root/102")
    monkeypatch.setattr(proc, "mount_points", lambda: ["/", root])
    for ctid in (102, 103):
        (node.tmp / f"dump/Dump.{ctid}").touch()
    assert lines("-aH", "-o", "status") == ["running", "mounted", "suspended", "stopped"]
    order = [line.split()[0] for line in lines("-aH", "-o", "ctid", "-s", "status")]
    assert order == ["101", "104", "102", "103"]


def test_status_is_not_looked_for_unasked(node, lines, monkeypatch):
    from vzpy.kernel import proc

    node.add(101)
    monkeypatch.setattr(proc, "mount_points", lambda: pytest.fail("looked at mounts"))
    assert lines("-aH", "-o", "ctid,hostname,numproc") != []


def test_a_running_vps_needs_no_configuration_for_its_number(node, lines):
    node.run(101)  # N.conf is gone
    assert lines("-H") == ["       101          5 running   -               -"]
    node.add(102, running=True)
    os.chmod(node.tmp / "etc/conf/102.conf", 0)
    assert lines("-1") == ["       101", "       102"]


def test_a_start_of_another_boot_or_process_does_not_count(node, lines):
    node.add(101)
    node.run(101, boot_id="another")
    node.add(102)
    node.run(102, starttime=1)
    assert lines("-aH", "-o", "status") == ["stopped", "stopped"]


def test_without_a_private_area_it_is_hidden(node, run):
    node.add(101, private=False)
    header = "      CTID      NPROC STATUS    IP_ADDR         HOSTNAME\n"
    assert run("-a") == (0, header, "")
    assert run("101") == (0, header, "")


def test_names(node, lines):
    node.add(101, NAME="web")
    node.add(102, NAME="db", HOSTNAME="db.example")
    os.unlink(node.tmp / "etc/names/db")
    node.link("db", 999)
    assert lines("-aHn") == [
        "       web          - stopped   -               -",
        "       102          - stopped   -               db.example",
    ]
    assert lines("-aH", "-o", "name") == ["web", "-"]
    assert lines("-H", "-o", "ctid", "web") == ["       101"]


def test_the_later_of_name_and_output_wins(node, lines):
    node.add(101)
    assert lines("-a", "-n", "-o", "ctid")[0] == "      CTID"
    assert lines("-a", "-o", "ctid", "-n")[0].startswith(" SMARTNAME      NPROC STATUS")


def test_odd_columns(node, lines):
    node.add(
        101,
        ORIGIN_SAMPLE="basic",
        VE_LAYOUT="simfs",
        ONBOOT="yes",
        BOOTORDER="7",
        DISABLED="yes",
        FEATURES="nfs:on sit:off",
        CAPABILITY="NET_ADMIN:on SYS_TIME:off",
        VM_OVERCOMMIT="1.5",
        PHYSPAGES="0:65536",
        CPULIMIT="25",
        IOPRIO="0",
        IOLIMIT="1048576",
        DISKSPACE="1024:2048",
        DISKINODES="10:20",
        NETFILTER="full",
    )
    assert lines("-a", "-o", "origin_sample,layout,ctid") == [
        "                   ORIGIN_SAMPLE  LAYOUT       CTID",
        "basic                            simfs          101",
    ]

    def one(fields):
        return lines("-aH", "-o", fields)[0]

    assert one("onboot,bootorder,disabled,vswap") == "   yes          7    yes   yes"
    assert one("features,capability") == "nfs:on,sit:off  net_admin:on,sys_time:off"
    assert one("vm_overcommit,cpulimit,ioprio,iolimit") == "   1.5      25   0    1048576"
    assert one("diskspace,diskspace.s,diskspace.h") == "         -       1024       2048"
    assert one("diskinodes.s,diskinodes.h,netfilter") == "        10         20 full"
    assert one("laverage,uptime,cpus,iopslimit") == "             -               -     -    -"


def test_nothing_set(node, lines):
    node.add(101)
    assert lines("-aH", "-o", "onboot,bootorder,disabled,vswap,cpuunits,cpulimit") == [
        "     -          -     no   yes       -       -"
    ]
    row = lines("-aH", "-o", "iolimit,ioprio,vm_overcommit,description")
    assert row == ["         -   -      - -"]


def test_layout_is_found_where_the_configuration_does_not_tell(node, lines):
    node.add(101)
    node.add(102)
    overlay = node.tmp / "private/102"
    (overlay / "upper").mkdir()
    (overlay / "tree").symlink_to("/nonexistent")
    overlay.chmod(0o700)
    expected = "overlay" if overlay.stat().st_uid == 0 else "simfs"
    assert lines("-aH", "-o", "layout") == ["simfs", expected]


def test_uptime(node, lines):
    node.add(101, running=True)
    row = lines("-H", "-o", "uptime")[0]
    assert len(row) == 15 and row.startswith("000d00h:")
    assert vzlist._uptime(3 * 86400 + 4 * 3600 + 5 * 60 + 6.9) == "003d04h:05m:06s"


def test_list_of_fields(run):
    code, out, err = run("-L")
    rows = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "ctid            CTID           "
    assert rows[:3] == [["ctid", "CTID"], ["veid", "CTID"], ["vpsid", "CTID"]]
    start = rows.index(["kmemsize", "KMEMSIZE"])
    assert rows[start + 1 : start + 5] == [
        ["kmemsize.m", "KMEMSIZE.M"],
        ["kmemsize.b", "KMEMSIZE.B"],
        ["kmemsize.l", "KMEMSIZE.L"],
        ["kmemsize.f", "KMEMSIZE.F"],
    ]
    start = rows.index(["diskspace", "DSPACE"])
    assert rows[start + 1 : start + 3] == [["diskspace.s", "DSPACE.S"], ["diskspace.h", "DSPACE.H"]]
    assert len(rows) == len({name for name, _ in rows}) == 56 + 21 * 4 + 2 * 2 + 3


def test_every_field_can_be_shown_and_sorted_by(node, run):
    node.add(101, running=True, HOSTNAME="a", IP_ADDRESS="10.0.0.1")
    node.add(102)
    from vzpy.columns import all_names

    for name in all_names():
        for sort in (name, f"-{name}"):
            code, out, err = run("-a", "-o", name, "-s", sort)
            assert (code, err, len(out.splitlines())) == (0, "", 3), name


# Sorting


def order(lines, *argv):
    return [int(line) for line in lines("-aH", "-o", "ctid", *argv)]


def test_sorting(node, lines):
    node.add(101, HOSTNAME="b", IP_ADDRESS="9.0.0.1", BOOTORDER="2", NUMPROC="5:9", ONBOOT="yes")
    node.add(102, HOSTNAME="a", IP_ADDRESS="10.0.0.1", BOOTORDER="1", NUMPROC="7:8")
    node.add(103, NUMPROC="6:7", BOOTORDER="2")
    node.add(1000)
    assert order(lines) == [101, 102, 103, 1000]
    assert order(lines, "-s", "-ctid") == [1000, 103, 102, 101]
    assert order(lines, "-s", "hostname") == [103, 1000, 102, 101]
    assert order(lines, "-s", "ip") == [103, 1000, 102, 101]  # as text
    assert order(lines, "-s", "bootorder") == [1000, 102, 103, 101]
    assert order(lines, "-s", "-bootorder") == [101, 103, 102, 1000]
    assert order(lines, "-s", "onboot") == [101, 102, 103, 1000]
    # The original takes one for the other.
    assert order(lines, "-s", "numproc.l") == [1000, 101, 103, 102]
    assert order(lines, "-s", "numproc.b") == [1000, 103, 102, 101]


def test_uptime_sorts_downwards(node, lines):
    node.add(101)
    node.add(102, running=True)
    assert order(lines, "-s", "uptime") == [102, 101]
    assert order(lines, "-s", "-uptime") == [101, 102]


# Filters


def test_filters(node, lines):
    node.add(101, HOSTNAME="a.example", NAME="one", DESCRIPTION="with/slash")
    node.add(102, HOSTNAME="b.example", NAME="two")
    node.add(103)
    assert order(lines, "-h", "*.example") == [101, 102]
    assert order(lines, "-h", "[!a]*") == [102]
    assert order(lines, "-h", "a*", "-N", "t*") == []
    assert order(lines, "-N", "[[:alpha:]]*") == [101, 102]
    assert order(lines, "-d", "with*") == [101]
    assert order(lines, "-h", r"\a.example") == [101]
    assert lines("-a", "-h", "none") == ["      CTID      NPROC STATUS    IP_ADDR         HOSTNAME"]


# Errors


@pytest.mark.parametrize(
    "argv, text",
    [
        (["-o", "nonsense"], "Unknown field: nonsense"),
        (["-o", "ctid,"], "Unknown field: "),
        (["-o", "ctid.b"], "Unknown field: ctid.b"),
        (["-o", "kmemsize.x"], "Unknown field: kmemsize.x"),
        (["-o", "kmemsize."], "Unknown field: kmemsize."),
        (["-o", "diskspace.l"], "Unknown field: diskspace.l"),
        (["-o", "x" * 40], f"Invalid field: {'x' * 40}"),
        (["-s", "-nonsense"], "Invalid sort field name: -nonsense"),
        (["-j", "-o", "kmemsize.b"], "Field `kmemsize.b' is not available in JSON output"),
        (["abc"], "CT ID abc is invalid."),
        (["-5"], None),
        (["2147483645"], "CT ID 2147483645 is invalid."),
        (["--", "-5"], "CT ID -5 is invalid."),
        # the order of checks: numbers, then fields
        (["-o", "nonsense", "abc"], "CT ID abc is invalid."),
        (["-o", "nonsense", "-s", "wrong"], "Unknown field: nonsense"),
    ],
)
def test_errors(node, run, argv, text):
    code, out, err = run(*argv)
    assert code == 1
    if text is not None:
        assert (out, err) == ("", f"{text}\n")


def test_usage(run):
    code, out, err = run("--help")
    assert (code, err) == (1, "")
    assert out.startswith("Usage: vzlist [-a | -S]")
    code, out, err = run("--nonsense")
    assert (code, err) == (1, "vzlist: unrecognized option '--nonsense'\n")
    assert out.startswith("Usage: vzlist")


def test_abbreviations(two, lines):
    assert lines("--al", "--no-h", "--out", "ctid") == ["       101", "      1043"]


def test_not_root(node, run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("-a") == (1, "", "This program can only be run under root.\n")
    assert run("-o", "x") == (1, "", "Unknown field: x\n")
    assert run("-L")[0] == 0


def test_nothing_found(node, run):
    assert run() == (0, "", "Container(s) not found\n")
    assert run("-a") == (0, "", "Container(s) not found\n")
    assert run("101") == (1, "", "Container(s) not found\n")
    assert run("-j") == (0, "[]\n", "")
    assert run("-j", "101") == (1, "[]\n", "")


def test_no_vz_conf_is_10(node, run):
    os.unlink(f"{node.paths.etc}/vz.conf")
    code, out, err = run("-a")
    assert (code, out) == (10, "")
    assert err.splitlines()[0] == (
        f"Unable to open {node.paths.etc}/vz.conf: No such file or directory"
    )


def test_invalid_names_of_files(node, run):
    node.add(101)
    for name in ("abc.conf", "-1.conf", "2147483645.conf", "0.conf", "ve-x.conf-sample", "1.mount"):
        (node.tmp / "etc/conf" / name).touch()
    code, out, err = run("-a1")
    assert (code, out) == (0, "       101\n")
    assert sorted(err.splitlines()) == [
        f"Warning: invalid CTID in config file name: {name}, skipping"
        for name in ("-1.conf", "2147483645.conf", "abc.conf")
    ]


# JSON


def test_json_layout(two, run):
    (two.tmp / "etc/conf/101.conf").write_text(
        'HOSTNAME="vps1"\nIP_ADDRESS="10.1.1.1 10.1.1.2"\nNUMPROC="240"\nDISKSPACE="10:20"\n'
    )
    code, out, err = run("-j", "-o", "ctid,numproc,status,ip,hostname,diskspace,laverage")
    assert (code, err) == (0, "")
    assert out == (
        "[\n"
        "  {\n"
        '    "ctid": 101,\n'
        '    "numproc": {\n'
        '      "held": 5,\n'
        '      "maxheld": 5,\n'
        '      "barrier": 240,\n'
        '      "limit": 240,\n'
        '      "failcnt": null\n'
        "    },\n"
        '    "status": "running",\n'
        '    "ip": ["10.1.1.1", "10.1.1.2"],\n'
        '    "hostname": "vps1",\n'
        '    "diskspace": {\n'
        '      "usage": 0,\n'
        '      "softlimit": 10,\n'
        '      "hardlimit": 20\n'
        "    },\n"
        '    "laverage": null\n'
        "  }\n"
        "]\n"
    )


def test_json_of_everything(two, run):
    from vzpy.columns import ORDER

    code, out, err = run("-aj")
    rows = json.loads(out)
    assert [list(row) for row in rows] == [list(ORDER)] * 2
    stopped = rows[1]
    assert stopped["numproc"] == {
        "held": 0, "maxheld": 0, "barrier": 0, "limit": 0, "failcnt": 0,
    }  # fmt: skip
    expected = {
        "uptime": 0.0, "laverage": None, "ip": [], "hostname": None, "smart_name": 1043,
        "onboot": None, "bootorder": None, "disabled": False, "vswap": True, "features": None,
        "capability": None, "cpulimit": None, "cpus": 0, "ioprio": 0, "iolimit": 0,
        "iopslimit": 0, "vm_overcommit": 0, "layout": "simfs", "netfilter": None,
        "diskspace": {"usage": 0, "softlimit": 0, "hardlimit": 0},
    }  # fmt: skip
    assert {name: stopped[name] for name in expected} == expected


def test_json_is_valid_whatever_the_text(node, run):
    node.add(101, DESCRIPTION='a \\"quoted\\" \\\\ text \udcff \u00e9', FEATURES="nfs:on sit:off")
    code, out, err = run("-aj", "-o", "description,features,smart_name")
    row = json.loads(out)[0]
    assert row["description"] == 'a "quoted" \\ text \ufffd \u00e9'
    assert row["features"] == {"nfs": True, "sit": False}


def test_json_ignores_what_is_for_lines(two, run):
    assert json.loads(run("-a1j")[1]) == [{"veid": 101}, {"veid": 1043}]
    assert run("-aj", "-h", "none")[1] == "[\n]\n"


def test_bytes_that_are_no_text_go_through(node, capfdbinary):
    node.add(101, DESCRIPTION="caf\udce9")
    assert vzlist.main(["-aH", "-o", "description"]) == 0
    assert capfdbinary.readouterr().out == b"caf\xe9\n"
