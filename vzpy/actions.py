"""vzctl's actions: pure data (vzctl-cli 2). Dispatch, usage text, completion and man page read it.

Their options stand in optiontable and setoptions, and are loaded when somebody asks for them: the
commands that are called most have none."""

from __future__ import annotations

from vzpy.errors import Exit
from vzpy.record import record
from vzpy.table import Table, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.option import Option
    from vzpy.table import Row

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

_ROWS: tuple[Row, ...] = (
    row(
        "create",
        "[--ostemplate NAME] [--config NAME] [--layout overlay|simfs|image[:MODE]] [--ipadd ADDR]"
        " [--hostname NAME] [--name NAME] [--description TEXT] [--private PATH] [--root PATH]"
        " [--diskspace N] [--diskinodes N] [--local_uid N] [--local_gid N] [--local_ids N]",
        "make a VPS out of an OS template",
        "create",
        needs_conf=False,
    ),
    row(
        "start",
        "[--force] [--wait] [--skip-fsck] [--skip-remount] [--skip_ve_setup]",
        "mount and boot",
        "start",
        bad_option=SYNTAX,
        sister="stop",
    ),
    row(
        "stop",
        "[--fast] [--skip-umount]",
        "halt and unmount",
        "stop",
        bad_option=SYNTAX,
        sister="start",
    ),
    row(
        "restart",
        "[--force] [--wait] [--fast] [--skip-fsck] [--skip_ve_setup]",
        "stop and start",
        "restart",
        bad_option=SYNTAX,
    ),
    row("destroy", "", "remove the VPS and its files", "destroy", ("delete",), NOTHING),
    row("mount", "", "mount the root without booting", "mount", rest=NOTHING),
    row("umount", "", "unmount the root", "mount", rest=NOTHING),
    row(
        "status",
        "",
        "one line: exists, mounted, running",
        "status",
        rest=NOTHING,
        locks=False,
        needs_conf=False,
    ),
    row(
        "set",
        "[--save] [--force] [--setmode restart|ignore] [--PARAMETER VALUE]...",
        "change parameters",
        "set",
        needs_conf=False,
    ),
    row(
        "ubset",
        "[--PARAMETER VALUE]...",
        "limit a login user as a VPS is; user:NAME, user-UID.slice or the path of a cgroup stands"
        " in place of the CTID",
        "ubset",
        locks=False,
        needs_conf=False,
        of_users=True,
    ),
    row(
        "exec",
        "COMMAND [ARG]... | -",
        "run a command line inside",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    row(
        "exec2",
        "COMMAND [ARG]... | -",
        "the same, with the exit status of the command",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    row(
        "exec3",
        "COMMAND [ARG]...",
        "the same, without a shell",
        "exec",
        rest=WORDS,
        locks=False,
        missing=_NO_COMMAND,
    ),
    row(
        "enter",
        "[--exec COMMAND [ARG]...]",
        "a root shell inside",
        "enter",
        rest=WORDS,
        locks=False,
    ),
    row("console", "[TTY]", "attach to a console", "console", rest=WORDS, locks=False),
    row(
        "runscript",
        "FILE",
        "run a script inside",
        "runscript",
        rest=WORDS,
        missing="Script not specified",
    ),
    row(
        "suspend",
        "[--dumpfile F] [--suspend|--dump|--resume|--kill]",
        "freeze, or write to a file",
        "suspend",
        ("chkpnt",),
        bad_option=SYNTAX,
    ),
    row(
        "resume",
        "[--dumpfile F] [--undump|--resume|--kill] [--skip-remount] [--skip-fsck]",
        "let run again, or read from a file",
        "suspend",
        ("restore",),
        bad_option=SYNTAX,
    ),
    row("quotaon", "", "switch disk quota on", "quota", rest=NOTHING),
    row("quotaoff", "", "switch disk quota off", "quota", rest=NOTHING),
    row("quotainit", "", "count the disk usage again", "quota", rest=NOTHING),
    row("convert", "[--layout overlay|simfs|image[:MODE]]", "change the layout", "convert"),
    row("compact", "", "give free space of an image back", "convert", rest=NOTHING),
    row(
        "snapshot",
        "[--id UUID] [--name NAME] [--description TEXT] [--skip-suspend] [--skip-config]",
        "make a snapshot",
        "snapshot",
    ),
    row(
        "snapshot-switch",
        "--id UUID [--skip-resume|--must-resume] [--skip-config]",
        "go back to a snapshot",
        "snapshot",
    ),
    row("snapshot-delete", "--id UUID", "delete a snapshot", "snapshot"),
    row(
        "snapshot-mount", "--id UUID --target DIR", "show a snapshot's files", "snapshot"
    ),
    row("snapshot-umount", "--id UUID", "take them away", "snapshot"),
    row(
        "snapshot-list",
        "[-H] [-o FIELD,...] [--id UUID] [-L]",
        "list the snapshots",
        "snapshot",
    ),
)

_ALIASES = 4  # place of them in a row


def _names(row: Row) -> tuple[str, ...]:
    """What an action is called by."""
    name, *rest = row[0]
    return (name, *(rest[_ALIASES - 1] if len(rest) >= _ALIASES else ()))


BY_NAME: Table[Action] = Table(Action, {name: row for row in _ROWS for name in _names(row)})


def all_actions() -> list[Action]:
    """Each once, in the order of the usage."""
    return [BY_NAME[row[0][0]] for row in _ROWS]
