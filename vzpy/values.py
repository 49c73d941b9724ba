"""Value classes: text <-> value, exactly as vzctl read and stored it (vzctl-cli 5, config-files 2).

Every class is a Kind in KINDS. `parse` raises Invalid, never anything else; `text` gives the form
that is stored, and parse(text(value)) == value. What is rare is imported where it is used."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

UNLIMITED = 2**63 - 1  # LONG_MAX: the word `unlimited`
PAGE = os.sysconf("SC_PAGE_SIZE")
IOLIMIT_MAX = 2**31 - 1
CPUS_MAX = 4096
IFNAME_MAX = 15
FEATURES = ("sysfs", "nfs", "sit", "ipip", "ppp", "ipgre", "bridge", "nfsd")
LAYOUTS = ("overlay", "simfs", "image", "ploop")
_SCALE = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "P": PAGE, "B": 1}


class Invalid(ValueError):
    """A value that cannot be read.

    detail   what exactly is wrong, when there is more to say than the value itself
    rest     what a configuration file may still mean by it (None: nothing, skip it)
    progress the contract wants the detail on standard output"""

    def __init__(self, detail: str = "", rest: Any = None, progress: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.rest = rest
        self.progress = progress


class Kind:
    """One value class. repeat: how a key or an option that comes twice is understood: the
    "first" counts, the "last" counts, or both are one "list"."""

    __slots__ = ("parse", "text", "repeat")

    def __init__(
        self,
        parse: Callable[[str], Any],
        text: Callable[[Any], str] = str,
        repeat: str = "first",
    ) -> None:
        self.parse = parse
        self.text = text
        self.repeat = repeat


# --- numbers ---------------------------------------------------------------------------------


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _int(text: str, top: int = UNLIMITED) -> int:
    """A plain decimal number 0..top."""
    if not _digits(text):
        raise Invalid
    if len(text) > 30 or int(text) > top:
        raise Invalid(rest=top)
    return int(text)


def _integer(text: str) -> int:
    return -_int(text[1:]) if text.startswith("-") else _int(text)


def _within(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _digits(text) or len(text) > 30 or not low <= int(text) <= high:
            raise Invalid
        return int(text)

    return parse


def amount(text: str, unit: int, up: bool = False) -> int:
    """`N[.M][TGMKPB]` or `unlimited`, counted in `unit` bytes; unit 0 allows no suffix.

    Rounded down, with `up` up. Too large is Invalid with rest=UNLIMITED."""
    if text == "unlimited":
        return UNLIMITED
    scale = _SCALE.get(text[-1:].upper()) if unit else None
    whole, dot, part = (text[:-1] if scale else text).partition(".")
    if not _digits(whole + part):
        raise Invalid
    if len(whole) > 30:
        raise Invalid(rest=UNLIMITED)
    if scale is None:
        value = int(whole or "0")
    else:
        part = part[:30]
        bytes10 = int((whole + part) or "0") * scale
        divisor = 10 ** len(part) * unit
        value = -(-bytes10 // divisor) if up else bytes10 // divisor
    if value > UNLIMITED:
        raise Invalid(rest=UNLIMITED)
    return value


def _pair(unit: int, unlimited: bool = True) -> Callable[[str], tuple[int, int]]:
    """`v[:v]`; one number stands for both."""

    def parse(text: str) -> tuple[int, int]:
        first, colon, second = text.partition(":")
        found, large = [], False
        for word in (first, second) if colon else (first, first):
            if word == "unlimited" and not unlimited:
                raise Invalid
            try:
                found.append(amount(word, unit))
            except Invalid as err:
                if err.rest is None:
                    raise
                found.append(err.rest)
                large = True
        pair = (found[0], found[1])
        if large:
            raise Invalid(rest=pair)
        return pair

    return parse


def _vswap(text: str) -> tuple[int, int]:
    """--ram, --swap: bare = bytes, rounded up to pages; the barrier is 0."""
    if text == "unlimited":
        return (0, -(-UNLIMITED // PAGE))
    bare = _digits(text)
    bytes_ = amount(text + "B" if bare else text, 1, up=True)
    return (0, -(-bytes_ // PAGE))


def count_text(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


def ubc_text(pair: tuple[int, int]) -> str:
    """`bar:lim`, one number when both are equal."""
    barrier, limit = count_text(pair[0]), count_text(pair[1])
    return barrier if barrier == limit else f"{barrier}:{limit}"


def _disk_text(pair: tuple[int, int]) -> str:
    return f"{pair[0]}:{pair[1]}"


def _float(text: str) -> float:
    """A finite number >= 0, also in the form that %g writes."""
    if len(text) > 30 or text[:1] not in tuple("0123456789.") or set(text) - set("0123456789.e+-"):
        raise Invalid
    try:
        value = float(text)
    except ValueError:
        raise Invalid from None
    if value > UNLIMITED:
        raise Invalid
    return value


def _cpulimit(text: str) -> int:
    """Per cent of one CPU; `N%` is per cent of the whole node."""
    if text.endswith("%"):
        return _within(0, 100)(text[:-1]) * (os.cpu_count() or 1)
    return _int(text, 2**31 - 1)


def _iolimit(bare: int) -> Callable[[str], int]:
    """Bytes a second, at most IOLIMIT_MAX; 0 and `unlimited` are no limit."""

    def parse(text: str) -> int:
        if text == "unlimited":
            return 0
        value = amount(text, 1) * (1 if text[-1:].isalpha() else bare)
        if value > IOLIMIT_MAX:
            raise Invalid(rest=IOLIMIT_MAX)
        return value

    return parse


def _iopslimit(text: str) -> int:
    return 0 if text == "unlimited" else _int(text, IOLIMIT_MAX)


def cpulist(text: str, *words: str) -> str:
    """`0-2,7` in its shortest form, `all`, or one of `words`."""
    if text == "all" or text in words:
        return text
    numbers: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.partition("-")
        one = _within(0, CPUS_MAX - 1)
        low = one(first)
        high = one(last) if dash else low
        if high < low:
            raise Invalid
        numbers.update(range(low, high + 1))
    return "all" if len(numbers) == CPUS_MAX else _ranges_text(sorted(numbers))


def _ranges_text(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def _meminfo(text: str) -> str:
    mode, colon, number = text.partition(":")
    if text == "none":
        return text
    if mode not in ("pages", "privvmpages") or _int(number) == 0:
        raise Invalid
    return f"{mode}:{int(number)}"


# --- words -----------------------------------------------------------------------------------


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise Invalid
        return text

    return parse


def _yesno(text: str) -> bool:
    return _choice("yes", "no")(text) == "yes"


def _yesno_text(value: bool) -> str:
    return "yes" if value else "no"


def _text(text: str) -> str:
    """Anything that fits on one line."""
    if "\n" in text or "\0" in text:
        raise Invalid
    return text


def _only(text: str, more: str) -> bool:
    """Nothing but ASCII letters, digits and the characters of `more`."""
    return text.isascii() and all(char.isalnum() or char in more for char in text)


def _name(text: str) -> str:
    """A VPS's second name (vzctl-cli 1.1); empty takes it away. `.` and `..` are no file names."""
    if not _only(text, " -+_.") or len(text) > 255 or text in (".", ".."):
        raise Invalid
    return text


def _hostname(text: str) -> str:
    """What sethostname(2) takes: 64 characters; no blanks or controls, dist files would break."""
    if not _only(text, "-_.") or len(text) > 64:
        raise Invalid
    return text


def _filename(text: str) -> str:
    """One component of a path."""
    if not text or text in (".", "..") or "/" in text or len(text) > 255:
        raise Invalid
    return _text(text)


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise Invalid
    return _text(text)


def _words(text: str) -> list[str]:
    return _text(text.replace(",", " ")).split()


def _layout(text: str) -> str:
    """`ploop[:expanded|plain|raw]` is the old name of image."""
    if text in ("ploop:expanded", "ploop:plain", "ploop:raw"):
        return "ploop"
    return _choice(*LAYOUTS)(text)


def _userpasswd(text: str) -> str:
    user, colon, password = _text(text).partition(":")
    if not colon or not user or not _only(user, "-_.$") or user.startswith("-"):
        raise Invalid
    return text


def _uuid(text: str) -> str:
    """Braces are optional, the form kept is `{lower-case}`."""
    bare = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    parts = bare.lower().split("-")
    hexa = all(char in "0123456789abcdef" for char in "".join(parts))
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not hexa:
        raise Invalid
    return "{" + "-".join(parts) + "}"


def _hex(text: str) -> int:
    digits = text.lower().removeprefix("0x")
    if not 0 < len(digits) <= 16 or any(char not in "0123456789abcdef" for char in digits):
        raise Invalid
    return int(digits, 16)


# --- capabilities and features -----------------------------------------------------------------


def _capability(text: str) -> dict[str, bool]:
    """`name:on|off[,...]`; VE_ADMIN, OpenVZ's own, is known and means nothing here."""
    from vzpy.kernel.caps import NUMBERS

    found = {}
    for word in _words(text):
        name, colon, switch = word.rpartition(":")
        if not colon or switch not in ("on", "off"):
            raise Invalid(f"Can't parse capability {word} (expecting capname:on|off)")
        name = name.lower().removeprefix("cap_")
        if name not in NUMBERS and name != "ve_admin":
            raise Invalid(f"Capability {word.rpartition(':')[0]} is unknown")
        found[name.upper()] = switch == "on"
    return found


def _features(text: str) -> dict[str, bool]:
    found, unknown = {}, ""
    for word in _words(text):
        name, colon, switch = word.partition(":")
        if name not in FEATURES or switch not in ("on", "off"):
            unknown = unknown or word
        else:
            found[name] = switch == "on"
    if unknown:
        raise Invalid(f"Warning: Unknown feature: {unknown}", rest=found, progress=True)
    return found


def _switches_text(switches: dict[str, bool]) -> str:
    return " ".join(f"{name}:{'on' if on else 'off'}" for name, on in switches.items())


# --- network ---------------------------------------------------------------------------------


def _ip(text: str) -> str:
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
    host = _ip(host)
    if not slash:
        return host
    if "." in mask and ":" not in host:
        bits = "".join(f"{int(part):08b}" for part in _ip(mask).split("."))
        if "01" in bits:
            raise Invalid
        return f"{host}/{bits.count('1')}"
    return f"{host}/{_within(0, 128 if ':' in host else 32)(mask)}"


def _addresses(text: str) -> list[str]:
    found: list[str] = []
    for word in _text(text).split():
        if word not in ("0.0.0.0", "::", "::0"):
            canonical = address(word)
            if canonical not in found:
                found.append(canonical)
    return found


def _addresses_or_all(text: str) -> list[str]:
    return [addr for w in text.split() for addr in (["all"] if w == "all" else _addresses(w))]


def _nameserver(text: str) -> list[str]:
    return [word if word == "inherit" else _ip(word) for word in _words(text)]


def ifname(text: str) -> str:
    """The name of a network device (dev_valid_name() of the kernel)."""
    if not 0 < len(text.encode(errors="surrogateescape")) <= IFNAME_MAX or text in (".", ".."):
        raise Invalid
    if any(char in "/:,;=\"" or char.isspace() for char in text):
        raise Invalid
    return _text(text)


def _netdevs(text: str) -> list[str]:
    found = [ifname(word) for word in text.split()]
    if any(name.startswith(("venet", "tun", "tap", "lo")) for name in found):
        raise Invalid
    return found


def mac(text: str) -> str:
    parts = text.split(":")
    if len(parts) != 6 or any(not 0 < len(part) <= 2 for part in parts):
        raise Invalid
    return ":".join(f"{_hex(part):02X}" for part in parts)


NETIF_FIELDS: dict[str, Callable[[str], str]] = {  # in the order they are stored
    "ifname": ifname,
    "bridge": ifname,
    "mac": mac,
    "host_ifname": ifname,
    "host_mac": mac,
    "mac_filter": _choice("on", "off"),
}


def _netif(text: str) -> list[dict[str, str]]:
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


def _netif_text(netifs: list[dict[str, str]]) -> str:
    return ";".join(
        ",".join(f"{field}={netif[field]}" for field in NETIF_FIELDS if netif.get(field))
        for netif in netifs
    )


def _netif_add(text: str) -> list[dict[str, str]]:
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


def _devices(text: str) -> list[str]:
    found = []
    for word in _text(text).split():
        parts = word.split(":")
        if len(parts) != 4 or parts[0] not in ("b", "c"):
            raise Invalid
        major = _within(0, 4095)(parts[1])
        if major == _LOOP_MAJOR:
            raise Invalid
        minor = parts[2] if parts[2] == "all" else str(_within(0, 1048575)(parts[2]))
        found.append(f"{parts[0]}:{major}:{minor}:{_permission(parts[3])}")
    return found


def _devnodes(text: str) -> list[str]:
    """`name:[rwq]|none`, a name below /dev."""
    found = []
    for word in _text(text).split():
        name, colon, permission = word.rpartition(":")
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise Invalid
        found.append(f"{name}:{_permission(permission)}")
    return found


def _devnodes_here(text: str) -> list[str]:
    """The same from the command line, where the device must exist."""
    import stat

    found = _devnodes(text)
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


def _pci(text: str) -> list[str]:
    """`[domain:]bus:slot.function`, hexadecimal."""
    found = []
    for word in _text(text).split():
        head, dot, function = word.rpartition(".")
        parts = ["0", *head.split(":")] if head.count(":") == 1 else head.split(":")
        if not dot or len(parts) != 3:
            raise Invalid
        domain, bus, slot = (_hex(part) for part in parts)
        if not (0 <= domain < 65536 and 0 <= bus < 256 and 0 <= slot < 32):
            raise Invalid
        found.append(f"{domain:04x}:{bus:02x}:{slot:02x}.{_within(0, 7)(function)}")
    return found


# ---------------------------------------------------------------------------------------------

KINDS: dict[str, Kind] = {
    "ubc-num": Kind(_pair(0), ubc_text, "last"),
    "ubc-page": Kind(_pair(PAGE), ubc_text, "last"),
    "ubc-byte": Kind(_pair(1), ubc_text, "last"),
    "vswap": Kind(_vswap, ubc_text, "last"),
    "disk-space": Kind(_pair(1024, unlimited=False), _disk_text),
    "disk-inodes": Kind(_pair(1, unlimited=False), _disk_text),
    "number": Kind(_int),
    "integer": Kind(_integer),
    "ranges": Kind(_within(1, 4094)),
    "range-base": Kind(_within(65536, 2**32 - 65537)),
    "cpuunits": Kind(_within(8, 500000)),
    "cpulimit": Kind(_cpulimit),
    "cpulist": Kind(cpulist),
    "cpumask": Kind(lambda text: cpulist(text, "auto")),
    "float": Kind(_float, lambda value: f"{value:g}"),
    "ioprio": Kind(_within(0, 7)),
    "iolimit": Kind(_iolimit(1)),
    "iolimit-mb": Kind(_iolimit(1 << 20)),
    "iopslimit": Kind(_iopslimit),
    "meminfo": Kind(_meminfo),
    "yesno": Kind(_yesno, _yesno_text),
    "on-off": Kind(_choice("on", "off")),
    "setmode": Kind(_choice("restart", "ignore")),
    "map": Kind(_choice("name")),
    "netfilter": Kind(_choice("disabled", "stateless", "stateful", "full")),
    "layout": Kind(_layout),
    "text": Kind(_text),
    "name": Kind(_name),
    "hostname": Kind(_hostname),
    "filename": Kind(_filename),
    "path": Kind(_path),
    "words": Kind(_words, " ".join, "list"),
    "uuid": Kind(_uuid),
    "hex": Kind(_hex, hex),
    "userpasswd": Kind(_userpasswd, str, "list"),
    "capability": Kind(_capability, _switches_text, "list"),
    "features": Kind(_features, _switches_text, "list"),
    "addresses": Kind(_addresses, " ".join, "list"),
    "addresses-or-all": Kind(_addresses_or_all, " ".join, "list"),
    "nameserver": Kind(_nameserver, " ".join, "list"),
    "netdevs": Kind(_netdevs, " ".join, "list"),
    "netif": Kind(_netif, _netif_text),
    "netif-add": Kind(_netif_add, _netif_text, "list"),
    "ifname": Kind(ifname, str, "list"),
    "one-ifname": Kind(ifname),
    "mac": Kind(mac),
    "devices": Kind(_devices, " ".join, "list"),
    "devnodes": Kind(_devnodes, " ".join, "list"),
    "devnodes-here": Kind(_devnodes_here, " ".join, "list"),
    "pci": Kind(_pci, " ".join, "list"),
}


def parse(kind: str, text: str) -> Any:
    """The value of `text`; raises Invalid."""
    return KINDS[kind].parse(text)


def text(kind: str, value: Any) -> str:
    """The form of `value` that is stored."""
    return KINDS[kind].text(value)
