"""Addresses, frames and notes: what the network of a VPS is made of, without a kernel."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import antispoof, dad, netnotes, venet, words
from vzpy.amounts import Invalid

MAC = bytes.fromhex("020000000001")
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(addresses)
def test_only_what_one_machine_can_have(address):
    """Against the standard library's view of the same registries."""
    try:
        accepted = words.address(str(address)) == str(address)
    except Invalid:
        accepted = False
    refused = address.is_multicast or address.is_loopback or address.is_link_local
    if address.version == 6:  # what was once for IPv4 in IPv6, and for one site
        refused |= int(address) < 1 << 32 or address.is_site_local
    if refused or getattr(address, "ipv4_mapped", None):
        assert not accepted
    elif address.is_global or str(address).startswith(("10.", "192.168.", "fd")):
        assert accepted


@given(addresses)
def test_a_question_is_no_answer(address):
    assert dad.answer(dad.question(address.packed, MAC)) in (None, (bytes(4), MAC))


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_an_advertisement_is_an_answer_and_sums_up(address, source):
    frame = dad.advertisement(address.packed, MAC, source.packed)
    assert dad.answer(frame) == (address.packed, MAC)
    pseudo = frame[22:54] + len(frame[54:]).to_bytes(4, "big") + (58).to_bytes(4, "big")
    data = pseudo + frame[54:]
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071


@given(st.binary(max_size=120))
def test_any_frame_can_be_heard(frame):
    dad.answer(frame)
    dad.answer(frame[:12] + b"\x08\x06" + frame[14:])
    dad.answer(frame[:12] + b"\x86\xdd" + frame[14:])


@pytest.mark.parametrize(("node", "ctid", "name"), [
    ("vz", 101, "venet101"), ("vz", 2147483644, "venet2147483644"),
    ("vz-12ab34cd", 2147483644, "v34cd2147483644"),
])
def test_names_of_devices_fit(node, ctid, name):
    assert venet.host_end(node, ctid) == name and len(name) <= words.IFNAME_MAX


def test_hardware_addresses_are_the_vps_s_own():
    assert venet.mac(101) != venet.mac(102) and venet.mac(2147483644)[0] & 3 == 2


def test_addresses_with_masks():
    address = venet.Address.of("192.0.2.7/24")
    assert (address.packed, address.prefix) == (socket.inet_aton("192.0.2.7"), 24)
    assert (str(address), address.masked) == ("192.0.2.7", "192.0.2.7/24")
    assert venet.Address.of("2001:db8::7").masked == "2001:db8::7/128"


def test_notes(tmp_path):
    where = str(tmp_path)
    assert netnotes.read(where) == []
    one, two = ("proxy", "192.0.2.7", "eth0"), ("link", "veth101.0", "eth0")
    netnotes.add(where, [one])
    netnotes.add(where, [two, one])
    assert netnotes.read(where) == [one, two]
    netnotes.remove(where, [one])
    assert netnotes.read(where) == [two]
    netnotes.remove(where, [two])
    netnotes.forget(where)
    assert list(tmp_path.iterdir()) == []


def test_programs_have_all_their_labels():
    """And end within what a jump can reach; that they are right is seen on a wire."""
    for code in (antispoof.from_vps(3, 4), antispoof.to_vps(3, 4),
                 antispoof.from_port(4, MAC), antispoof.to_port(4, MAC)):
        assert len(code) % 8 == 0 and len(code) < 8 * 200
