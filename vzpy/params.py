"""The one table of parameters: pure data.

Options, configuration files, vzlist's columns, man pages, completion and `vzctl set` read it.
Rows of PARAMS stand in storage order: what is appended to N.conf keeps it."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.record import record

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


def _ubc(key: str, kind: str, header: str, help: str, short: str = "") -> Param:
    field = key.lower()
    column = f"{field} {header} %10d ubc"
    return Param(key, kind, UBC, field, help, short=short, column=column)


PARAMS: tuple[Param, ...] = (
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
    Param("AVNUMPROC", "ubc-num", UBC, "avnumproc", "expected average of processes"),
    _ubc("SWAPPAGES", "ubc-page", "SWAPP", "swap"),
    # the rest, as config-files.md 4 lists it
    Param("IPTABLES", "words", FILTER, "iptables", "iptables modules (obsolete, see netfilter)",
          restart="set iptables/netfilter"),
    Param("NETFILTER", "netfilter", FILTER, "netfilter",
          "netfilter inside: none, without connection tracking, without NAT, all of it",
          "stateless", restart="set iptables/netfilter", scope=LOCAL,
          column="netfilter NETFILTER %-9s string"),
    Param("CAPABILITY", "capability", CAPS, "capability", "capabilities given or taken",
          restart="set capability",
          column="capability CAPABILITY %-15s onoff"),
    Param("IP_ADDRESS", "addresses", NET, column="ip IP_ADDR %-15s list"),
    Param("NETDEV", "netdevs", NETDEV),
    Param("HOSTNAME", "text", GUEST, "hostname", "host name", cli="hostname",
          column="hostname HOSTNAME %-32s string"),
    Param("DESCRIPTION", "text", CORE, "description", "free text",
          column="description DESCRIPTION %-32s string"),
    Param("NAMESERVER", "words", GUEST, "nameserver", "DNS server, or inherit (repeatable)",
          cli="nameserver", column="nameserver NAMESERVER %-15s list"),
    Param("SEARCHDOMAIN", "words", GUEST, "searchdomain", "DNS search domain (repeatable)",
          column="searchdomain SEARCHDOMAIN %-15s list"),
    Param("IPV6", "yesno"),
    Param("DEVICES", "devices", DEV, "devices", "device numbers the VPS may use"),
    Param("DEVNODES", "devnodes", DEV, "devnodes", "devices of the node the VPS may use",
          cli="devnodes-here"),
    Param("PCI", "pci", PCI),
    Param("VE_ROOT", "path", FS, "root", "mount point, $VEID allowed",
          column="root ROOT %-32s string"),
    Param("VE_PRIVATE", "path", FS, "private", "private area, $VEID allowed",
          column="private PRIVATE %-32s string"),
    Param("TEMPLATE", "path"),
    Param("MOUNT_OPTS", "text", DISK, "mount_opts", "mount options of the root",
          restart="change mount options",
          column="mount_opts MOUNT_OPTS %-16s string"),
    Param("VE_LAYOUT", "layout", column="layout LAYOUT %-7s string"),
    Param("OSTEMPLATE", "text", CORE, "ostemplate", "name of the OS template", cli="filename",
          req_save=Exit.INVALID_PARAMETER_SYNTAX,
          column="ostemplate OSTEMPLATE %-32s string"),
    Param("CPUUNITS", "cpuunits", CPU, "cpuunits", "share of CPU time, 8 to 500000", "1000",
          column="cpuunits CPUUNI %7d number"),
    Param("CPUUWEIGHT", "number", CPU, "cpuweight", "weight of CPU time (old)"),
    Param("CPULIMIT", "cpulimit", CPU, "cpulimit", "CPU limit, per cent of one CPU; 0: none", "0",
          column="cpulimit CPULIM %7d number"),
    Param("CPUS", "number", CPU, "cpus", "number of CPUs seen",
          column="cpus CPUS %5d number"),
    Param("CPUMASK", "cpumask", CPU, "cpumask", "CPUs that may be used"),
    Param("NODEMASK", "cpulist", CPU, "nodemask", "NUMA nodes that may be used"),
    Param("ONBOOT", "yesno", CORE, "onboot", "start when the node boots",
          column="onboot ONBOOT %6s bool"),
    Param("CONFIGFILE", "filename", scope=GLOBAL),
    Param("ORIGIN_SAMPLE", "text", column="origin_sample ORIGIN_SAMPLE %-32s string"),
    Param("DISABLED", "yesno", CORE, "disabled", "forbid starting", "no",
          column="disabled DISABL %6s bool"),
    Param("LOCAL_UID", "number", scope=LOCAL),
    Param("LOCAL_GID", "number", scope=LOCAL),
    Param("LOCAL_IDS", "ranges", default="1", scope=LOCAL),
    Param("DISK_QUOTA", "yesno", DISK, "diskquota", "disk quota",
          restart="switch DISK_QUOTA on or off"),
    Param("DISKSPACE", "disk-space", DISK, "diskspace", "disk space, soft:hard, KiB",
          column="diskspace DSPACE %10d disk"),
    Param("DISKINODES", "disk-inodes", DISK, "diskinodes", "inodes, soft:hard",
          column="diskinodes DINODES %10d disk"),
    Param("QUOTATIME", "number", DISK, "quotatime", "grace of soft limits, seconds", "259200"),
    Param("QUOTAUGIDLIMIT", "number", DISK, "quotaugidlimit",
          "users and groups with quota inside; 0: none", "0"),
    Param("MEMINFO", "meminfo", UBC, "meminfo", "what /proc/meminfo shows", "privvmpages:1"),
    Param("VETH", "text"),
    Param("NETIF", "netif", VETH),
    Param("VEID", "number", scope=LOCAL),
    Param("NAME", "name", NAME, "name", "second name of the VPS", req_save=Exit.SET_NAME,
          scope=LOCAL, column="name NAME %-32s string"),
    Param("FEATURES", "features", FILTER, "features", "features switched on or off",
          restart="set features", column="features FEATURES %-15s onoff"),
    Param("IOPRIO", "ioprio", IO, "ioprio", "priority of disk I/O, 0 to 7", "4",
          column="ioprio IOP %3d number"),
    Param("IOLIMIT", "iolimit", IO, "iolimit", "disk bandwidth (bare: MB/s); 0: none", "0",
          cli="iolimit-mb", column="iolimit IOLIMIT %10d number"),
    Param("IOPSLIMIT", "iopslimit", IO, "iopslimit", "disk operations a second; 0: none", "0",
          column="iopslimit IOPS %4d number"),
    Param("RATE", "rate", SHAPE, "rate", "bandwidth, DEVICE:CLASS:KBIT_A_SECOND; 0: none"),
    Param("BOOTORDER", "number", CORE, "bootorder", "larger starts earlier at boot",
          column="bootorder BOOTORDER %10d number"),
    Param("STOP_TIMEOUT", "number", CORE, "stop-timeout", "seconds to wait for a stop; 0: 120",
          "120", req_save=Exit.INVALID_PARAMETER_SYNTAX),
    Param("VM_OVERCOMMIT", "float", UBC, "vm_overcommit", "privvmpages as a multiple of RAM + swap",
          "0", column="vm_overcommit VM_OVC %6g number"),
    # the node's own
    Param("LOCKDIR", "path", scope=GLOBAL),
    Param("DUMPDIR", "path", scope=GLOBAL),
    Param("LOGGING", "yesno", default="yes", scope=GLOBAL),
    Param("LOGFILE", "path", scope=GLOBAL),
    Param("LOG_LEVEL", "integer", default="0", scope=GLOBAL),
    Param("VERBOSE", "integer", default="0", scope=GLOBAL),
    Param("DEF_OSTEMPLATE", "filename", scope=GLOBAL),
    Param("VIRTUOZZO", "text", scope=GLOBAL),
    Param("VE0CPUUNITS", "cpuunits", scope=GLOBAL),
    Param("VE_STOP_MODE", "text", default="suspend", scope=GLOBAL),
    Param("VE_PARALLEL", "number", scope=GLOBAL),
    Param("VZFASTBOOT", "text", scope=GLOBAL),
    Param("MODULES_DISABLED", "text", scope=GLOBAL),
    Param("IPTABLES_MODULES", "text", scope=GLOBAL),
    Param("IP6TABLES", "text", scope=GLOBAL),
    Param("VE_ROUTE_SRC_DEV", "text", scope=GLOBAL),
    Param("NEIGHBOUR_DEVS", "text", default="all", scope=GLOBAL),
    Param("SKIP_ARPDETECT", "text", default="no", scope=GLOBAL),
    Param("ERROR_ON_ARPFAIL", "text", default="no", scope=GLOBAL),
    Param("FORCE_ROUTE", "text", default="no", scope=GLOBAL),
    Param("VZWDOG", "text", scope=GLOBAL),
    Param("SKIP_SYSCTL_SETUP", "text", scope=GLOBAL),
    Param("CONFIG_CUSTOMIZED", "text"),
)

BY_KEY: dict[str, Param] = {param.key: param for param in PARAMS}
UBC_KEYS = tuple(param.key for param in PARAMS if param.kind.startswith("ubc-"))

# What a sample configuration never brings along: the contract's six (vzctl-cli 5, applyconfig)
# and what can only belong to one VPS.
NOT_FROM_SAMPLE = (
    "HOSTNAME", "DESCRIPTION", "IP_ADDRESS", "OSTEMPLATE", "VE_ROOT", "VE_PRIVATE",
    "NAME", "VEID", "LOCAL_UID", "LOCAL_GID", "NETIF",
)
