"""vz.conf and N.conf: reading, layers, warnings, and saving that changes nothing else."""

import os
import stat
import subprocess

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vzpy import config
from vzpy.errors import ConfigError, Exit, VzError
from vzpy.params import BY_KEY


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "vz.conf").write_text(
        'VE_ROOT="/vz/root/$VEID"\nVE_PRIVATE=/vz/private/$VEID\nCPUUNITS=2000\n'
    )
    return tmp_path


def conf(etc, text, **overrides):
    (etc / "conf/101.conf").write_text(text)
    return config.load(str(etc), 101, overrides)


def test_layers(etc):
    c = conf(etc, 'NUMPROC="10"\n', HOSTNAME="cli")
    assert (c.raw("VE_ROOT"), c.raw("VE_PRIVATE")) == ("/vz/root/101", "/vz/private/101")
    assert (c.value("CPUUNITS"), c.own("CPUUNITS")) == (2000, None)
    assert (c.value("NUMPROC"), c.own("NUMPROC")) == ((10, 10), "10")
    assert c.value("HOSTNAME") == "cli"
    assert c.value("ONBOOT") is None and c.value("STOP_TIMEOUT") is None
    assert c.effective("STOP_TIMEOUT") == 120 and c.exists and not c.warnings


def test_missing_files(etc, tmp_path):
    assert not config.load(str(etc), 102).exists
    with pytest.raises(ConfigError) as err:
        config.load_global("/nonexistent")
    assert err.value.code == Exit.NOCONFIG
    first, second = str(err.value).splitlines()
    assert first == "Unable to open /nonexistent/vz.conf: No such file or directory"
    assert "vz setup" in second


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_does_not_hang(etc, make):
    make(etc / "conf/101.conf")
    with pytest.raises(VzError, match="101.conf: not a configuration file"):
        config.load(str(etc), 101)


@pytest.mark.parametrize(
    "line, value",
    [
        ('DESCRIPTION="a b" # c', "a b"),
        ('DESCRIPTION="a "b" c"', 'a "b" c'),
        ("  DESCRIPTION=a b \t", "a b"),
        (r'DESCRIPTION="a \"b\" \$c \\ \d"', r'a "b" $c \ d'),
        ('DESCRIPTION=""', ""),
        ('DESCRIPTION="\udcff"', "\udcff"),
    ],
)
def test_quoting(etc, line, value):
    (etc / "conf/101.conf").write_bytes(os.fsencode(f"# DESCRIPTION=no\n{line}\n"))
    assert config.load(str(etc), 101).value("DESCRIPTION") == value


def test_warnings(etc):
    c = conf(
        etc,
        'rubbish\nNUMPROC="1\nNUMPROC="x"\nONBOOT="yes"\nONBOOT="no"\nCPUUNITS="5"\n'
        'NUMFILE="99999999999999999999"\nFOO="1"\nFEATURES="nfs:on wings:on"\nVETH="a"\n'
        'CAPABILITY="wings:on"\n',
    )
    c.check()
    path = f"{etc}/conf/101.conf"
    assert c.warnings == [
        f"Warning: can't parse {path}:1 ('=' not found), skipping",
        f"Warning: can't parse {path}:2 (unmatched quotes), skipping",
        f'Warning at {path}:5: duplicate for ONBOOT ("no"), ignored',
        f'Warning at {path}:3: invalid value for NUMPROC ("x"), skipped',
        f'Warning at {path}:7: too large value for NUMFILE ("99999999999999999999"), truncated',
        "Capability wings is unknown",
        f'Warning at {path}:11: invalid value for CAPABILITY ("wings:on"), skipped',
        f'Warning at {path}:6: invalid value for CPUUNITS ("5"), skipped',
    ]
    assert c.notes == [
        "Warning: Unknown feature: wings:on",
        "Warning: VETH parameter is deprecated, remove it and use --netif_add instead",
    ]
    assert c.unknown() == [f'Warning at {path}:8: unknown parameter FOO ("1"), ignored']
    assert c.value("CPUUNITS") == 2000  # a bad value does not hide the good one below
    assert c.value("FEATURES") == {"nfs": True}


def test_duplicates(etc):
    c = conf(
        etc,
        'NUMPROC="1"\nNUMPROC="2"\nHOSTNAME="a"\nHOSTNAME="b"\nIP_ADDRESS="10.0.0.1"\n'
        'IP_ADDRESS="10.0.0.2 10.0.0.1"\nDCACHE="5"\n',
    )
    assert c.value("NUMPROC") == (2, 2)
    assert c.value("HOSTNAME") == "a"
    assert c.value("IP_ADDRESS") == ["10.0.0.1", "10.0.0.2"]
    assert c.value("DCACHESIZE") == (5, 5)


def test_what_may_not_be_global(etc):
    (etc / "vz.conf").write_text('NETFILTER="full"\nLOCAL_UID="100000"\n')
    c = conf(etc, "")
    c.check()
    assert c.value("NETFILTER") is None and c.value("LOCAL_UID") is None
    assert c.notes[0].startswith("Warning: NETFILTER should not be set in ")
    assert any("LOCAL_UID" in line for line in c.warnings)


# saving


def test_save_replaces_the_line_that_counts_and_appends_in_order(tmp_path):
    path = tmp_path / "1.conf"
    path.write_text('# c\n NUMPROC="1"\nHOSTNAME="a"\nX=1\nNUMPROC="2"\nHOSTNAME="b"\n'
                    'IP_ADDRESS="1"\nIP_ADDRESS="2"\nDCACHE="1"\nONBOOT="no"')
    config.save(str(path), {
        "VM_OVERCOMMIT": "1", "HOSTNAME": "z", "IP_ADDRESS": "3", "NUMPROC": "9", "KMEMSIZE": "7",
        "DCACHESIZE": "8", "X": None,
    })
    assert path.read_text() == (
        '# c\n NUMPROC="1"\nHOSTNAME="z"\nNUMPROC="9"\nHOSTNAME="b"\nIP_ADDRESS="3"\n'
        'DCACHESIZE="8"\nONBOOT="no"\nKMEMSIZE="7"\nVM_OVERCOMMIT="1"\n'
    )


def test_save_through_a_link_keeps_link_and_mode(tmp_path):
    real, link = tmp_path / "real", tmp_path / "101.conf"
    real.write_text("A=1\n")
    real.chmod(0o640)
    link.symlink_to(real)
    inode = real.stat().st_ino
    config.save(str(link), {"ONBOOT": "yes"})
    assert link.is_symlink() and real.read_text() == 'A=1\nONBOOT="yes"\n'
    assert real.stat().st_ino != inode and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["real", "101.conf"] or len(os.listdir(tmp_path)) == 2


def test_save_fails_with_139_and_changes_nothing(tmp_path):
    with pytest.raises(VzError) as err:
        config.save(str(tmp_path / "no/101.conf"), {"ONBOOT": "yes"})
    assert err.value.code == Exit.CONFIG_SAVE
    path = tmp_path / "101.conf"
    path.write_text("A=1\n")
    (tmp_path / "101.conf.tmp").mkdir()
    with pytest.raises(VzError) as err:
        config.save(str(path), {"ONBOOT": "yes"})
    assert err.value.code == Exit.CONFIG_SAVE and path.read_text() == "A=1\n"


def test_save_of_nothing_new_does_not_write(tmp_path):
    path = tmp_path / "101.conf"
    path.write_text('ONBOOT="yes"\n')
    before = path.stat()
    config.save(str(path), {"ONBOOT": "yes"})
    assert path.stat() == before


LINES = st.lists(
    st.one_of(
        st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=20),
        st.sampled_from(['NUMPROC="1"', "HOSTNAME=a", "#HOSTNAME=b", ' IP_ADDRESS="10.0.0.1"']),
    ),
    max_size=8,
)
KEYS = st.sampled_from(["NUMPROC", "HOSTNAME", "IP_ADDRESS", "DESCRIPTION", "VE_PRIVATE", "NEW"])
VALUES = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=15)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, end=st.sampled_from(["", "\n"]), changes=st.dictionaries(KEYS, VALUES))
def test_fuzz_save(tmp_path, lines, end, changes):
    """What was saved is what is read; every other line is still there, byte for byte."""
    path = tmp_path / "101.conf"
    text = "\n".join(lines) + end
    path.write_bytes(text.encode())
    config.save(str(path), changes)
    new = path.read_bytes().decode()
    assert others(new, changes) == others(text, changes)
    layer = config.Layer(str(path), new)
    for key, value in changes.items():
        assert layer.entries[key][0] == value
    config.save(str(path), changes)
    assert path.read_bytes().decode() == new


def others(text, changes):
    """The lines that are none of the changed keys'; the file's last newline does not count."""
    lines = [line.lstrip().partition("=") for line in text.removesuffix("\n").split("\n")]
    return [line for line in lines if not (line[1] and line[0] in changes)] if text else []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=VALUES.filter(lambda text: "\r" not in text))
@example(value="$HOME $(id) `id` \"x\" \\ \\$VEID ${VEID} 'y' !x")
def test_sh_reads_what_was_saved(tmp_path, value):
    path = tmp_path / "101.conf"
    path.unlink(missing_ok=True)
    config.save(str(path), {"DESCRIPTION": value, "VE_ROOT": "/vz/root/$VEID"})
    script = f'VEID=7; . {path}; printf "%s|%s" "$DESCRIPTION" "$VE_ROOT"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode() == f"{value}|/vz/root/7"


@settings(deadline=None)
@given(text=st.text(max_size=200))
def test_fuzz_read(text):
    layer = config.Layer("f", text)
    c = config.Config([config.Layer("g"), layer], 1)
    for param in BY_KEY.values():
        c.value(param.key)
    c.check()


def test_sample(etc):
    (etc / "conf/ve-x.conf-sample").write_text('NUMPROC="5"\n')
    assert config.load_sample(str(etc), "x").value("NUMPROC") == (5, 5)
    assert config.load_sample(str(etc), "y") is None
