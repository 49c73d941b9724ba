"""The options of vzctl's actions: pure data (vzctl-cli 4, 5).

What `set` takes for a parameter stands in params.PARAMS; here are the options that are no
parameter, or change one in a way of their own."""

from __future__ import annotations

from vzpy.params import PARAMS, UBC_KEYS, Option

_PARAM_OPTIONS = {
    param.option: Option(param.option, param.cli or param.kind, param.help, (), param.short,
                         param.key, param.req_save)
    for param in PARAMS
    if param.option
}

_IPADD = Option("ipadd", "addresses", "add IP addresses", ("ip",), key="IP_ADDRESS")
_SKIP_ARPDETECT = Option("skip_arpdetect", help="no search for a second owner of an address")
_LAYOUT = Option("layout", "layout",
                 "overlay, simfs, or image with modes: plain (all blocks at once), xfs",
                 ("ve_layout", "velayout"), key="VE_LAYOUT")

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
    _SKIP_ARPDETECT,
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
    _LAYOUT,
    *(_PARAM_OPTIONS[name] for name in ("diskspace", "diskinodes", "private", "root")),
    _IPADD,
    *(_PARAM_OPTIONS[name] for name in ("hostname", "name", "description")),
    Option("local_uid", "range-base", "first host user id of the VPS", key="LOCAL_UID"),
    Option("local_gid", "range-base", "first host group id of the VPS", key="LOCAL_GID"),
    Option("local_ids", "ranges", "how many times 65536 ids", key="LOCAL_IDS"),
)

START = (
    Option("wait", help="wait until the VPS has booted"),
    Option("force", help="start even when it is disabled"),
    Option("skip-fsck", help="no check of an image's file system"),
    Option("skip-remount", help="use the root as it is mounted"),
    Option("skip_ve_setup", help="leave address, host name and DNS inside alone"),
)
STOP = (
    Option("fast", help="kill, do not ask the init to halt"),
    Option("skip-umount", help="leave the root mounted"),
)
_CPT = (
    Option("dumpfile", "path", "file of the image"),
    Option("kill", help="end the frozen processes"),
    Option("resume", help="let the processes run again"),
    Option("flags", "number", "CPU features needed"),
    Option("context", "hex", "number of a context"),
    _SKIP_ARPDETECT,
)
_ID = Option("id", "uuid", "the snapshot", ("uuid",))
_SKIP_CONFIG = Option("skip-config", help="leave the configuration file alone")

# Action -> its options.
OPTIONS: dict[str, tuple[Option, ...]] = {
    "set": SET,
    "ubset": UBSET,
    "create": CREATE,
    "start": START,
    "stop": STOP,
    "restart": START + STOP,
    "suspend": (
        Option("suspend", help="freeze in place"),
        Option("dump", help="write the image"),
        *_CPT,
    ),
    "resume": (Option("undump", help="read the image"), *_CPT, *START[2:4]),
    "convert": (_LAYOUT,),
    "snapshot": (
        _ID,
        Option("name", "text", "its name"),
        Option("description", "text", "its text"),
        Option("skip-suspend", help="do not save the running processes"),
        _SKIP_CONFIG,
    ),
    "snapshot-switch": (
        _ID,
        Option("skip-resume", help="leave it stopped"),
        Option("must-resume", help="fail when it cannot be resumed"),
        _SKIP_CONFIG,
        _SKIP_ARPDETECT,
    ),
    "snapshot-delete": (_ID,),
    "snapshot-mount": (_ID, Option("target", "path", "where")),
    "snapshot-umount": (_ID,),
    "snapshot-list": (
        Option("no-header", help="no header", short="H"),
        Option("output", "text", "fields", short="o"),
        Option("id", "text", "this one and what it builds on", ("uuid",), "u"),
        Option("list", help="names of the fields", short="L"),
        Option("help", help="usage", short="h"),
    ),
}
