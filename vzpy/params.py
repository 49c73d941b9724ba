"""The one table of parameters: pure data.

Options, configuration files, vzlist's columns, man pages, completion and `vzctl set` read it.
Rows stand in storage order: what is appended to N.conf keeps it."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.record import record
from vzpy.table import Table, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.table import Row

# Rooms: who applies a parameter to a running VPS. CORE: nobody, it only lies in the file.
CORE, NAME, UBC, CPU, IO = "core", "name", "ubc", "cpu", "io"
NET, NETDEV, VETH, GUEST, DEV, SHAPE = "net", "netdev", "veth", "guest", "dev", "shape"
PCI, DISK, FILTER, CAPS, FS = "pci", "disk", "filter", "caps", "fs"

# What `set` without --save says of a room's parameter when the VPS is not running (code 31).
NOT_RUNNING = {
    UBC: "Unable to apply UBC parameters: container is not running",
    CPU: "Unable to apply CPU parameters: container is not running",
    NET: "Unable to apply network parameters: container is not running",
    NETDEV: "Unable to setup network devices: container is not running",
    DEV: "Unable to apply devperm: container is not running",
    PCI: "Unable to configure PCI devices: container is not running",
    SHAPE: "Unable to apply network parameters: container is not running",
    VETH: "Unable to create veth: container is not running",
    IO: "Container is not running",
    GUEST: "Unable to configure container: not running",
}

# Where a parameter may stand: vz.conf only, N.conf only (a global one is not believed), both.
GLOBAL, LOCAL, BOTH = "global", "local", "both"


@record
class Param:
    """One parameter of vz.conf or N.conf.

    kind names a value class of vzpy.values; `cli` another one for the command line when the same
    text means something else there (a bare iolimit is MB/s in an option, bytes/s in a file).
    restart completes `Unable to ... on a running container`: a change needs a restart.
    column is that of vzlist (columns.Column): its four words."""

    key: str
    kind: str
    room: str = CORE
    option: str = ""
    help: str = ""
    default: str | None = None
    cli: str = ""
    restart: str = ""
    req_save: int = 0
    scope: str = BOTH
    short: str = ""
    column: str = ""


def _ubc(key: str, kind: str, header: str, help: str, short: str = "") -> Row:
    field = key.lower()
    column = f"{field} {header} %10d ubc"
    return row(key, kind, UBC, field, help, short=short, column=column)


_ROWS: tuple[Row, ...] = (
    # user beancounters
    _ubc("KMEMSIZE", "ubc-byte", "KMEMSIZE", "kernel memory"),
    _ubc("LOCKEDPAGES", "ubc-page", "LOCKEDP", "locked memory", "l"),
    _ubc("PRIVVMPAGES", "ubc-page", "PRIVVMP", "private memory that may be allocated"),
    _ubc("SHMPAGES", "ubc-page", "SHMP", "shared memory"),
    _ubc("NUMPROC", "ubc-num", "NPROC", "processes and threads", "p"),
    _ubc("PHYSPAGES", "ubc-page", "PHYSP", "resident memory"),
    _ubc("VMGUARPAGES", "ubc-page", "VMGUARP", "memory allocation guarantee"),
    _ubc("OOMGUARPAGES", "ubc-page", "OOMGUARP", "guarantee against the OOM killer"),
    _ubc("NUMTCPSOCK", "ubc-num", "NTCPSOCK", "TCP sockets", "e"),
    _ubc("NUMFLOCK", "ubc-num", "NFLOCK", "file locks", "f"),
    _ubc("NUMPTY", "ubc-num", "NPTY", "pseudo-terminals", "t"),
    _ubc("NUMSIGINFO", "ubc-num", "NSIGINFO", "queued signals", "i"),
    _ubc("TCPSNDBUF", "ubc-byte", "TCPSNDB", "TCP send buffers"),
    _ubc("TCPRCVBUF", "ubc-byte", "TCPRCVB", "TCP receive buffers"),
    _ubc("OTHERSOCKBUF", "ubc-byte", "OTHSOCKB", "buffers of other sockets"),
    _ubc("DGRAMRCVBUF", "ubc-byte", "DGRAMRB", "datagram receive buffers"),
    _ubc("NUMOTHERSOCK", "ubc-num", "NOTHSOCK", "sockets other than TCP"),
    _ubc("NUMFILE", "ubc-num", "NFILE", "open files", "n"),
    _ubc("DCACHESIZE", "ubc-byte", "DCACHESZ", "pinned dentry and inode cache"),
    _ubc("NUMIPTENT", "ubc-num", "NIPTENT", "netfilter rules"),
    row("AVNUMPROC", "ubc-num", UBC, "avnumproc", "expected average of processes"),
    _ubc("SWAPPAGES", "ubc-page", "SWAPP", "swap"),
    # the rest, as config-files.md 4 lists it
    row("IPTABLES", "words", FILTER, "iptables", "iptables modules (obsolete, see netfilter)",
        restart="set iptables/netfilter"),
    row("NETFILTER", "netfilter", FILTER, "netfilter",
        "netfilter inside: none, without connection tracking, without NAT, all of it",
        "stateless", restart="set iptables/netfilter", scope=LOCAL,
        column="netfilter NETFILTER %-9s string"),
    row("CAPABILITY", "capability", CAPS, "capability", "capabilities given or taken",
        restart="set capability",
        column="capability CAPABILITY %-15s onoff"),
    row("IP_ADDRESS", "addresses", NET, column="ip IP_ADDR %-15s list"),
    row("NETDEV", "netdevs", NETDEV),
    row("HOSTNAME", "text", GUEST, "hostname", "host name", cli="hostname",
        column="hostname HOSTNAME %-32s string"),
    row("DESCRIPTION", "text", CORE, "description", "free text",
        column="description DESCRIPTION %-32s string"),
    row("NAMESERVER", "words", GUEST, "nameserver", "DNS server, or inherit (repeatable)",
        cli="nameserver", column="nameserver NAMESERVER %-15s list"),
    row("SEARCHDOMAIN", "words", GUEST, "searchdomain", "DNS search domain (repeatable)",
        column="searchdomain SEARCHDOMAIN %-15s list"),
    row("IPV6", "yesno"),
    row("DEVICES", "devices", DEV, "devices", "device numbers the VPS may use"),
    row("DEVNODES", "devnodes", DEV, "devnodes", "devices of the node the VPS may use",
        cli="devnodes-here"),
    row("PCI", "pci", PCI),
    row("VE_ROOT", "path", FS, "root", "mount point, $VEID allowed",
        column="root ROOT %-32s string"),
    row("VE_PRIVATE", "path", FS, "private", "private area, $VEID allowed",
        column="private PRIVATE %-32s string"),
    row("TEMPLATE", "path"),
    row("MOUNT_OPTS", "text", DISK, "mount_opts", "mount options of the root",
        restart="change mount options",
        column="mount_opts MOUNT_OPTS %-16s string"),
    row("VE_LAYOUT", "layout", column="layout LAYOUT %-7s string"),
    row("OSTEMPLATE", "text", CORE, "ostemplate", "name of the OS template", cli="filename",
        req_save=Exit.INVALID_PARAMETER_SYNTAX,
        column="ostemplate OSTEMPLATE %-32s string"),
    row("CPUUNITS", "cpuunits", CPU, "cpuunits", "share of CPU time, 8 to 500000", "1000",
        column="cpuunits CPUUNI %7d number"),
    row("CPUUWEIGHT", "number", CPU, "cpuweight", "weight of CPU time (old)"),
    row("CPULIMIT", "cpulimit", CPU, "cpulimit", "CPU limit, per cent of one CPU; 0: none", "0",
        column="cpulimit CPULIM %7d number"),
    row("CPUS", "number", CPU, "cpus", "number of CPUs seen",
        column="cpus CPUS %5d number"),
    row("CPUMASK", "cpumask", CPU, "cpumask", "CPUs that may be used"),
    row("NODEMASK", "cpulist", CPU, "nodemask", "NUMA nodes that may be used"),
    row("ONBOOT", "yesno", CORE, "onboot", "start when the node boots",
        column="onboot ONBOOT %6s bool"),
    row("CONFIGFILE", "filename", scope=GLOBAL),
    row("ORIGIN_SAMPLE", "text", column="origin_sample ORIGIN_SAMPLE %-32s string"),
    row("DISABLED", "yesno", CORE, "disabled", "forbid starting", "no",
        column="disabled DISABL %6s bool"),
    row("LOCAL_UID", "number", scope=LOCAL),
    row("LOCAL_GID", "number", scope=LOCAL),
    row("LOCAL_IDS", "ranges", default="1", scope=LOCAL),
    row("DISK_QUOTA", "yesno", DISK, "diskquota", "disk quota",
        restart="switch DISK_QUOTA on or off"),
    row("DISKSPACE", "disk-space", DISK, "diskspace", "disk space, soft:hard, KiB",
        column="diskspace DSPACE %10d disk"),
    row("DISKINODES", "disk-inodes", DISK, "diskinodes", "inodes, soft:hard",
        column="diskinodes DINODES %10d disk"),
    row("QUOTATIME", "number", DISK, "quotatime", "grace of soft limits, seconds", "259200"),
    row("QUOTAUGIDLIMIT", "number", DISK, "quotaugidlimit",
        "users and groups with quota inside; 0: none", "0"),
    row("MEMINFO", "meminfo", UBC, "meminfo", "what /proc/meminfo shows", "privvmpages:1"),
    row("VETH", "text"),
    row("NETIF", "netif", VETH),
    row("VEID", "number", scope=LOCAL),
    row("NAME", "name", NAME, "name", "second name of the VPS", req_save=Exit.SET_NAME,
        scope=LOCAL, column="name NAME %-32s string"),
    row("FEATURES", "features", FILTER, "features", "features switched on or off",
        restart="set features", column="features FEATURES %-15s onoff"),
    row("IOPRIO", "ioprio", IO, "ioprio", "priority of disk I/O, 0 to 7", "4",
        column="ioprio IOP %3d number"),
    row("IOLIMIT", "iolimit", IO, "iolimit", "disk bandwidth (bare: MB/s); 0: none", "0",
        cli="iolimit-mb", column="iolimit IOLIMIT %10d number"),
    row("IOPSLIMIT", "iopslimit", IO, "iopslimit", "disk operations a second; 0: none", "0",
        column="iopslimit IOPS %4d number"),
    row("RATE", "rate", SHAPE, "rate", "bandwidth, DEVICE:CLASS:KBIT_A_SECOND; 0: none"),
    row("BOOTORDER", "number", CORE, "bootorder", "larger starts earlier at boot",
        column="bootorder BOOTORDER %10d number"),
    row("STOP_TIMEOUT", "number", CORE, "stop-timeout", "seconds to wait for a stop; 0: 120",
        "120", req_save=Exit.INVALID_PARAMETER_SYNTAX),
    row("VM_OVERCOMMIT", "float", UBC, "vm_overcommit", "privvmpages as a multiple of RAM + swap",
        "0", column="vm_overcommit VM_OVC %6g number"),
    # the node's own
    row("LOCKDIR", "path", scope=GLOBAL),
    row("DUMPDIR", "path", scope=GLOBAL),
    row("LOGGING", "yesno", default="yes", scope=GLOBAL),
    row("LOGFILE", "path", scope=GLOBAL),
    row("LOG_LEVEL", "integer", default="0", scope=GLOBAL),
    row("VERBOSE", "integer", default="0", scope=GLOBAL),
    row("DEF_OSTEMPLATE", "filename", scope=GLOBAL),
    row("VIRTUOZZO", "text", scope=GLOBAL),
    row("VE0CPUUNITS", "cpuunits", scope=GLOBAL),
    row("VE_STOP_MODE", "text", default="suspend", scope=GLOBAL),
    row("VE_PARALLEL", "number", scope=GLOBAL),
    row("VZFASTBOOT", "text", scope=GLOBAL),
    row("MODULES_DISABLED", "text", scope=GLOBAL),
    row("IPTABLES_MODULES", "text", scope=GLOBAL),
    row("IP6TABLES", "text", scope=GLOBAL),
    row("VE_ROUTE_SRC_DEV", "text", scope=GLOBAL),
    row("NEIGHBOUR_DEVS", "text", default="all", scope=GLOBAL),
    row("SKIP_ARPDETECT", "text", default="no", scope=GLOBAL),
    row("ERROR_ON_ARPFAIL", "text", default="no", scope=GLOBAL),
    row("FORCE_ROUTE", "text", default="no", scope=GLOBAL),
    row("VZWDOG", "text", scope=GLOBAL),
    row("SKIP_SYSCTL_SETUP", "text", scope=GLOBAL),
    row("CONFIG_CUSTOMIZED", "text"),
)

BY_KEY: Table[Param] = Table(Param, {row[0][0]: row for row in _ROWS})
UBC_KEYS = tuple(key for key, row in BY_KEY.rows.items() if row[0][1].startswith("ubc-"))


def kind_of(key: str) -> str:
    """The value class of a parameter, without its record; "" of one that nobody knows."""
    return BY_KEY.rows[key][0][1] if key in BY_KEY else ""


def is_local(key: str) -> bool:
    return key in BY_KEY and BY_KEY.rows[key][1].get("scope") == LOCAL


# What a sample configuration never brings along: the contract's six (vzctl-cli 5, applyconfig)
# and what can only belong to one VPS.
NOT_FROM_SAMPLE = (
    "HOSTNAME", "DESCRIPTION", "IP_ADDRESS", "OSTEMPLATE", "VE_ROOT", "VE_PRIVATE",
    "NAME", "VEID", "LOCAL_UID", "LOCAL_GID", "NETIF",
)
