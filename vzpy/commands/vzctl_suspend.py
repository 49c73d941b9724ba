"""vzctl suspend (chkpnt) and resume (restore): frozen in place; dump files are not there yet
(vzctl-cli 2.9)."""

from __future__ import annotations

from vzpy.errors import AlreadyRunning, Exit, NotRunning, UsageError, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call

_HINT = "This version freezes in place (--suspend, --resume); it writes and reads no dump files."


def run(call: Call) -> int:
    commands = [c for c in ("dump", "undump", "suspend", "resume", "kill") if c in call.given]
    if len(commands) > 1:
        raise UsageError("Invalid syntax: only one sub command may be used")
    vps = call.vps
    if commands == ["resume"]:
        vps.resume(report=call.report)
    elif commands == ["suspend"]:
        vps.suspend(report=call.report)
    elif commands == ["kill"]:
        vps.stop(fast=True, report=call.report)
    elif call.action.name == "suspend":
        if vps.facts() is None:
            raise NotRunning("Unable to setup checkpointing: container is not running")
        raise VzError("Checkpointing failed", Exit.CHKPNT, hint=_HINT)
    else:
        if vps.facts():
            raise AlreadyRunning("Unable to perform restore: container already running")
        default = f"{vps.config.raw('DUMPDIR')}/Dump.{call.ctid}"
        path = call.given.get("dumpfile", default)
        try:
            with open(path, "rb"):
                pass
        except OSError as err:
            raise VzError.of("Unable to open", err, Exit.RESTORE) from None
        raise VzError(f"Restore error, {path} cannot be read", Exit.RESTORE, hint=_HINT)
    return Exit.OK
