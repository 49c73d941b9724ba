"""The options of vzctl's actions: pure data (vzctl-cli 4, 5).

Those of actions that set parameters are many, and stand in setoptions: who stops a VPS does not
pay for them."""

from __future__ import annotations

from vzpy.option import Option

SKIP_ARPDETECT = Option("skip_arpdetect", help="no search for a second owner of an address")
LAYOUT = Option("layout", "layout",
                "overlay, simfs, or image with modes: plain (all blocks at once), xfs",
                ("ve_layout", "velayout"), key="VE_LAYOUT")

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
    SKIP_ARPDETECT,
)
_ID = Option("id", "uuid", "the snapshot", ("uuid",))
_SKIP_CONFIG = Option("skip-config", help="leave the configuration file alone")

# Action -> its options, of those that set no parameters.
OPTIONS: dict[str, tuple[Option, ...]] = {
    "start": START,
    "stop": STOP,
    "restart": START + STOP,
    "suspend": (
        Option("suspend", help="freeze in place"),
        Option("dump", help="write the image"),
        *_CPT,
    ),
    "resume": (Option("undump", help="read the image"), *_CPT, *START[2:4]),
    "convert": (LAYOUT,),
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
        SKIP_ARPDETECT,
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


def of(action: str) -> tuple[Option, ...]:
    """The options of an action, in the order of its usage; none of one that takes none."""
    if action in ("set", "ubset", "create"):
        from vzpy import setoptions

        return setoptions.OPTIONS[action]
    return OPTIONS.get(action, ())
