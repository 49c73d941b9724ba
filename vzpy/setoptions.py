"""The options of actions that set parameters: pure data (vzctl-cli 4, 5).

What `set` takes for a parameter stands in params.BY_KEY; here are the options that are no
parameter, or change one in a way of their own."""

from __future__ import annotations

from vzpy.option import Option
from vzpy.optiontable import LAYOUT, SKIP_ARPDETECT
from vzpy.params import BY_KEY, UBC_KEYS

_PARAM_OPTIONS = {
    param.option: Option(param.option, param.cli or param.kind, param.help, (), param.short,
                         param.key, param.req_save)
    for param in BY_KEY.values()
    if param.option
}

_IPADD = Option("ipadd", "addresses", "add IP addresses", ("ip",), key="IP_ADDRESS")

SET = (
    Option("save", help="write the parameters to the configuration file"),
    Option("force", help="save even where the kernel cannot do it"),
    Option("reset_ub", help="apply the beancounters of the configuration file again"),
    Option("setmode", "setmode", "what to do when a restart is needed: restart, ignore"),
    Option("applyconfig", "filename", "take the values of a sample configuration"),
    Option("applyconfig_map", "map", "`name`: make the link of the second name again"),
    *_PARAM_OPTIONS.values(),
    Option("ram", "vswap", "memory, bytes", key="PHYSPAGES"),
    Option("swap", "vswap", "swap, bytes", key="SWAPPAGES"),
    Option("userpasswd", "userpasswd", "user:password to set inside (repeatable)"),
    _IPADD,
    Option("ipdel", "addresses-or-all", "take away IP addresses, or all", key="IP_ADDRESS"),
    SKIP_ARPDETECT,
    Option("netif_add", "netif-add", "ifname[,mac,host_ifname,host_mac,bridge]", key="NETIF"),
    Option("netif_del", "ifname", "take away a veth interface, or all", key="NETIF"),
    Option("ifname", "one-ifname", "the veth interface that the next options change", key="NETIF"),
    Option("mac", "mac", "hardware address inside", key="NETIF"),
    Option("host_ifname", "one-ifname", "name on the node", key="NETIF"),
    Option("host_mac", "mac", "hardware address on the node", key="NETIF"),
    Option("bridge", "one-ifname", "bridge on the node", key="NETIF"),
    Option("mac_filter", "on-off", "let only the own hardware address pass", key="NETIF"),
    Option("netdev_add", "netdevs", "move a network device of the node into the VPS", key="NETDEV"),
    Option("netdev_del", "netdevs", "take it back", key="NETDEV"),
    Option("pci_add", "pci", "give a PCI device", key="PCI"),
    Option("pci_del", "pci", "take it back", key="PCI"),
    Option("offline-resize", help="resize the image while it is not mounted",
           aliases=("offline",)),
)

# Of a login user: what is a matter of its cgroup alone.
_OF_USERS = (*UBC_KEYS, "CPUUNITS", "CPULIMIT", "IOPRIO")
UBSET = tuple(option for option in SET if option.key in _OF_USERS)

CREATE = (
    Option("ostemplate", "filename", "name of the OS template", key="OSTEMPLATE"),
    Option("config", "filename", "sample configuration", key="ORIGIN_SAMPLE"),
    LAYOUT,
    *(_PARAM_OPTIONS[name] for name in ("diskspace", "diskinodes", "private", "root")),
    _IPADD,
    *(_PARAM_OPTIONS[name] for name in ("hostname", "name", "description")),
    Option("local_uid", "range-base", "first host user id of the VPS", key="LOCAL_UID"),
    Option("local_gid", "range-base", "first host group id of the VPS", key="LOCAL_GID"),
    Option("local_ids", "ranges", "how many times 65536 ids", key="LOCAL_IDS"),
)

OPTIONS = {"set": SET, "ubset": UBSET, "create": CREATE}
