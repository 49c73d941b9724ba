"""Our requests as pyroute2, which knows the kernel's formats by itself, reads them."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from vzpy.kernel import netlink, rtnetlink
from vzpy.kernel.netlink import Request, Socket

MAC, OTHER = bytes.fromhex("021800000065"), bytes.fromhex("021800000066")


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def read(kind, request):
    message = kind(request.packed(7))
    message.decode()
    assert message["header"]["type"] == request.kind
    assert message["header"]["length"] == len(request.packed(7))
    assert message["header"]["flags"] & 1 and message["header"]["sequence_number"] == 7
    return message


def test_a_pair():
    request = rtnetlink.veth_add("venet101", MAC, "venet0", OTHER, 5, rtnetlink.IFF_NOARP)
    message = read(ifinfmsg, request)
    assert (message.get_attr("IFLA_IFNAME"), message["flags"]) == ("venet101", 0x80)
    assert message.get_attr("IFLA_ADDRESS") == "02:18:00:00:00:65"
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_IFNAME"), peer["flags"], peer["change"]) == ("venet0", 0x80, 0x80)
    assert peer.get_attr("IFLA_ADDRESS") == "02:18:00:00:00:66"
    assert peer.get_attr("IFLA_NET_NS_FD") == 5
    for end in (message, peer):  # those of further processors would be taken away again
        assert end.get_attr("IFLA_NUM_TX_QUEUES") == end.get_attr("IFLA_NUM_RX_QUEUES") == 1


def test_a_pair_for_a_process():
    """Its pid is written behind the rest of the request."""
    request = rtnetlink.veth_add_to("venet101", MAC, "venet0", OTHER, rtnetlink.IFF_NOARP)
    assert request.body.endswith(bytes(rtnetlink.PID))
    body = request.body[: -rtnetlink.PID] + (4711).to_bytes(rtnetlink.PID, "little")
    message = read(ifinfmsg, Request(request.kind, request.flags, body, ""))
    peer = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer.get_attr("IFLA_NET_NS_PID"), peer.get_attr("IFLA_IFNAME")) == (4711, "venet0")


def test_where_the_index_of_a_link_is():
    for request in (rtnetlink.link_no_ll6(77), rtnetlink.clsact_add(77),
                    rtnetlink.bpf_filter_add(77, rtnetlink.TC_INGRESS, 1, 5, "f")):
        at = request.packed(1)[rtnetlink.INDEX_AT :][:4]
        assert int.from_bytes(at, "little") == 77


def test_answers_to_what_somebody_else_has_sent():
    with Socket() as sock:
        asked = sock.numbered([rtnetlink.link_del("none"), rtnetlink.link_up("lo")])  # it is up
        assert sum(asked.lengths) == len(asked.datagram)
        sock.be_patient(1)
        with pytest.raises(BlockingIOError):
            sock.answer(asked)
        os.write(sock.fileno(), asked.datagram)
        refused = sock.answer(asked)
        assert refused and (refused.errno, refused.filename) == (errno.ENODEV, "link del none")
        os.write(sock.fileno(), asked.datagram)
        assert sock.answer(asked, (errno.ENODEV,)) is None


def test_of_many_requests_each_is_answered():
    with Socket() as sock:
        with pytest.raises(OSError, match="link del none0"):
            sock.send([rtnetlink.link_del(f"none{n}") for n in range(150)])
        assert rtnetlink.find_link(sock, "lo")


@pytest.mark.parametrize(("request_", "field", "value"), [
    (rtnetlink.link_rename(3, "outer0"), "IFLA_IFNAME", "outer0"),
    (rtnetlink.link_address(3, MAC), "IFLA_ADDRESS", "02:18:00:00:00:65"),
    (rtnetlink.link_master(3, 9), "IFLA_MASTER", 9),
    (rtnetlink.link_move(3, 8, "eth5"), "IFLA_NET_NS_FD", 8),
])  # fmt: skip
def test_a_link_is_changed(request_, field, value):
    message = read(ifinfmsg, request_)
    assert (message["index"], message["change"], message.get_attr(field)) == (3, 0, value)


def test_up_and_without_link_local():
    message = read(ifinfmsg, rtnetlink.link_up("eth0"))
    assert (message["index"], message["flags"], message["change"]) == (0, 1, 1)
    message = read(ifinfmsg, rtnetlink.link_up(3, False))
    assert (message["index"], message["flags"], message["change"]) == (3, 0, 1)
    spec = read(ifinfmsg, rtnetlink.link_no_ll6(3)).get_attr("IFLA_AF_SPEC")
    assert spec.get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


@pytest.mark.parametrize(("text", "prefix"), [("192.0.2.7", 24), ("2001:db8::7", 64)])
def test_an_address_and_its_route(text, prefix):
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    message = read(ifaddrmsg, rtnetlink.addr_add(3, packed(text), prefix))
    assert (message["index"], message["prefixlen"], message["family"]) == (3, prefix, family)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == text
    assert message.get_attr("IFA_FLAGS") == 0x202
    message = read(rtmsg, rtnetlink.route_add(3, packed(text), packed(text)))
    assert (message["dst_len"], message["type"], message["table"]) == (
        8 * len(packed(text)), 1, 254)
    assert message.get_attr("RTA_DST") == message.get_attr("RTA_PREFSRC") == text
    assert message.get_attr("RTA_OIF") == 3
    message = read(rtmsg, rtnetlink.default_add(3, packed(text)))
    assert (message["dst_len"], message["flags"], message.get_attr("RTA_GATEWAY")) == (0, 4, text)
    message = read(ndmsg, rtnetlink.proxy_add(3, packed(text)))
    assert (message["ifindex"], message["flags"], message.get_attr("NDA_DST")) == (3, 8, text)


def test_filters():
    message = read(tcmsg, rtnetlink.clsact_add(3))
    assert (message["parent"], message.get_attr("TCA_KIND")) == (0xFFFFFFF1, "clsact")
    request = rtnetlink.bpf_filter_add(3, rtnetlink.TC_EGRESS, 1, 6, "vz_to")
    message = read(tcmsg, request)
    assert (message["parent"], message["info"]) == (0xFFFFFFF3, 1 << 16 | socket.htons(3))
    options = message.get_attr("TCA_OPTIONS")
    assert options.get_attr("TCA_BPF_NAME") == "vz_to" and options.get_attr("TCA_BPF_FLAGS") == 1


@given(st.binary())
def test_any_bytes_are_read_as_attributes(data):
    assert isinstance(netlink.attributes(data), dict)


@given(st.dictionaries(st.integers(1, 100), st.binary(max_size=40), max_size=9))
def test_attributes_come_back(given_):
    data = b"".join(netlink.attr(kind, value) for kind, value in given_.items())
    assert netlink.attributes(data) == given_
