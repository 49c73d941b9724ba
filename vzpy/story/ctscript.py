"""N.start and N.stop: the action scripts that run inside (vzctl-cli 5).

What running one takes is imported where there is one: few have any."""

from __future__ import annotations

from vzpy import scripts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import Facts
    from vzpy.vps import VPS


def run(vps: VPS, facts: Facts, kind: str) -> None:
    """Its text goes to a shell inside; output is the caller's. Raises ScriptFailed (79)."""
    text = scripts.ct_script(vps.node.paths, vps.ctid, kind)
    if text is None:
        return
    from vzpy.story import enter, pump

    path = f"{vps.node.paths.conf}/{vps.ctid}.{kind}"
    shell = enter.shell_reading_stdin()
    try:
        status = pump.run(facts, shell, stdin=text, stdout=1, stderr=2).returncode
    except OSError as err:
        raise scripts.ScriptFailed.of(f"Error executing {kind} script {path}", err) from err
    if status:
        raise scripts.ScriptFailed(f"Error executing {kind} script {path}", step=f"{kind}-script")
