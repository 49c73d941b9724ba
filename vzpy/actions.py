"""vzctl's actions and their options: pure data (vzctl-cli 2, 4, 5).

Dispatch, usage text, completion and man page read it. What `set` takes for a parameter stands in
params.PARAMS; here are the options that are no parameter, or change one in a way of their own."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.params import PARAMS, Option
from vzpy.record import record

# How the words after the CTID are read.
OPTIONS = "options"  # by getopt; words left over are `Invalid extra arguments`
NOTHING = "nothing"  # there must be none: `Invalid options`
WORDS = "words"  # as they are: a command line, a file name

SYNTAX, VALUE = Exit.INVALID_PARAMETER_SYNTAX, Exit.INVALID_PARAMETER_VALUE


@record
class Action:
    """One action. needs_conf: without N.conf it is refused with 14. bad_option: exit code of an
    option that getopt does not know. not_here: options known to its sister only."""

    name: str
    synopsis: str
    help: str
    module: str
    options: tuple[Option, ...] = ()
    aliases: tuple[str, ...] = ()
    rest: str = OPTIONS
    locks: bool = True
    needs_conf: bool = True
    bad_option: int = VALUE
    not_here: tuple[Option, ...] = ()


_PARAM_OPTIONS = {
    param.option: Option(param.option, param.cli or param.kind, param.help, (), param.short,
                         param.key, param.req_save)
    for param in PARAMS
    if param.option
}

_IPADD = Option("ipadd", "addresses", "add IP addresses", ("ip",), key="IP_ADDRESS")
_SKIP_ARPDETECT = Option("skip_arpdetect", help="no search for a second owner of an address")
_LAYOUT = Option("layout", "layout", "overlay, simfs or image", ("ve_layout", "velayout"),
                 key="VE_LAYOUT")

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

_CREATE = (
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

_START = (
    Option("wait", help="wait until the VPS has booted"),
    Option("force", help="start even when it is disabled"),
    Option("skip-fsck", help="no check of an image's file system"),
    Option("skip-remount", help="use the root as it is mounted"),
    Option("skip_ve_setup", help="leave address, host name and DNS inside alone"),
)
_STOP = (
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

ACTIONS = (
    Action("create", "[--ostemplate NAME] [--config NAME] [--layout overlay|simfs|image] [--ipadd"
           " ADDR] [--hostname NAME] [--name NAME] [--description TEXT] [--private PATH]"
           " [--root PATH] [--diskspace N] [--diskinodes N] [--local_uid N] [--local_gid N]"
           " [--local_ids N]",
           "make a VPS out of an OS template", "create", _CREATE, needs_conf=False),
    Action("start", "[--force] [--wait] [--skip-fsck] [--skip-remount] [--skip_ve_setup]",
           "mount and boot", "start", _START, bad_option=SYNTAX, not_here=_STOP),
    Action("stop", "[--fast] [--skip-umount]",
           "halt and unmount", "stop", _STOP, bad_option=SYNTAX, not_here=_START),
    Action("restart", "[--force] [--wait] [--fast] [--skip-fsck]",
           "stop and start", "restart", _START + _STOP, bad_option=SYNTAX),
    Action("destroy", "", "remove the VPS and its files", "destroy", (), ("delete",), NOTHING),
    Action("mount", "", "mount the root without booting", "mount", rest=NOTHING),
    Action("umount", "", "unmount the root", "mount", rest=NOTHING),
    Action("status", "", "one line: exists, mounted, running", "status", rest=NOTHING,
           locks=False, needs_conf=False),
    Action("set", "[--save] [--force] [--setmode restart|ignore] [--PARAMETER VALUE]...",
           "change parameters", "set", SET, needs_conf=False),
    Action("exec", "COMMAND [ARG]... | -", "run a command line inside", "exec",
           rest=WORDS, locks=False),
    Action("exec2", "COMMAND [ARG]... | -", "the same, with the exit status of the command", "exec",
           rest=WORDS, locks=False),
    Action("exec3", "COMMAND [ARG]...", "the same, without a shell", "exec",
           rest=WORDS, locks=False),
    Action("enter", "[--exec COMMAND [ARG]...]", "a root shell inside", "enter",
           rest=WORDS, locks=False),
    Action("console", "[TTY]", "attach to a console", "console", rest=WORDS, locks=False),
    Action("runscript", "FILE", "run a script inside", "runscript", rest=WORDS),
    Action("suspend", "[--dumpfile F] [--suspend|--dump|--resume|--kill]",
           "freeze, or write to a file", "suspend",
           (Option("suspend", help="freeze in place"), Option("dump", help="write the image"),
            *_CPT), ("chkpnt",), bad_option=SYNTAX),
    Action("resume", "[--dumpfile F] [--undump|--resume|--kill] [--skip-remount] [--skip-fsck]",
           "let run again, or read from a file", "resume",
           (Option("undump", help="read the image"), *_CPT, *_START[2:4]), ("restore",),
           bad_option=SYNTAX),
    Action("quotaon", "", "switch disk quota on", "quota", rest=NOTHING),
    Action("quotaoff", "", "switch disk quota off", "quota", rest=NOTHING),
    Action("quotainit", "", "count the disk usage again", "quota", rest=NOTHING),
    Action("convert", "[--layout overlay|simfs|image]", "change the layout", "convert", (_LAYOUT,)),
    Action("compact", "", "give free space of an image back", "compact", rest=NOTHING),
    Action("snapshot", "[--id UUID] [--name NAME] [--description TEXT] [--skip-suspend]"
           " [--skip-config]", "make a snapshot", "snapshot",
           (_ID, Option("name", "text", "its name"), Option("description", "text", "its text"),
            Option("skip-suspend", help="do not save the running processes"), _SKIP_CONFIG)),
    Action("snapshot-switch", "--id UUID [--skip-resume|--must-resume] [--skip-config]",
           "go back to a snapshot", "snapshot",
           (_ID, Option("skip-resume", help="leave it stopped"),
            Option("must-resume", help="fail when it cannot be resumed"), _SKIP_CONFIG,
            _SKIP_ARPDETECT)),
    Action("snapshot-delete", "--id UUID", "delete a snapshot", "snapshot", (_ID,)),
    Action("snapshot-mount", "--id UUID --target DIR", "show a snapshot's files", "snapshot",
           (_ID, Option("target", "path", "where"))),
    Action("snapshot-umount", "--id UUID", "take them away", "snapshot", (_ID,)),
    Action("snapshot-list", "[-H] [-o FIELD,...] [--id UUID] [-L]", "list the snapshots",
           "snapshot",
           (Option("no-header", help="no header", short="H"),
            Option("output", "text", "fields", short="o"),
            Option("id", "uuid", "this one and what it builds on", ("uuid",), short="u"),
            Option("list", help="names of the fields", short="L"),
            Option("help", help="usage", short="h"))),
)

BY_NAME = {name: action for action in ACTIONS for name in (action.name, *action.aliases)}
