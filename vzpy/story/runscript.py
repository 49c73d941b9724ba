"""The story of `vzctl runscript`: a shell inside reads the script, whether the VPS runs or not."""

from __future__ import annotations

import os

from vzpy.errors import Exit, VzError
from vzpy.story import enter, pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import Facts
    from vzpy.story.pump import Result
    from vzpy.vps import VPS


def runscript(
    vps: VPS, text: bytes, stdout: int | None, stderr: int | None, report: Report
) -> Result:
    """Run a script's text; descriptors or None to capture, as VPS.exec has them. A stopped VPS is
    entered without init and without action scripts, and stopped again.

    Raises VzError: 43 no private area, 47 no shell, and what start() does."""
    facts = vps.facts()
    if facts:
        return _run(vps, facts, text, stdout, stderr)
    if not os.path.isdir(vps.private):
        raise VzError(f"Container private area {vps.private} does not exist", Exit.FS_NOPRVT)
    from vzpy.story.start import stopped_but_entered

    with stopped_but_entered(vps) as facts:
        return _run(vps, facts, text, stdout, stderr)


def _run(
    vps: VPS, facts: Facts, text: bytes, stdout: int | None, stderr: int | None
) -> Result:
    try:
        return pump.run(
            facts,
            enter.shell_reading_stdin(),
            stdin=text,
            stdout=stdout,
            stderr=stderr,
            filter_cache=vps.node.paths.state,
        )
    except OSError as err:
        raise VzError.of("Unable to execute in the container", err, Exit.FS_BAD_TMPL) from err
