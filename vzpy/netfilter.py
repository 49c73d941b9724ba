"""How much of netfilter the root of a VPS has (`--netfilter`; config-files 6).

disabled   none: no netlink socket to it and no iptables call, by a filter of system calls
stateless  no connection tracking, and so no NAT either: a table of nftables in its own network
           namespace says notrack before its rules are asked. Only the socket that made a table
           with an owner can change it (nft(8), flags owner), and that one is ours
stateful   no NAT: such a table, asked last, drops the packets of connections whose addresses
           netfilter has changed
full       everything"""

from __future__ import annotations

import _socket
import _struct as struct
import errno
import os

from vzpy.kernel.netlink import NLM_F_ACK, NLM_F_CREATE, Request, attr, nested
from vzpy.once import once

DISABLED, STATELESS, STATEFUL, FULL = "disabled", "stateless", "stateful", "full"
TABLES = {STATELESS: "vz_stateless", STATEFUL: "vz_stateful"}

# --- disabled: classic BPF over struct seccomp_data (seccomp(2)) --------------------------------

_LOAD, _JEQ, _JGE, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _ARGS = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_AF_NETLINK, _NETLINK_NETFILTER = 16, 12
# IPT_SO_SET_REPLACE and _ADD_COUNTERS, of iptables, ip6tables, arptables and ebtables
_SET_OPTIONS = (64, 65, 96, 97, 128, 129)
_SOL_IP, _SOL_IPV6 = 0, 41
# AUDIT_ARCH_* -> numbers of socket, setsockopt and socketcall. The last hides its arguments from a
# filter: 32-bit programs have to use the others, as their libraries do when they get ENOSYS.
_CALLS = {
    0xC000003E: (41, 54, -1),  # x86_64
    0x40000003: (359, 366, 102),  # i386
    0xC00000B7: (198, 208, -1),  # aarch64
}


def refusal() -> bytes:
    """The filter of system calls for `disabled`, beside the one that every VPS has."""
    code: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _ARCH)]
    for arch, numbers in _CALLS.items():
        body = _of_arch(*numbers)
        code += [(_JEQ, 0, len(body), arch), *body]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _of_arch(socket: int, setsockopt: int, socketcall: int) -> list[tuple[int, int, int, int]]:
    """Every jump goes to the next block at most, so that each block can be read alone."""
    code = [(_LOAD, 0, 0, _NUMBER)]
    if socketcall >= 0:
        code += [(_JEQ, 0, 1, socketcall), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += [
        (_JEQ, 0, 6, socket),
        (_LOAD, 0, 0, _ARGS),
        (_JEQ, 0, 3, _AF_NETLINK),
        (_LOAD, 0, 0, _ARGS + 16),
        (_JEQ, 0, 1, _NETLINK_NETFILTER),
        (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    names = [(_JEQ, len(_SET_OPTIONS) - at, 0, name) for at, name in enumerate(_SET_OPTIONS)]
    code += [
        (_JEQ, 1, 0, setsockopt),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _ARGS + 8),
        (_JEQ, 1, 0, _SOL_IP),
        (_JEQ, 0, len(names) + 1, _SOL_IPV6),
        (_LOAD, 0, 0, _ARGS + 16),
        *names,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.ENOPROTOOPT),
    ]
    return code


# --- stateless, stateful: a transaction of nftables (linux/netfilter/nf_tables.h) --------------

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0x0A00, 0x0A03, 0x0A06
_APPEND = 0x800
_INET, _SUBSYSTEM = 1, 10
_FLAG_OWNER = 2
# Hooks, and the priority there. Chains that are added later come before ours of the same priority.
# notrack: before connection tracking, at -200.
_RAW = -300
# dropped: after all NAT, which has places of its own; a connection that is confirmed (INT_MAX)
# might be carried on by a flow table, past the hooks.
_LAST = 0x7FFFFFFE
_CHAINS = {
    STATELESS: ((("prerouting", 0), ("output", 3)), _RAW),
    STATEFUL: ((("input", 1), ("postrouting", 4)), _LAST),
}
_MSG_DONTWAIT = 0x40
_ANSWERS = 1 + 2 * 2  # to a table and two chains with a rule each
_CT_STATUS, _IPS_NAT = 2, 0x10 | 0x20  # IPS_SRC_NAT, IPS_DST_NAT
_REG, _NOT_EQUAL, _DROP = 1, 1, 0


def confirm(table: int) -> None:
    """The kernel has made the table that transaction() asked for on this socket; it lasts as long
    as the socket.

    Raises OSError: EOPNOTSUPP where the kernel has no nftables, or none with owners."""
    s = _socket.socket(fileno=os.dup(table))
    try:
        answered = 0
        while answered < _ANSWERS:
            packet, at = s.recv(65536, _MSG_DONTWAIT), 0  # the kernel answers while it is asked
            while at < len(packet):
                length, kind, _, _, _ = struct.unpack_from("=IHHII", packet, at)
                if kind == 2:  # NLMSG_ERROR, which an acknowledgement is too
                    (code,) = struct.unpack_from("=i", packet, at + 16)
                    if code:
                        raise OSError(-code, f"nftables: {errno.errorcode.get(-code, -code)}")
                    answered += 1
                at += length + 3 & ~3
    finally:
        s.close()


_made: dict[str, bytes] = {}


def transaction(level: str) -> bytes:
    """What makes the table of a level (TABLES), to be sent in its namespace; see confirm()."""
    return once(_made, level, lambda: _transaction(level))


def _transaction(level: str) -> bytes:
    hooks, priority = _CHAINS[level]
    expressions = _notrack() if level == STATELESS else _drop_translated()
    table = attr(1, TABLES[level])
    messages = [_message(_NEWTABLE, NLM_F_CREATE, table, _number(2, _FLAG_OWNER))]
    for chain, hook in hooks:
        where = nested(4, _number(1, hook), _number(2, priority & 0xFFFFFFFF))
        kind = attr(7, "filter")
        messages.append(_message(_NEWCHAIN, NLM_F_CREATE, table, attr(3, chain), where, kind))
        flags = NLM_F_CREATE | _APPEND
        rule = nested(4, *expressions)
        messages.append(_message(_NEWRULE, flags, table, attr(2, chain), rule))
    ends = [
        Request(kind, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM), "").packed(0)
        for kind in (_BATCH_BEGIN, _BATCH_END)
    ]
    return ends[0] + b"".join(messages) + ends[1]


def _notrack() -> list[bytes]:
    return [_expression("notrack")]


def _drop_translated() -> list[bytes]:
    """`ct status snat,dnat counter drop`."""
    return [
        _expression("ct", _number(1, _REG), _number(2, _CT_STATUS)),
        _expression("bitwise", _number(1, _REG), _number(2, _REG), _number(3, 4),
                    nested(4, _host(_IPS_NAT)), nested(5, _host(0))),
        _expression("cmp", _number(1, _REG), _number(2, _NOT_EQUAL), nested(3, _host(0))),
        _expression("counter"),
        _expression("immediate", _number(1, 0), nested(2, nested(2, _number(1, _DROP)))),
    ]


def _expression(name: str, *attributes: bytes) -> bytes:
    """An element of a rule's list."""
    return nested(1, attr(1, name), nested(2, *attributes))


def _host(number: int) -> bytes:
    """A value to compare a register with, as this machine has numbers."""
    return attr(1, number)


def _message(kind: int, flags: int, *attributes: bytes) -> bytes:
    body = struct.pack(">BBH", _INET, 0, 0) + b"".join(attributes)
    return Request(kind, flags | NLM_F_ACK, body, "").packed(0)


def _number(kind: int, value: int) -> bytes:
    """As nftables has numbers: big-endian."""
    return attr(kind, struct.pack(">I", value))
