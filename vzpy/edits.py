"""How the options of one `set` or `create` change what is stored: lists grow and shrink, switches
are merged, scalars replaced (vzctl-cli 5). Pure: values in, texts of N.conf out."""

from __future__ import annotations

from vzpy import values
from vzpy.errors import UsageError
from vzpy.params import BY_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from vzpy.config import Config
    from vzpy.option import Option

_NETIF_EDIT = ("mac", "host_ifname", "host_mac", "bridge", "mac_filter")


def changes(
    given: Mapping[str, Any], options: Mapping[str, Option], conf: Config, ctid: int
) -> dict[str, str]:
    """The new text of each key that the options given (keyword -> value) change.

    Raises UsageError where an option needs another, or names what is not there."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        key = options[name].key
        if key and key not in _MERGED:
            found[key] = value
    for key, merge in _MERGED.items():
        if any(options[name].key == key for name in given):
            found[key] = merge(given, conf.value(key), ctid)
    return {key: values.text(BY_KEY[key].kind, value) for key, value in found.items()}


def _addresses(given: Mapping[str, Any], old: list[str] | None, ctid: int) -> list[str]:
    """An address given again with another mask is taken away and added."""
    add, delete = given.get("ipadd", []), given.get("ipdel", [])
    gone = {_host(address) for address in delete}
    kept = [] if "all" in delete else [a for a in old or [] if _host(a) not in gone]
    changed = {_host(address) for address in add if address not in kept}
    kept = [address for address in kept if _host(address) not in changed]
    return _unique(kept + add)


def _host(address: str) -> str:
    return address.partition("/")[0]


def _list_of(add: str, delete: str) -> Any:
    def merge(given: Mapping[str, Any], old: list[str] | None, ctid: int) -> list[str]:
        gone = given.get(delete, [])
        return _unique([item for item in old or [] if item not in gone] + given.get(add, []))

    return merge


def _switches(name: str) -> Any:
    def merge(
        given: Mapping[str, Any], old: dict[str, bool] | None, ctid: int
    ) -> dict[str, bool]:
        return {**(old or {}), **given[name]}

    return merge


def _devices(name: str) -> Any:
    """A device given again has its access replaced; `none` is kept, since it also forbids what
    every VPS has."""

    def merge(given: Mapping[str, Any], old: list[str] | None, ctid: int) -> list[str]:
        split = [word.rpartition(":") for word in (old or []) + given[name]]
        return [f"{device}:{access}" for device, access in {x[0]: x[2] for x in split}.items()]

    return merge


def _unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))


# --- veth interfaces --------------------------------------------------------------------------


def _netif(
    given: Mapping[str, Any], old: list[dict[str, str]] | None, ctid: int
) -> list[dict[str, str]]:
    gone = given.get("netif_del", [])
    kept = {n["ifname"]: n for n in old or [] if "all" not in gone and n["ifname"] not in gone}
    for netif in given.get("netif_add", []):
        kept[netif["ifname"]] = complete(netif, ctid)
    edit = {field: given[field] for field in _NETIF_EDIT if field in given}
    name = given.get("ifname")
    if edit and name is None:
        raise UsageError("Invalid usage.  Option --ifname not specified")
    if name is not None:
        if name not in kept:
            raise UsageError(
                f"Invalid usage: veth device {name} is not configured,"
                " use --netif_add option first"
            )
        kept[name] = {**kept[name], **edit}
    return list(kept.values())


def complete(netif: dict[str, str], ctid: int) -> dict[str, str]:
    """An interface with what its owner left open: name on the node, hardware addresses."""
    digits = "".join(char if char.isdigit() else " " for char in netif["ifname"]).split()
    full = {"host_ifname": f"veth{ctid}.{int(digits[0]) if digits else 0}", **netif}
    full.setdefault("mac", _new_mac())
    full.setdefault("host_mac", netif.get("mac") or _new_mac())
    return full


def _new_mac() -> str:
    """00:18:51 is the prefix OpenVZ used for its interfaces (SWsoft)."""
    import os

    return "00:18:51:" + ":".join(f"{byte:02X}" for byte in os.urandom(3))


_MERGED = {
    "IP_ADDRESS": _addresses,
    "NETDEV": _list_of("netdev_add", "netdev_del"),
    "PCI": _list_of("pci_add", "pci_del"),
    "NETIF": _netif,
    "CAPABILITY": _switches("capability"),
    "FEATURES": _switches("features"),
    "DEVICES": _devices("devices"),
    "DEVNODES": _devices("devnodes"),
}
