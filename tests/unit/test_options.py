"""Command lines: getopt_long's words and the contract's codes; the library's keywords."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vzpy import events, options
from vzpy.actions import BY_NAME, OPTIONS, all_actions
from vzpy.errors import UsageError, VzError


def parse(line, action="set"):
    argv = line if isinstance(line, list) else line.split()
    return options.parse(BY_NAME[action], argv, events.silent)


@pytest.mark.parametrize(
    "line, found",
    [
        ("--save --numproc 10", {"save": True, "numproc": "10"}),
        ("--numproc=10:20", {"numproc": "10:20"}),
        ("--desc x --stop 5", {"description": "x", "stop_timeout": "5"}),
        ("-p 16:20 -t5", {"numproc": "16:20", "numpty": "5"}),
        ("--hostname a --hostname b", {"hostname": "a"}),
        ("--numproc 1 --numproc 2", {"numproc": "2"}),
        ("--ip 10.0.0.1 --ipadd 10.0.0.2", {"ipadd": ["10.0.0.1", "10.0.0.2"]}),
        ("--offline --diskspace 1G", {"offline_resize": True, "diskspace": "1G"}),
    ],
)
def test_what_is_understood(line, found):
    assert parse(line) == found


def test_the_last_beancounter_stands_last():
    assert list(parse("--physpages 1 --numproc 1 --ram 1G --physpages 2")) == [
        "numproc", "ram", "physpages"
    ]


@pytest.mark.parametrize(
    "action, line, code, text",
    [
        ("set", "--wings 1", 21, "vzctl: unrecognized option '--wings'"),
        ("start", "--wings", 20, "vzctl: unrecognized option '--wings'"),
        ("create", "--wings", 21, "vzctl: unrecognized option '--wings'"),
        ("suspend", "--wings", 20, "vzctl: unrecognized option '--wings'"),
        ("set", "--hostname", 21, "vzctl: option '--hostname' requires an argument"),
        ("set", "--save=1", 21, "vzctl: option '--save' doesn't allow an argument"),
        ("set", "-z", 21, "vzctl: invalid option -- 'z'"),
        ("set", "-p", 21, "vzctl: option requires an argument -- 'p'"),
        ("set", "--host x", 21, "vzctl: option '--host' is ambiguous; possibilities:"
                                " '--hostname' '--host_ifname' '--host_mac'"),
        ("set", "--cpuunits 5", 21, "Bad parameter for --cpuunits: 5"),
        ("set", "--cpuu 5", 21, "Bad parameter for --cpuunits: 5"),
        ("set", "-p x", 21, "Bad parameter for -p : x"),
        ("set", "--capability wings:on", 21,
         "Capability wings is unknown\nBad parameter for --capability: wings:on"),
        ("set", "--save a b", 20, "Invalid extra arguments: a b "),
        ("start", "--fast", 20, "Option --fast is not applicable to start command"),
        ("stop", "--wait", 20, "Option --wait is not applicable to stop command"),
        ("create", "--local_uid 0", 21, "Bad parameter for --local_uid: 0"),
        ("snapshot-delete", "--id 5", 21, "Bad parameter for --id: 5"),
    ],
)  # fmt: skip
def test_what_is_refused(action, line, code, text):
    with pytest.raises(VzError) as err:
        parse(line, action)
    assert (err.value.code, err.value.message) == (code, text)


def test_an_unknown_feature_is_told_on_standard_output():
    told = []
    with pytest.raises(VzError, match="Bad parameter for --features"):
        options.parse(BY_NAME["set"], ["--features", "wings:on"], told.append)
    assert [(str(event), event.level) for event in told] == [
        ("Warning: Unknown feature: wings:on", 0)
    ]


def test_keywords_of_the_library():
    found = options.read("set", {
        "numproc": 100, "kmemsize": (1, 2), "onboot": True, "disabled": False, "hostname": None,
        "ipadd": ["10.0.0.1", "10.0.0.2/24"], "capability": {"net_admin": True}, "force": False,
        "ipdel": "all", "userpasswd": "joe:x",
    })  # fmt: skip
    assert found == {
        "numproc": (100, 100), "kmemsize": (1, 2), "onboot": True, "disabled": False,
        "ipadd": ["10.0.0.1", "10.0.0.2/24"], "capability": {"NET_ADMIN": True}, "ipdel": ["all"],
        "userpasswd": ["joe:x"],
    }  # fmt: skip
    with pytest.raises(UsageError, match="no such parameter: wings"):
        options.read("set", {"wings": 1})
    with pytest.raises(VzError, match="Bad parameter for --numproc: many"):
        options.read("set", {"numproc": "many"})


WORDS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from([f"--{o.name}" for a in all_actions() for o in a.options]),
        st.sampled_from(["--", "-", "-p"]),
        st.sampled_from(["--num", "--host=a", "1:2", "10.0.0.1", "yes", "all", "eth0,,,,br0"]),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(action=st.sampled_from([a for a in all_actions() if a.rest == OPTIONS]), argv=WORDS)
def test_fuzz(action, argv):
    """A command line is understood, or refused with 20 or 21; what is understood can be read."""
    try:
        found = options.parse(action, argv, events.silent)
    except VzError as err:
        assert err.code in (20, 21) and err.message
        return
    options.read(action.name, found)
