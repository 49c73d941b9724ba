"""vzctl's actions: pure data (vzctl-cli 2). Dispatch, usage text, completion and man page read it.

Their options stand in optiontable and setoptions, and are loaded when somebody asks for them: the
commands that are called most have none."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.option import Option

# How the words after the CTID are read.
OPTIONS = "options"  # by getopt; words left over are `Invalid extra arguments`
NOTHING = "nothing"  # there must be none: `Invalid options`
WORDS = "words"  # as they are: a command line, a file name

SYNTAX, VALUE = Exit.INVALID_PARAMETER_SYNTAX, Exit.INVALID_PARAMETER_VALUE


@record
class Action:
    """One action.

    needs_conf  without N.conf it is refused with 14
    bad_option  exit code of an option that getopt does not know
    missing     what is said (20) when there are no words after the CTID
    sister      the action whose options are known here too, but not applicable
    of_users    the second word names a user or a cgroup, not a VPS"""

    name: str
    synopsis: str
    help: str
    module: str
    aliases: tuple[str, ...] = ()
    rest: str = OPTIONS
    locks: bool = True
    needs_conf: bool = True
    bad_option: int = VALUE
    missing: str = ""
    sister: str = ""
    of_users: bool = False

    @property
    def options(self) -> tuple[Option, ...]:
        from vzpy import optiontable

        return optiontable.of(self.name)

    @property
    def not_here(self) -> tuple[Option, ...]:
        return BY_NAME[self.sister].options if self.sister else ()


_NO_COMMAND = "No command line given for exec"

ACTIONS = (
    Action(
        "create",
        "[--ostemplate NAME] [--config NAME] [--layout overlay|simfs|image[:MODE]] [--ipadd ADDR]"
        " [--hostname NAME] [--name NAME] [--description TEXT] [--private PATH] [--root PATH]"
        " [--diskspace N] [--diskinodes N] [--local_uid N] [--local_gid N] [--local_ids N]",
        "make a VPS out of an OS template",
        "create",
        needs_conf=False,
    ),
    Action(
        "start",
        "[--force] [--wait] [--skip-fsck] [--skip-remount] [--skip_ve_setup]",
        "mount and boot",
        "start",
        bad_option=SYNTAX,
        sister="stop",
    ),
    Action(
        "stop",
        "[--fast] [--skip-umount]",
        "halt and unmount",
        "stop",
        bad_option=SYNTAX,
        sister="start",
    ),
    Action(
        "restart",
        "[--force] [--wait] [--fast] [--skip-fsck] [--skip_ve_setup]",
        "stop and start",
        "restart",
        bad_option=SYNTAX,
    ),
    Action("destroy", "", "remove the VPS and its files", "destroy", ("delete",), NOTHING),
    Action("mount", "", "mount the root without booting", "mount", rest=NOTHING),
    Action("umount", "", "unmount the root", "mount", rest=NOTHING),
    Action(
        "status",
        "",
        "one line: exists, mounted, running",
        "status",
        rest=NOTHING,
        locks=False,
        needs_conf=False,
    ),
    Action(
        "set",
        "[--save] [--force] [--setmode restart|ignore] [--PARAMETER VALUE]...",
        "change parameters",
        "set",
        needs_conf=False,
    ),
    Action(
        "ubset",
        "[--PARAMETER VALUE]...",
        "limit a login user as a VPS is; user:NAME, user-UID.slice or the path of a cgroup stands"
        " in place of the CTID",
        "ubset",
        locks=False,
        needs_conf=False,
        of_users=True,
    ),
    Action(
        "exec",
        "COMMAND [ARG]... | -",
        "run a command line inside",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    Action(
        "exec2",
        "COMMAND [ARG]... | -",
        "the same, with the exit status of the command",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    Action(
        "exec3",
        "COMMAND [ARG]...",
        "the same, without a shell",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    Action(
        "enter",
        "[--exec COMMAND [ARG]...]",
        "a root shell inside",
        "enter",
        rest=WORDS,
        locks=False,
    ),
    Action("console", "[TTY]", "attach to a console", "console", rest=WORDS, locks=False),
    Action(
        "runscript",
        "FILE",
        "run a script inside",
        "runscript",
        rest=WORDS,
        missing="Script not specified",
    ),
    Action(
        "suspend",
        "[--dumpfile F] [--suspend|--dump|--resume|--kill]",
        "freeze, or write to a file",
        "suspend",
        ("chkpnt",),
        bad_option=SYNTAX,
    ),
    Action(
        "resume",
        "[--dumpfile F] [--undump|--resume|--kill] [--skip-remount] [--skip-fsck]",
        "let run again, or read from a file",
        "suspend",
        ("restore",),
        bad_option=SYNTAX,
    ),
    Action("quotaon", "", "switch disk quota on", "quota", rest=NOTHING),
    Action("quotaoff", "", "switch disk quota off", "quota", rest=NOTHING),
    Action("quotainit", "", "count the disk usage again", "quota", rest=NOTHING),
    Action("convert", "[--layout overlay|simfs|image[:MODE]]", "change the layout", "convert"),
    Action("compact", "", "give free space of an image back", "convert", rest=NOTHING),
    Action(
        "snapshot",
        "[--id UUID] [--name NAME] [--description TEXT] [--skip-suspend] [--skip-config]",
        "make a snapshot",
        "snapshot",
    ),
    Action(
        "snapshot-switch",
        "--id UUID [--skip-resume|--must-resume] [--skip-config]",
        "go back to a snapshot",
        "snapshot",
    ),
    Action("snapshot-delete", "--id UUID", "delete a snapshot", "snapshot"),
    Action(
        "snapshot-mount", "--id UUID --target DIR", "show a snapshot's files", "snapshot"
    ),
    Action("snapshot-umount", "--id UUID", "take them away", "snapshot"),
    Action(
        "snapshot-list",
        "[-H] [-o FIELD,...] [--id UUID] [-L]",
        "list the snapshots",
        "snapshot",
    ),
)

BY_NAME = {name: action for action in ACTIONS for name in (action.name, *action.aliases)}
