"""`chkpnt --suspend` and `--resume`: freeze in place, nothing goes to disk (vzctl-cli 2.9)."""

from __future__ import annotations

from vzpy import cgroups
from vzpy.errors import Exit, NotRunning, VzError
from vzpy.events import Checkpointed, Checkpointing, Restored, Restoring, Resuming, Suspending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.vps import VPS


def freeze(vps: VPS, report: Report) -> None:
    """Raises NotRunning (31); VzError 16 when a task does not stand still."""
    facts = vps.facts()
    if facts is None:
        raise NotRunning("Unable to setup checkpointing: container is not running")
    report(Checkpointing())
    report(Suspending())
    try:
        frozen = cgroups.freeze(facts.cgroup, True)
    except OSError as err:
        raise VzError.of("Checkpointing failed", err, Exit.CHKPNT) from err
    if not frozen:
        cgroups.freeze(facts.cgroup, False)
        raise VzError("Checkpointing failed: a task cannot be frozen", Exit.CHKPNT)
    report(Checkpointed())


def thaw(vps: VPS, report: Report) -> None:
    """Raises NotRunning (31); VzError 17."""
    facts = vps.facts()
    if facts is None:
        raise NotRunning("Unable to resume: container is not running")
    report(Restoring())
    report(Resuming())
    try:
        cgroups.freeze(facts.cgroup, False)
    except OSError as err:
        raise VzError.of("Restore error", err, Exit.RESTORE) from err
    report(Restored())
