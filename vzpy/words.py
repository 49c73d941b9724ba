"""Words as vzctl read them: names, switches, addresses, interfaces, devices (vzctl-cli 5).

Every function takes a text and gives a value, or raises Invalid. What is rare is imported where it
is used."""

from __future__ import annotations

import os

from vzpy.amounts import Invalid, within
from vzpy.names import is_legal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IFNAME_MAX = 15
FEATURES = ("sysfs", "nfs", "sit", "ipip", "ppp", "ipgre", "bridge", "nfsd")
LAYOUTS = ("overlay", "simfs", "image", "ploop")
# Blocks taken when written, or all at once; the file system inside.
IMAGE_MODES = ("expanded", "plain", "raw", "ext4", "xfs")


def choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise Invalid
        return text

    return parse


def yesno(text: str) -> bool:
    return choice("yes", "no")(text) == "yes"


def yesno_text(value: bool) -> str:
    return "yes" if value else "no"


def line(text: str) -> str:
    """Anything that fits on one line."""
    if "\n" in text or "\0" in text:
        raise Invalid
    return text


def consists_of(text: str, more: str) -> bool:
    """Nothing but ASCII letters, digits and the characters of `more`."""
    return text.isascii() and all(char.isalnum() or char in more for char in text)


def second_name(text: str) -> str:
    """A VPS's second name; empty takes it away."""
    if text and not is_legal(text):
        raise Invalid
    return text


def hostname(text: str) -> str:
    """What sethostname(2) takes: 64 characters; no blanks or controls, dist files would break."""
    if not consists_of(text, "-_.") or len(text) > 64:
        raise Invalid
    return text


def filename(text: str) -> str:
    """One component of a path."""
    if not text or text in (".", "..") or "/" in text or len(text) > 255:
        raise Invalid
    return line(text)


def absolute(text: str) -> str:
    if not text.startswith("/"):
        raise Invalid
    return line(text)


def words(text: str) -> list[str]:
    return line(text.replace(",", " ")).split()


def layout(text: str) -> str:
    """image[:MODE[,MODE]], of which ploop is the old name."""
    name, colon, modes = text.partition(":")
    choice(*LAYOUTS)(name)
    if colon and not (name in ("image", "ploop") and set(modes.split(",")) <= set(IMAGE_MODES)):
        raise Invalid
    return text


def userpasswd(text: str) -> str:
    user, colon, password = line(text).partition(":")
    if not colon or not user or not consists_of(user, "-_.$") or user.startswith("-"):
        raise Invalid
    return text


def uuid(text: str) -> str:
    """Braces are optional, the form kept is `{lower-case}`."""
    bare = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    parts = bare.lower().split("-")
    hexa = all(char in "0123456789abcdef" for char in "".join(parts))
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not hexa:
        raise Invalid
    return "{" + "-".join(parts) + "}"


def hexadecimal(text: str) -> int:
    digits = text.lower().removeprefix("0x")
    if not 0 < len(digits) <= 16 or any(char not in "0123456789abcdef" for char in digits):
        raise Invalid
    return int(digits, 16)


# --- capabilities and features -----------------------------------------------------------------


def capability(text: str) -> dict[str, bool]:
    """`name:on|off[,...]`; VE_ADMIN, OpenVZ's own, is known and means nothing here."""
    from vzpy.kernel.caps import NUMBERS

    found = {}
    for word in words(text):
        name, colon, switch = word.rpartition(":")
        if not colon or switch not in ("on", "off"):
            raise Invalid(f"Can't parse capability {word} (expecting capname:on|off)")
        name = name.lower().removeprefix("cap_")
        if name not in NUMBERS and name != "ve_admin":
            raise Invalid(f"Capability {word.rpartition(':')[0]} is unknown")
        found[name.upper()] = switch == "on"
    return found


def features(text: str) -> dict[str, bool]:
    found, unknown = {}, ""
    for word in words(text):
        name, colon, switch = word.partition(":")
        if name not in FEATURES or switch not in ("on", "off"):
            unknown = unknown or word
        else:
            found[name] = switch == "on"
    if unknown:
        raise Invalid(f"Warning: Unknown feature: {unknown}", rest=found, progress=True)
    return found


def switches_text(switches: dict[str, bool]) -> str:
    return " ".join(f"{name}:{'on' if on else 'off'}" for name, on in switches.items())


# --- network ---------------------------------------------------------------------------------


def ip_address(text: str) -> str:
    """An address in its canonical form."""
    # Not `socket`: that module costs enum and selectors, 5 ms
    from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

    family = AF_INET6 if ":" in text else AF_INET
    try:
        return inet_ntop(family, inet_pton(family, text))
    except (OSError, ValueError):
        raise Invalid from None


def address(text: str) -> str:
    """`ADDR[/prefix]`; a dotted IPv4 mask is turned into its prefix."""
    host, slash, mask = text.partition("/")
    host = ip_address(host)
    if not is_unicast(host):
        raise Invalid
    if not slash:
        return host
    if "." in mask and ":" not in host:
        bits = "".join(f"{int(part):08b}" for part in ip_address(mask).split("."))
        if "01" in bits:
            raise Invalid
        return f"{host}/{bits.count('1')}"
    return f"{host}/{within(0, 128 if ':' in host else 32)(mask)}"


def is_unicast(host: str) -> bool:
    """A canonical address that one machine can have and a router pass on: not "this network",
    loopback, link-local, multicast, reserved, nor an IPv4 address in IPv6 clothes."""
    from _socket import AF_INET, AF_INET6, inet_pton

    if ":" not in host:
        first, second = inet_pton(AF_INET, host)[:2]
        return 0 < first < 224 and first != 127 and (first, second) != (169, 254)
    packed = inet_pton(AF_INET6, host)
    local = packed[0] == 0xFE and packed[1] & 0x80  # fe80::/10 and the old fec0::/10
    return packed[0] != 0xFF and not local and packed[:12] not in (bytes(12), _MAPPED)


_MAPPED = bytes(10) + b"\xff\xff"


def addresses(text: str) -> list[str]:
    found: list[str] = []
    for word in line(text).split():
        if word not in ("0.0.0.0", "::", "::0"):
            canonical = address(word)
            if canonical not in found:
                found.append(canonical)
    return found


def addresses_or_all(text: str) -> list[str]:
    return [addr for w in text.split() for addr in (["all"] if w == "all" else addresses(w))]


def nameserver(text: str) -> list[str]:
    return [word if word == "inherit" else ip_address(word) for word in words(text)]


def ifname(text: str) -> str:
    """The name of a network device (dev_valid_name() of the kernel)."""
    if not 0 < len(text.encode(errors="surrogateescape")) <= IFNAME_MAX or text in (".", ".."):
        raise Invalid
    if any(char in "/:,;=\"" or char.isspace() for char in text):
        raise Invalid
    return line(text)


def netdevs(text: str) -> list[str]:
    found = [ifname(word) for word in text.split()]
    if any(name.startswith(("venet", "tun", "tap", "lo")) for name in found):
        raise Invalid
    return found


def mac(text: str) -> str:
    """The hardware address of one machine: no group's, and not all zeroes."""
    parts = text.split(":")
    if len(parts) != 6 or any(not 0 < len(part) <= 2 for part in parts):
        raise Invalid
    numbers = [hexadecimal(part) for part in parts]
    if numbers[0] & 1 or not any(numbers):
        raise Invalid
    return ":".join(f"{number:02X}" for number in numbers)


NETIF_FIELDS: dict[str, Callable[[str], str]] = {  # in the order they are stored
    "ifname": ifname,
    "bridge": ifname,
    "mac": mac,
    "host_ifname": ifname,
    "host_mac": mac,
    "mac_filter": choice("on", "off"),
}


def netif(text: str) -> list[dict[str, str]]:
    """`ifname=eth0,mac=...;ifname=eth1`: one dict an interface; unknown fields are left out."""
    found: list[dict[str, str]] = []
    for item in text.split(";"):
        netif: dict[str, str] = {}
        for word in item.split(","):
            field, equals, value = word.strip().partition("=")
            if value and field in NETIF_FIELDS:
                netif.setdefault(field, NETIF_FIELDS[field](value))
        if item.strip():
            if "ifname" not in netif:
                raise Invalid
            if netif["ifname"] not in [other["ifname"] for other in found]:
                found.append(netif)
    return found


def netif_text(netifs: list[dict[str, str]]) -> str:
    return ";".join(
        ",".join(f"{field}={netif[field]}" for field in NETIF_FIELDS if netif.get(field))
        for netif in netifs
    )


def netif_add(text: str) -> list[dict[str, str]]:
    """`ifname[,mac,host_ifname,host_mac,bridge]`, empty fields allowed."""
    found = []
    for item in text.split():
        values = item.split(",")
        if len(values) > 5:
            raise Invalid
        netif = {"ifname": ifname(values[0])}
        fields = ("mac", "host_ifname", "host_mac", "bridge")
        for field, value in zip(fields, values[1:]):
            if value and field.endswith("mac") and len(value) != 17:
                raise Invalid(
                    "Invalid container MAC address length"
                    if field == "mac" else "Invalid host MAC address"
                )
            try:
                if value:
                    netif[field] = NETIF_FIELDS[field](value)
            except Invalid:
                texts = {"mac": "Invalid container MAC address format",
                         "host_mac": "Invalid host MAC address"}
                raise Invalid(texts.get(field, "")) from None
        found.append(netif)
    return found


# --- devices ---------------------------------------------------------------------------------

_LOOP_MAJOR = 7  # a loop device is a way to mount what was written: denied (vzctl-cli 5)


def _permission(text: str) -> str:
    """`none` or some of r, w, q, each once and in this order."""
    if text == "none":
        return text
    if not text or any(char not in "rwq" for char in text):
        raise Invalid
    return "".join(char for char in "rwq" if char in text)


def devices(text: str) -> list[str]:
    found = []
    for word in line(text).split():
        parts = word.split(":")
        if len(parts) != 4 or parts[0] not in ("b", "c"):
            raise Invalid
        major = within(0, 4095)(parts[1])
        if major == _LOOP_MAJOR:
            raise Invalid
        minor = parts[2] if parts[2] == "all" else str(within(0, 1048575)(parts[2]))
        found.append(f"{parts[0]}:{major}:{minor}:{_permission(parts[3])}")
    return found


def rate(text: str) -> list[str]:
    """`device:class:kbit` each; `*` stands for any device."""
    found = []
    for word in line(text).split():
        device, _, rest = word.partition(":")
        kind, _, kbit = rest.partition(":")
        if device != "*":
            ifname(device)
        within(0, 15)(kind)
        found.append(f"{device}:{kind}:{within(0, 2**31 - 1)(kbit)}")
    return found


def devnodes(text: str) -> list[str]:
    """`name:[rwq]|none`, a name below /dev."""
    found = []
    for word in line(text).split():
        name, colon, permission = word.rpartition(":")
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise Invalid
        found.append(f"{name}:{_permission(permission)}")
    return found


def devnodes_here(text: str) -> list[str]:
    """The same from the command line, where the device must exist."""
    import stat

    found = devnodes(text)
    for node in found:
        name = node.rpartition(":")[0]
        path = f"/dev/{name}"
        try:
            status = os.stat(path)
        except (OSError, ValueError) as err:
            why = err.strerror if isinstance(err, OSError) else str(err)
            raise Invalid(f"Incorrect device name {path}: {why}") from None
        if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise Invalid(f"The {path} is not block or character device")
        if stat.S_ISBLK(status.st_mode) and os.major(status.st_rdev) == _LOOP_MAJOR:
            raise Invalid(f"Device {name} is not allowed to be assigned to a CT")
    return found


def pci(text: str) -> list[str]:
    """`[domain:]bus:slot.function`, hexadecimal."""
    found = []
    for word in line(text).split():
        head, dot, function = word.rpartition(".")
        parts = ["0", *head.split(":")] if head.count(":") == 1 else head.split(":")
        if not dot or len(parts) != 3:
            raise Invalid
        domain, bus, slot = (hexadecimal(part) for part in parts)
        if not (0 <= domain < 65536 and 0 <= bus < 256 and 0 <= slot < 32):
            raise Invalid
        found.append(f"{domain:04x}:{bus:02x}:{slot:02x}.{within(0, 7)(function)}")
    return found
