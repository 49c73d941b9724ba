"""Value classes: the contract's examples, and nothing but Invalid for anything else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vzpy import values
from vzpy.values import UNLIMITED, Invalid

PAGE = 4096
FORMS = [  # kind, text, value, stored
    ("ubc-num", "240", (240, 240), "240"),
    ("ubc-num", "1.5:2", (1, 2), "1:2"),
    ("ubc-num", "unlimited", (UNLIMITED, UNLIMITED), "unlimited"),
    ("ubc-num", "0:unlimited", (0, UNLIMITED), "0:unlimited"),
    ("ubc-page", "65536:69632", (65536, 69632), "65536:69632"),
    ("ubc-page", "256M", (65536, 65536), "65536"),
    ("ubc-page", "5000b:2p", (1, 2), "1:2"),
    ("ubc-page", "0:256M", (0, 65536), "0:65536"),
    ("ubc-byte", "1k:1P", (1024, PAGE), "1024:4096"),
    ("ubc-byte", "1T", (1 << 40, 1 << 40), str(1 << 40)),
    ("ubc-byte", "2.5K", (2560, 2560), "2560"),
    ("vswap", "512M", (0, 131072), "0:131072"),
    ("vswap", "4097", (0, 2), "0:2"),
    ("disk-space", "2G:2.2G", (2097152, 2306867), "2097152:2306867"),
    ("disk-space", "1048576", (1048576, 1048576), "1048576:1048576"),
    ("disk-inodes", "1K:2000", (1024, 2000), "1024:2000"),
    ("cpuunits", "8", 8, "8"),
    ("cpulimit", "50", 50, "50"),
    ("cpumask", "7,0-1,2", "0-2,7", "0-2,7"),
    ("cpumask", "0-4095", "all", "all"),
    ("cpumask", "auto", "auto", "auto"),
    ("float", "1.50", 1.5, "1.5"),
    ("float", "2e6", 2e6, "2e+06"),
    ("iolimit", "1048576", 1048576, "1048576"),
    ("iolimit", "10M", 10 << 20, str(10 << 20)),
    ("iolimit", "unlimited", 0, "0"),
    ("iolimit-mb", "10", 10 << 20, str(10 << 20)),
    ("iolimit-mb", "10K", 10240, "10240"),
    ("iopslimit", "unlimited", 0, "0"),
    ("meminfo", "none", "none", "none"),
    ("meminfo", "privvmpages:01", "privvmpages:1", "privvmpages:1"),
    ("yesno", "no", False, "no"),
    ("layout", "ploop:expanded", "ploop:expanded", "ploop:expanded"),
    ("layout", "image:xfs,plain", "image:xfs,plain", "image:xfs,plain"),
    ("capability", "net_admin:on,CAP_SYS_TIME:off", {"NET_ADMIN": True, "SYS_TIME": False},
     "NET_ADMIN:on SYS_TIME:off"),
    ("capability", "ve_admin:on", {"VE_ADMIN": True}, "VE_ADMIN:on"),
    ("features", "nfs:on ppp:off", {"nfs": True, "ppp": False}, "nfs:on ppp:off"),
    ("addresses", "10.0.0.1 fd80::0:1/64 0.0.0.0 ::0 10.0.0.2/255.255.255.0",
     ["10.0.0.1", "fd80::1/64", "10.0.0.2/24"], "10.0.0.1 fd80::1/64 10.0.0.2/24"),
    ("nameserver", "8.8.8.8,inherit", ["8.8.8.8", "inherit"], "8.8.8.8 inherit"),
    ("netif", "ifname=eth0,mac=0:18:51:a:b:c,bridge=br0;ifname=eth1,host_ifname=,x=1",
     [{"ifname": "eth0", "mac": "00:18:51:0A:0B:0C", "bridge": "br0"}, {"ifname": "eth1"}],
     "ifname=eth0,bridge=br0,mac=00:18:51:0A:0B:0C;ifname=eth1"),
    ("netif-add", "eth0,,veth7,,br0", [{"ifname": "eth0", "host_ifname": "veth7", "bridge": "br0"}],
     "ifname=eth0,bridge=br0,host_ifname=veth7"),
    ("devices", "b:8:16:wr c:10:200:none b:9:all:q", ["b:8:16:rw", "c:10:200:none", "b:9:all:q"],
     "b:8:16:rw c:10:200:none b:9:all:q"),
    ("devnodes", "net/tun:rw", ["net/tun:rw"], "net/tun:rw"),
    ("pci", "3:0.0 0001:1f:1A.7", ["0000:03:00.0", "0001:1f:1a.7"], "0000:03:00.0 0001:1f:1a.7"),
    ("uuid", "{ABCDEF01-2345-6789-abcd-ef0123456789}", "{abcdef01-2345-6789-abcd-ef0123456789}",
     "{abcdef01-2345-6789-abcd-ef0123456789}"),
    ("path", "/vz/private/$VEID", "/vz/private/$VEID", "/vz/private/$VEID"),
]  # fmt: skip

REFUSED = [
    ("ubc-num", "1K"), ("ubc-num", "-1"), ("ubc-num", ""), ("ubc-num", "1:"), ("ubc-num", "1:2:3"),
    ("ubc-num", "."), ("ubc-page", "12MM"), ("ubc-page", "unlimitedM"), ("ubc-byte", "0x10"),
    ("ubc-byte", "1 "), ("ubc-num", "\u0663"), ("disk-space", "unlimited"), ("cpuunits", "7"),
    ("cpuunits", "500001"), ("cpulimit", "101%"), ("cpulimit", "5%%"), ("cpumask", "3-1"),
    ("cpumask", "4096"), ("cpumask", ""), ("cpulist", "auto"), ("ioprio", "8"), ("float", "nan"),
    ("float", "inf"), ("float", "-1"), ("float", "1_0"), ("iolimit-mb", "2048"),
    ("iopslimit", "-1"),
    ("meminfo", "pages:0"), ("meminfo", "pages"), ("yesno", "YES"), ("layout", "ploop:x"),
    ("layout", "simfs:xfs"), ("layout", "image:"),
    ("hostname", "a b"), ("hostname", "a" * 65), ("filename", "../x"), ("filename", ".."),
    ("path", "relative"), ("text", "a\nb"), ("name", "a/b"), ("name", ".."), ("userpasswd", "joe"),
    ("userpasswd", "-x:y"), ("userpasswd", ":y"), ("capability", "chown"),
    ("capability", "nope:on"), ("addresses", "10.0.0.1/33"), ("addresses", "10.0.0.256"),
    ("addresses", "10.0.0.1/255.0.255.0"), ("nameserver", "dns.example"), ("netdevs", "tun0"),
    ("netdevs", "a/b"), ("netdevs", "x" * 16), ("netif-add", "eth0,1:2:3"), ("netif", "mac=1"),
    ("devices", "b:7:0:rw"), ("devices", "b:8:16:x"), ("devices", "b:8:16"),
    ("devnodes", "../sda:r"),
    ("devnodes", "sda"), ("devnodes-here", "no-such-device:rw"), ("pci", "3:0"), ("pci", "3:0.9"),
    ("uuid", "x"), ("range-base", "0"), ("hex", "1_0"), ("hex", ""),
]  # fmt: skip


@pytest.mark.parametrize("kind, text, value, stored", FORMS)
def test_forms(kind, text, value, stored):
    found = values.parse(kind, text)
    assert found == value
    assert values.text(kind, found) == stored
    if kind not in ("vswap", "iolimit-mb", "netif-add"):  # these are options only
        assert values.parse(kind, stored) == value


@pytest.mark.parametrize("kind, text", REFUSED)
def test_refused(kind, text):
    with pytest.raises(Invalid):
        values.parse(kind, text)


@pytest.mark.parametrize(
    "kind, text, rest",
    [
        ("ubc-num", str(2**63), (UNLIMITED, UNLIMITED)),
        ("ubc-byte", "5:9999999999T", (5, UNLIMITED)),
        ("ubc-num", "9" * 5000, (UNLIMITED, UNLIMITED)),
        ("number", str(2**64), UNLIMITED),
        ("features", "nfs:on,wings:on", {"nfs": True}),
    ],
)
def test_what_a_file_may_still_mean(kind, text, rest):
    with pytest.raises(Invalid) as err:
        values.parse(kind, text)
    assert err.value.rest == rest


def test_capability_texts():
    for text, said in (
        ("wings:on", "Capability wings is unknown"),
        ("chown", "Can't parse capability chown (expecting capname:on|off)"),
    ):
        with pytest.raises(Invalid) as err:
            values.parse("capability", text)
        assert err.value.detail == said


ALPHABET = st.sampled_from("0189abfkmgtpGTxunlimited:/,;=-+. %$\"'\\`\n\0éonfyes*[]")
NEARLY = st.lists(
    st.sampled_from([text for _, text, _, _ in FORMS] + [":", ",", " ", "-", "all", "/24"]),
    max_size=4,
).map("".join)
TEXTS = st.one_of(st.text(max_size=40), st.text(ALPHABET, max_size=20), NEARLY)


@pytest.mark.parametrize("kind", sorted(values.KINDS))
@settings(deadline=None)
@given(text=TEXTS)
def test_fuzz(kind, text):
    """Only Invalid is raised; what is stored is read again as the same, and fits a line."""
    try:
        value = values.parse(kind, text)
    except Invalid:
        return
    stored = values.text(kind, value)
    assert "\n" not in stored and "\0" not in stored
    if kind in ("vswap", "iolimit-mb", "netif-add"):
        return
    assert values.text(kind, values.parse(kind, stored)) == stored
