"""The planning tools: rules and their repair, formulas, what is printed and with which code."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, strategies

from vzpy import hostfacts
from vzpy.cli import main
from vzpy.model import UNLIMITED, Host
from vzpy.planning import oversell, scale, split, usage
from vzpy.planning.validate import Rules

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
HOST = Host(8 * GIB, 8 * GIB, 8 * GIB, 60000, 10000.4)
SAMPLES = sorted((ROOT / "templates/conf").glob("*sample"))
GOOD = {
    "NUMPROC": (100, 100), "NUMTCPSOCK": (100, 100), "NUMOTHERSOCK": (100, 100),
    "OOMGUARPAGES": (1000, UNLIMITED), "VMGUARPAGES": (1000, UNLIMITED),
    "KMEMSIZE": (10 << 20, 11 << 20), "TCPSNDBUF": (1 << 20, 2 << 20),
    "TCPRCVBUF": (1 << 20, 2 << 20), "OTHERSOCKBUF": (1 << 20, 2 << 20),
    "DGRAMRCVBUF": (1 << 20, 1 << 20), "PRIVVMPAGES": (2000, 3000), "NUMFILE": (4000, 4000),
    "DCACHESIZE": (1536000, 1536000), "PHYSPAGES": (0, UNLIMITED), "NUMPTY": (16, 16),
    "LOCKEDPAGES": (10, 10), "SHMPAGES": (10, 10), "NUMFLOCK": (10, 20), "NUMSIGINFO": (256, 256),
    "NUMIPTENT": (16, 16), "DISKSPACE": (1, 2), "DISKINODES": (1, 2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    """A node without a VPS, on a machine of known size."""
    monkeypatch.setattr(hostfacts, "facts", lambda: HOST)
    monkeypatch.setenv("VZ_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("VZ_RUN", str(tmp_path / "run"))
    (tmp_path / "etc/conf").mkdir(parents=True)
    (tmp_path / "etc/vz.conf").write_text(f'VE0CPUUNITS="2000"\nVE_PRIVATE="{tmp_path}/$VEID"\n')
    return tmp_path / "etc"


def text(pairs) -> str:
    return "".join(f'{key}="{a}:{b}"\n' for key, (a, b) in pairs.items())


def told(pairs, repair=False):
    """(message, remedy) of each broken rule."""
    found = []
    for finding in Rules(pairs).classic(True):
        found.append((str(finding), finding.remedy))
        if repair and finding.key:
            pairs[finding.key] = finding.pair
    return found


# vzcfgvalidate


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: p.name)
def test_shipped_samples_are_valid(sample, capsys):
    assert main("vzcfgvalidate", [str(sample)]) == 0
    assert capsys.readouterr() == ("", "Validation completed: success\n")


@pytest.mark.parametrize(
    ("key", "pair", "message", "remedy"),
    [
        ("NUMPROC", (90, 100), "Error: barrier should be equal to limit for numproc"
         " (currently, 90:100)", "100:100"),
        ("KMEMSIZE", (12 << 20, 1 << 20), "Error: barrier should be <= limit for kmemsize"
         " (currently, 12582912:1048576)", "12582912:12582912"),
        ("VMGUARPAGES", (1000, 5), f"Error: limit should be = {UNLIMITED} for vmguarpages"
         " (currently, 5)", str(UNLIMITED)),
        ("PHYSPAGES", (7, UNLIMITED), "Error: barrier should be = 0 for physpages"
         " (currently, 7)", "0"),
        ("DISKSPACE", (3, 2), "Error: barrier should be <= limit for diskspace"
         " (currently, 3:2)", "3:3"),
        ("DCACHESIZE", (1, 2), "Warning: dcachesize.lim should be > 1536000 (currently, 2)",
         "1536000"),
        ("KMEMSIZE", (1 << 20, 2 << 20), "Error: kmemsize.bar should be > 3584000"
         " (currently, 1048576)", "3584000:4632576"),
        ("PRIVVMPAGES", (10, 20), "Warning: privvmpages.bar should be > 1000 (currently, 10)",
         "1000"),
        ("TCPSNDBUF", (1 << 20, 1 << 20), "Error: tcpsndbuf.lim-tcpsndbuf.bar should be > 256000"
         " (currently, 1048576-1048576=0)", "1048576:1304576"),
        ("TCPRCVBUF", (1 << 20, 1 << 20), "Warning: tcprcvbuf.lim-tcprcvbuf.bar should be > 256000"
         " (currently, 1048576-1048576=0)", "1048576:1304576"),
        ("TCPRCVBUF", (1, 1 << 20), "Warning: tcprcvbuf.bar should be > 65536 (currently, 1)",
         "65536:1114111"),
        ("DGRAMRCVBUF", (1, 2), "Warning: dgramrcvbuf.bar should be > 32768 (currently, 1)",
         "32768:32769"),
        ("DGRAMRCVBUF", (40000, 40000), "Recommendation: dgramrcvbuf.bar should be > 132096"
         " (currently, 40000)", "132096:132096"),
        ("NUMFILE", (1, 1), "Warning: numfile should be > 1600 (currently, 1)", "1600:1600"),
    ],
)  # fmt: skip
def test_rules_and_their_repair(key, pair, message, remedy):
    pairs = GOOD | {key: pair}
    assert told(pairs) == [(message, remedy)]
    assert told(pairs, repair=True) == [(message, remedy)]
    assert [text for text, _ in told(pairs) if not text.startswith("Recommendation")] == []


def test_missing_parameters_end_the_examination():
    pairs = {key: pair for key, pair in GOOD.items() if key not in ("NUMPTY", "NUMPROC")}
    pairs["NUMFILE"] = (1, 2)
    assert told(pairs) == [("Error: parameter numproc not found", ""),
                           ("Error: parameter numpty not found", "")]
    del (pairs := dict(GOOD))["NUMFLOCK"]
    assert told(pairs) == [("Error: parameter numflock not found", "")]


def test_everything_unlimited_is_valid():
    unlimited = dict.fromkeys(GOOD, (UNLIMITED, UNLIMITED)) | {"PHYSPAGES": (0, UNLIMITED)}
    assert told(unlimited) == []


PAIRS = strategies.fixed_dictionaries({
    key: strategies.tuples(*[strategies.integers(0, 10**7) | strategies.just(UNLIMITED)] * 2)
    for key in (*GOOD, "AVNUMPROC")
})  # fmt: skip


@given(PAIRS)
def test_one_repair_is_enough(pairs):
    told(pairs, repair=True)
    again = [message for message, _ in told(pairs)]
    # What is raised later may ask more of a sum that was looked at before.
    told(pairs, repair=True)
    told(pairs, repair=True)
    assert told(pairs) == [], again


def test_vswap_is_measured_against_the_node(tmp_path, capsys):
    conf = tmp_path / "x.conf"
    conf.write_text('PHYSPAGES="1:3G"\nSWAPPAGES="0:9G"\n')
    assert main("vzcfgvalidate", [str(conf)]) == 2
    assert capsys.readouterr().err == (
        "Error: physpages.bar should be = 0 (currently, 1)\n"
        f"Warning: swappages.lim should be <= {2 << 20} (currently, {9 << 18})\n"
    )
    assert main("vzcfgvalidate", ["-r", str(conf)]) == 0
    assert capsys.readouterr() == (
        f"set to 0\nset to {2 << 20}\n",
        "Error: physpages.bar should be = 0 (currently, 1)\n"
        f"Warning: swappages.lim should be <= {2 << 20} (currently, {9 << 18})\n"
        "Validation completed: success\n",
    )
    assert conf.read_text() == f'PHYSPAGES="0:{3 << 18}"\nSWAPPAGES="0:{2 << 20}"\n'
    assert main("vzcfgvalidate", ["-v", "no", str(conf)]) == 2
    conf.write_text('PHYSPAGES="0:3G"\n')
    assert main("vzcfgvalidate", [str(conf)]) == 2
    assert "Error: parameter swappages not found\n" in capsys.readouterr().err


def test_ask_mode(tmp_path, capsys, monkeypatch):
    conf = tmp_path / "x.conf"
    broken = text(GOOD | {"NUMPROC": (90, 100), "NUMPTY": (1, 2)})
    conf.write_text(broken)
    monkeypatch.setattr("sys.stdin", io.StringIO("perhaps\n\nno\n"))
    assert main("vzcfgvalidate", ["-i", str(conf)]) == 2
    out, err = capsys.readouterr()
    assert out == "set to 100:100\nset to 2:2\n"
    assert err.count(" (y/n) [y] ") == 3 and "success" not in err
    assert conf.read_text() == broken
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    assert main("vzcfgvalidate", ["-i", str(conf)]) == 0
    assert 'NUMPROC="100"' in conf.read_text() and 'NUMPTY="2"' in conf.read_text()


def test_a_recommendation_is_no_failure(tmp_path, capsys):
    conf = tmp_path / "x.conf"
    conf.write_text(text(GOOD | {"DGRAMRCVBUF": (40000, 40000)}))
    assert main("vzcfgvalidate", [str(conf)]) == 0
    assert capsys.readouterr().err.startswith("Recommendation: ")


@pytest.mark.parametrize("tool", ["vzcfgvalidate", "vzcfgscale"])
def test_files_that_cannot_be_read(tool, tmp_path, capsys):
    assert main(tool, [str(tmp_path / "none")]) == 1
    missing = {"vzcfgvalidate": "Container configuration file {} not found\n",
               "vzcfgscale": "No such file {}\n"}[tool]
    assert capsys.readouterr().err == missing.format(tmp_path / "none")
    assert main(tool, [str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", f"Unable to open {tmp_path}: not a configuration file\n")
    assert main(tool, []) == 1
    assert capsys.readouterr().err.startswith(f"Usage: {tool} ")


def test_without_a_vz_conf(node, tmp_path, capsys):
    (node / "vz.conf").unlink()
    assert main("vzcfgvalidate", [str(SAMPLES[0])]) == 0
    warning = f"WARNING: Global configuration file {node}/vz.conf not found\n"
    assert capsys.readouterr().err == f"{warning}Validation completed: success\n"


@pytest.mark.parametrize(
    ("tool", "argv", "code"),
    [
        ("vzcfgvalidate", ["-x", "f"], 1),
        ("vzcfgvalidate", ["-v", "maybe", "f"], 1),
        ("vzcalc", ["--bad"], 1),
        ("vzcalc", [], 1),
        ("vzmemcheck", ["-x"], 1),
        ("vzmemcheck", ["101"], 1),
        ("vzcpucheck", ["-x"], 2),
        ("vzcpucheck", ["-v", "-v"], 2),
        ("vzsplit", ["-n", "ten"], 1),
        ("vzsplit", ["-s", "-1"], 1),
        ("vzsplit", ["-v", "maybe"], 1),
        ("vzsplit", ["-f", "a/b"], 1),
        ("vzsplit", ["-n", "2", "extra"], 1),
        ("vzoversell", ["a", "b"], 1),
    ],
)
def test_wrong_command_lines(tool, argv, code, capsys):
    assert main(tool, argv) == code
    out, err = capsys.readouterr()
    assert out == "" and f"Usage: {tool}" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "tool",
    ["vzcfgvalidate", "vzcalc", "vzmemcheck", "vzsplit", "vzoversell", "vzcfgscale"],
)
def test_usage_that_is_asked_for(tool, capsys):
    assert main(tool, ["-h"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: {tool} ") and err == ""


# vzcalc, vzmemcheck, vzcpucheck


def test_vzcalc_of_one_that_does_not_run(node, capsys):
    (node / "conf/101.conf").write_text(text(GOOD))
    assert main("vzcalc", ["-v", "101"]) == 0
    kernel = (11 << 20) + 3 * (2 << 20) + (1 << 20)
    low = kernel / (HOST.low * 2 // 5) * 100
    both = HOST.ram + HOST.swap
    guaranteed, most = ((pages * 4096 + kernel) / both * 100 for pages in (1000, 3000))
    assert capsys.readouterr().out == (
        "Resource     Current(%)  Promised(%)  Max(%)\n"
        f"Low Mem           n/a {low:10.2f} {low:10.2f}\n"
        "Total RAM         n/a        n/a        n/a\n"
        f"Mem + Swap        n/a {guaranteed:10.2f}        n/a\n"
        f"Alloc. Mem        n/a {guaranteed:10.2f} {most:10.2f}\n"
        f"Num. Proc         n/a        n/a {100 / 60000 * 100:10.2f}\n"
        "--------------------------------------------\n"
        f"Memory            n/a {max(low, guaranteed):10.2f} {max(low, most):10.2f}\n"
    )
    assert main("vzcalc", ["101"]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_vzcalc_refuses(node, capsys):
    assert main("vzcalc", ["web"]) == 1
    assert capsys.readouterr() == ("", "Invalid CT ID: web\n")
    assert main("vzcalc", ["7"]) == 1
    expected = f"Container configuration file: {node}/conf/7.conf not found\n"
    assert capsys.readouterr() == ("", expected)
    (node / "conf/7.conf").write_text('KMEMSIZE="1:1"\n')
    assert main("vzcalc", ["7"]) == 1
    assert capsys.readouterr().err.startswith("Error: parameter NUMPROC not found\n")


def test_vswap_is_promised_its_ram_and_swap():
    pairs = {"PHYSPAGES": (0, 1 << 18), "SWAPPAGES": (0, 1 << 18), "KMEMSIZE": (UNLIMITED,) * 2}
    low, _, swap, alloc, processes = usage.shares(pairs, {}, HOST)
    assert (low.promised, swap.promised, alloc.promised) == (0, 1 / 16, 2 / 16)
    assert (alloc.maximum, processes.maximum) == (2 / 16, 1)


def test_used_is_what_is_held():
    held = {"KMEMSIZE": 100, "TCPSNDBUF": 10, "TCPRCVBUF": 10, "DGRAMRCVBUF": 10,
            "OTHERSOCKBUF": 10, "PHYSPAGES": 1, "OOMGUARPAGES": 2, "PRIVVMPAGES": 3}
    taken = usage.Taken.of(held)
    assert (taken.low, taken.ram, taken.swap, taken.alloc) == (140, 4236, 8332, 12428)


def test_vzmemcheck_of_an_empty_node(capsys):
    assert main("vzmemcheck", ["-v", "-A"]) == 0
    assert capsys.readouterr().out == (
        "Output values in Mbytes\n"
        "CTID        LowMem  LowMem     RAM MemSwap MemSwap   Alloc   Alloc   Alloc\n"
        "              util  commit    util    util  commit    util  commit   limit\n"
        "--------------------------------------------------------------------------\n"
        "Summary:      0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00\n"
        "           3276.00 3276.00 8192.00 16384.00 16384.00 16384.00 16384.00 16384.00\n"
    )


def test_vzcpucheck(capsys):
    assert main("vzcpucheck", ["-v"]) == 0
    assert capsys.readouterr().out == (
        "VEID\t\tCPUUNITS\n-------------------------\n0\t\t2000\n"
        "Current CPU utilization: 2000\nPower of the node: 250010\n"
    )
    assert [usage.fair_units(n) for n in (8, 1000, 3000, 500000, 0)] == [
        8, 1000, 3012, 500000, 500000,
    ]  # fmt: skip
    assert usage.overcommitted([250000, 11], HOST) and not usage.overcommitted([250010], HOST)


# vzsplit


@pytest.mark.parametrize("count", [1, 10, 300, 2000])
@pytest.mark.parametrize("ram", [GIB // 4, GIB, 8 * GIB, 512 * GIB])
def test_parts_are_valid_and_fit(ram, count):
    host = Host(ram, ram, ram, 8000, 1000.0)
    try:
        split.check(host, count)
        made = split.plan(host, count, split.DEFAULT_DISK)
    except split.Impossible as err:
        assert count > 10, err
        return
    assert [str(f) for f in Rules(dict(made.pairs)).classic(True) if f.is_invalid] == []
    guaranteed = made.pairs["VMGUARPAGES"][0] * 4096
    assert guaranteed * count <= 2 * ram


def test_vzsplit_prints_a_sample(capsys):
    assert main("vzsplit", ["-n", "4", "-v", "no"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "# Configuration file generated by vzsplit for 4 containers\n"
        "# on HN with total amount of physical memory 8192 Mb,\n"
        "# low memory 8192 Mb, swap size 8192 Mb, max threads 16000.\n"
        "# Resource commit level 0:\n"
        "# Free resource distribution. Any parameters may be increased\n"
        '# Primary parameters\nNUMPROC="10484"\nAVNUMPROC="5242"\n'
    )
    assert "\n\n# Secondary parameters\nKMEMSIZE=" in out
    assert out.endswith('CPUUNITS="1000"\n')


def test_vzsplit_writes_a_sample_that_is_valid(node, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("40\n"))
    assert main("vzsplit", ["-f", "forty"]) == 0
    path = node / "conf/ve-forty.conf-sample"
    out, err = capsys.readouterr()
    assert out == "Enter the number of containers: "
    assert err.endswith(f"Config {path} was created\n")
    assert 'NUMPROC="unlimited' not in path.read_text()
    assert main("vzcfgvalidate", [str(path)]) == 0
    capsys.readouterr()
    assert main("vzsplit", ["-f", "forty", "-n", "1"]) == 1
    assert capsys.readouterr() == ("", f"File {path} already exist\n")


def test_vzsplit_says_how_many_would_fit(capsys):
    assert main("vzsplit", ["-n", "100000"]) == 1
    assert capsys.readouterr() == ("", (
        "On node with 16384 Mb of memory (RAM + swap) 100000 containers can not be allocated\n"
        "The maximum allowed value is 3089\n"
    ))
    with pytest.raises(split.Impossible):
        split.check(Host(GIB // 32, 0, GIB // 32, 1000, 1.0), 1)
    for count in ("0", ""):
        assert main("vzsplit", [f"-n{count}"] if count else ["-n", ""]) == 1


def test_disk_is_halved_between_host_and_vpss():
    assert split.disk(100 << 20, 10**7, 10) == (((90 << 20) // 20, 9900000 // 20), 112, False)
    assert split.disk(100 << 20, 0, 10)[0] == ((90 << 20) // 20, (90 << 20) // 20 // 16)
    assert split.disk(1 << 20, 10**6, 10) == (None, 2, True)


# vzcfgscale


def test_vzcfgscale(node, tmp_path, capsysbinary):
    conf = tmp_path / "x.conf"
    conf.write_text('# mine\nNUMPROC="10:unlimited"\nKMEMSIZE="3"\nDISKSPACE="5:7"\n'
                    'CPUUNITS="300000"\nHOSTNAME="a"\n')
    assert main("vzcfgscale", ["-a", "2.5", "-r", str(conf)]) == 0
    out, err = capsysbinary.readouterr()
    assert err == b"Scale completed: success\n"
    assert out == (b'# mine\nNUMPROC="25:unlimited"\nKMEMSIZE="7"\nDISKSPACE="12:17"\n'
                   b'CPUUNITS="500000"\n')
    assert main("vzcfgscale", ["--ubc-only=2", "-o", str(conf), str(conf)]) == 0
    assert 'NUMPROC="20:unlimited"' in conf.read_text() and 'DISKSPACE="5:7"' in conf.read_text()
    assert 'NUMPROC="10:unlimited"' in (tmp_path / "x.conf.bak").read_text()
    assert main("vzcfgscale", ["-u", "1", "-v", str(conf)]) == 1
    assert main("vzcfgscale", ["-u", "x", str(conf)]) == 1
    assert capsysbinary.readouterr().err.endswith(b"Bad parameter x\n")
    assert main("vzcfgscale", ["-u", "1", "-o", str(tmp_path), str(conf)]) == 1
    assert b"is directory" in capsysbinary.readouterr().out


@given(strategies.integers(0, UNLIMITED), strategies.floats(0.001, 1000))
def test_scaled_values_stay_in_range(value, factor):
    (found,) = scale.scaled({"X": (value, value)}, ["X", "Y"], factor).values()
    assert 0 <= found[0] <= UNLIMITED and (value != UNLIMITED or found[0] == UNLIMITED)


# vzoversell


TABLE = f"""Version: 2.5
       uid  resource                     held              maxheld              barrier
        0:  kmemsize                        1                    1                    1  1  0
      101:  kmemsize                  2301952              2666496      14372700 14790164     0
            dummy                           0                    0                    0  0  0
            privvmpages                  1000                 2000         65536 69632        0
            physpages                     100                  300             0 65536        3
            swappages                       5                    5             0 131072       0
      102:  kmemsize                        1                    1            1 1             0
            privvmpages                     1                    1         10240 20480        1
            physpages                       1                    1             0 {UNLIMITED}  0
            swappages                       0                    0             0 {UNLIMITED}  0
"""


def test_vzoversell_of_a_table(tmp_path, capsys):
    (tmp_path / "resources").write_text(TABLE)
    assert main("vzoversell", [str(tmp_path / "resources")]) == 0
    assert capsys.readouterr().out == (
        "           --------- RAM ---------  -------- Swap ---------  Flags\n"
        "            used  peak limit fails   used  peak limit fails\n"
        "       101  400K 1.17M  256M    3     20K   20K  512M    -   f\n"
        "       102    4K    4K   40M    -      -     -     -     -   RSF\n"
        "           ----- ----- ----- -----  ----- ----- ----- -----\n"
        " TOTAL      404K 1.18M  296M    3     20K   20K  512M    - \n\n"
        "RAM        available:    8G  allocated:  296M  oversell: 4%\n"
        "Swap       available:    8G  allocated:  512M  oversell: 6%\n"
        "RAM+Swap   available:   16G  allocated:  808M  oversell: 5%\n"
        "\nFlags:\n"
        "  R: non-VSwap container, RAM limit guessed based on privvmpages\n"
        "  S: unlimited swap (ok for non-vswap), not counted into total swap limit\n"
        "  f: RAM failcnt > 0 (swap used), use vzubc to check details\n"
        "  F: beancounter failcnt > 0, use vzubc to check details\n"
    )


@pytest.mark.parametrize("content", ["Version: 9", "x: kmemsize 1 2 3 4 5", "kmemsize 1 2"])
def test_vzoversell_refuses_other_tables(content, tmp_path, capsys):
    (tmp_path / "t").write_text(content)
    assert main("vzoversell", [str(tmp_path / "t")]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path}/t: ")
    assert main("vzoversell", [str(tmp_path / "none")]) == 1
    assert main("vzoversell", []) == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "- "), (UNLIMITED, "- "), (5, "5 "), (1023, "1023 "), (1024, "1K"), (1536, "1.5K"),
     (123456, "120K"), (3 * GIB, "3G")],
)
def test_human(value, shown):
    assert oversell.human(value) == shown


# The machine


def test_host_facts(monkeypatch):
    monkeypatch.undo()
    host = hostfacts.facts()
    assert host.ram > GIB // 8 and host.low <= host.ram and host.threads > 100
    assert host.bogomips > 0
