"""vzctl convert and compact (vzctl-cli 2.11): the checks and what needs no work; changing a layout
is not there yet."""

from __future__ import annotations

from vzpy.errors import AlreadyRunning, Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.commands.vzctl import Call


def run(call: Call) -> int:
    vps = call.vps
    if call.action.name == "compact":
        if vps.layout in ("image", "ploop"):
            raise VzError("Compacting an image is not possible yet", 166)
        call.out.line("Compact only makes sense for ploop containers")
        return Exit.OK
    target = call.given.get("layout", "image").replace("ploop", "image")
    if vps.layout.replace("ploop", "image") == target:
        call.out.line(f"CT is already on {call.given.get('layout', 'ploop')}")
        return Exit.OK
    status = vps.status
    if status.running:
        raise AlreadyRunning("CT is running (stop it first)")
    if status.mounted:
        raise VzError("CT is mounted (umount it first)", Exit.FS_MOUNTED)
    raise VzError(
        f"Conversion from {vps.layout} to {target} is not possible yet",
        Exit.CONVERT,
        hint="Create another VPS with --layout and copy the files.",
    )
