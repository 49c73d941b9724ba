"""Disk quota of a VPS: on before its root is mounted, off after it is unmounted (quota.md 5)."""

from __future__ import annotations

import os

from vzpy import qgroup, quotabusy
from vzpy.errors import Exit, VzError
from vzpy.events import InitializingQuota, NotApplied
from vzpy.kernel import proc
from vzpy.quotafile import QuotaError, is_on
from vzpy.quotaid import Asked, NotPossible, Quota

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.config import Config
    from vzpy.events import Report
    from vzpy.model import IdRange, NodePaths
    from vzpy.story.create_plan import Plan
    from vzpy.story.live import Change
    from vzpy.vps import VPS

LIMITS = ("DISKSPACE", "DISKINODES", "QUOTATIME")
OPTIONS = ("diskspace", "diskinodes", "quotatime", "quotaugidlimit")
DEFAULT_GRACE = 259200
# KiB and inodes for what is written to set a VPS up, though it be full. The contract has 100; but
# for a new name xfs reserves more than that.
SLACK = 1024


def is_native(layout: str) -> bool:
    """A file system of its own limits itself."""
    return layout in ("image", "ploop")


def of(vps: VPS) -> Quota:
    return Quota(vps.ctid, vps.node.paths.quota_file(vps.ctid))


def asked(conf: Config, ids: IdRange | None = None) -> Asked:
    """The limits of a configuration. Raises VzError 63, 64."""
    space, inodes = conf.value("DISKSPACE"), conf.value("DISKINODES")
    if not space:
        raise VzError("Error: diskspace not set", Exit.DISKSPACE_NOT_SET)
    if not inodes:
        raise VzError("Error: diskinodes not set", Exit.DISKINODES_NOT_SET)
    grace = conf.value("QUOTATIME")
    grace = DEFAULT_GRACE if grace is None else grace
    ugid_limit = conf.value("QUOTAUGIDLIMIT") or 0
    return Asked(
        bsoft=space[0], bhard=space[1], isoft=inodes[0], ihard=inodes[1],
        bgrace=grace, igrace=grace, sub_quotas=bool(ugid_limit), ugid_limit=ugid_limit, ids=ids,
    )  # fmt: skip


def on(vps: VPS, report: Report) -> list[str]:
    """Switch the quota on, with slack until tighten(), making its file first where there is none;
    the options that this node cannot apply. Raises VzError 60, 61, 62, 63, 64."""
    if is_native(vps.layout):
        return []
    wanted = asked(vps.config, vps.ids)
    own = of(vps)
    try:
        own.require(vps.private)
        if not os.path.exists(own.file):
            report(InitializingQuota())
            with _failing("init", Exit.DQ_INIT):
                own.init(vps.private, wanted)
        try:
            with _failing("on", Exit.DQ_ON):
                found = own.on(wanted, vps.private, slack=SLACK)
        except Failed as err:
            if err.vzquota != QuotaError.RUNNING:
                raise
            with _failing("setlimit", Exit.DQ_SET):
                found = own.setlimit(wanted, vps.private)
    except NotPossible as err:
        return _not_possible(vps.config, err)
    missing = []
    if wanted.ugid_limit and not found.ugid_active:
        missing.append("quotaugidlimit")
    if qgroup.is_btrfs_path(vps.private):
        missing.append(f"diskinodes ({qgroup.HARD_ONLY})")
    return missing


def tighten(vps: VPS) -> None:
    """It is set up: no slack any more. Raises VzError 62."""
    if not is_native(vps.layout):
        with _failing("setlimit", Exit.DQ_SET):
            of(vps).tighten()


def _not_possible(conf: Config, err: NotPossible) -> list[str]:
    """What the configuration asks for in vain, with the reason behind the last."""
    missing = [name for name in OPTIONS if conf.own(name.upper()) is not None]
    return [*missing[:-1], f"{missing[-1]} ({err.message})"] if missing else []


class _failing:
    """vzquota's failure as vzctl tells it. NotPossible passes, unless quota is what is wanted."""

    def __init__(self, command: str, code: int, here: bool = False) -> None:
        self.command, self.code, self.here = command, code, here

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, err: BaseException | None, trace: object) -> None:
        if not isinstance(err, (QuotaError, OSError)):
            return
        if isinstance(err, NotPossible) and not self.here:
            return
        number = err.code if isinstance(err, QuotaError) else QuotaError.SYSTEM
        why = err.message if isinstance(err, QuotaError) else str(err)
        raise Failed(self.command, number, self.code, why) from err


class Failed(VzError):
    """A command of vzquota, had vzctl run it as a program, has failed.

    vzquota  its exit code"""

    def __init__(self, command: str, vzquota: int, code: int, why: str) -> None:
        super().__init__(f"vzquota {command} failed [{vzquota}]", code, hint=why)
        self.vzquota = vzquota


def refuse_ugids(vps: VPS) -> None:
    """Users and groups are limited in layouts that quota tools know. Raises VzError 67."""
    if vps.layout == "overlay":
        raise VzError(
            "Unable to apply new quota values: ugid quota not initialized",
            Exit.DQ_UGID_NOTINITIALIZED,
            hint="Quota tools inside do not work on an overlay root. Change the layout first:"
            f" vzctl convert {vps.ctid} --layout simfs",
        )


def tree_of(vps: VPS) -> str:
    """A folder on the file system that the files of a mounted VPS lie on."""
    return vps.root if is_native(vps.layout) else vps.private


def device_inside(vps: VPS, by_daemon: bool, not_applied: list[str]) -> str:
    """The name below /dev that quota tools inside look for: what the mount table shows of /.

    Tools refuse an overlay by its type, want a name below /dev, and vzeventd to answer them: where
    that is not so the option is added to what is not applied, and there is none."""
    if "quotaugidlimit" in not_applied:
        return ""
    source = proc.mount_of(tree_of(vps))[0]
    if not by_daemon or vps.layout == "overlay" or not source.startswith("/dev/"):
        not_applied.append("quotaugidlimit")
        return ""
    return source.removeprefix("/dev/")


def off(vps: VPS, report: Report) -> None:
    """Switch it off; one that is off is success. Raises VzError 66."""
    with _failing("off", Exit.DQ_OFF):
        try:
            of(vps).off()
        except QuotaError as err:
            if err.code != QuotaError.NOT_RUNNING:
                raise


# vzctl quotaon, quotaoff, quotainit: vzquota's own commands on a VPS (vzctl-cli 2.10)


def quotaon(vps: VPS, report: Report) -> None:
    """Raises VzError 60, 61, 63, 64; one that is on already is an error."""
    wanted, own = asked(vps.config, vps.ids), of(vps)
    if not os.path.exists(own.file):
        report(InitializingQuota())
        quotainit(vps, report)
    with _failing("on", Exit.DQ_ON, here=True):
        _refuse_busy(vps, "on")
        own.on(wanted, vps.private)


def quotaoff(vps: VPS, report: Report) -> None:
    """Raises VzError 66."""
    with _failing("off", Exit.DQ_OFF, here=True):
        _refuse_busy(vps, "off")
        of(vps).off()


def quotainit(vps: VPS, report: Report) -> None:
    """Raises VzError 61, 63, 64."""
    wanted = asked(vps.config, vps.ids)
    with _failing("init", Exit.DQ_INIT, here=True):
        of(vps).init(vps.private, wanted)


def _refuse_busy(vps: VPS, command: str) -> None:
    if quotabusy.is_busy(vps.private, vps.root):
        raise QuotaError(
            f"Quota {command} syscall for id {vps.ctid}: Device or resource busy\n"
            f"{quotabusy.REASONS}",
            QuotaError.SYSCALL,
        )


# From create to destroy


def made(paths: NodePaths, ctid: int, plan: Plan, ids: IdRange, report: Report) -> None:
    """A private area is about to be filled: what is put there is counted from the first file on.
    Where that is not possible it is told. Raises VzError 61."""
    assert plan.quota
    own = Quota(ctid, paths.quota_file(ctid))
    try:
        own.require(plan.scratch)
        with _failing("init", Exit.DQ_INIT):
            own.init(plan.scratch, asked(plan.quota, ids))
    except NotPossible as err:
        report(NotApplied(what=", ".join(_not_possible(plan.quota, err))))


def moved(paths: NodePaths, ctid: int, plan: Plan) -> None:
    """It is full, and in its place. Raises VzError 46: the host's root, who filled it, is not
    stopped by a limit (G25)."""
    own = Quota(ctid, paths.quota_file(ctid))
    if not os.path.exists(own.file):
        return
    with _failing("setlimit", Exit.DQ_SET):
        found = own.setlimit(Asked(), plan.private)
    space, inodes = found.space, found.inodes
    if space.hard and space.used > space.hard << 10 or inodes.hard and inodes.used > inodes.hard:
        raise VzError(
            f"The template needs {-(-space.used >> 10)} KiB and {inodes.used} inodes, more than the"
            f" limits {space.hard} and {inodes.hard}",
            Exit.FS_NO_DISK_SPACE,
            hint="Give more by --diskspace and --diskinodes.",
        )


def drop(paths: NodePaths, ctid: int) -> None:
    """Of a VPS that is being destroyed: no limit of its project and its ids is left, so that
    whoever gets those numbers next starts with none. Absence is success. Raises VzError 66."""
    own = Quota(ctid, paths.quota_file(ctid))
    if not os.path.exists(own.file):
        return
    with _failing("drop", Exit.DQ_OFF):
        try:
            own.drop(force=True, detach=False)
        except QuotaError as err:
            if err.code != QuotaError.NO_FILE:
                raise


def live(change: Change, report: Report) -> list[str]:
    """See story/live.py. Raises VzError 62, 63, 64."""
    if is_native(change.facts.layout):
        from vzpy.story import imagesize

        imagesize.live(change, report)
        return []
    if not change.after.value("DISK_QUOTA"):
        return []
    own = of(change.vps)
    if not os.path.exists(own.file):
        return [key.lower() for key in change.keys]
    wanted = asked(change.after)
    with _failing("setlimit", Exit.DQ_SET):
        if not is_on(own.load("stat")):
            raise VzError(
                "Error: Unable to apply new quota values: quota not running", Exit.DQ_SET
            )
        own.setlimit(wanted)
    return []


def proc_vzquota(paths: NodePaths) -> str:
    """The quotas of a node that are on, as /proc/vz/vzquota showed them (quota.md 4.4)."""
    from vzpy import quotatext
    from vzpy.quotaid import counted

    found = {number: counted(number, paths.quota_file(number)) for number in numbers(paths)}
    return quotatext.proc_vzquota({n: quota for n, quota in found.items() if quota})


def numbers(paths: NodePaths) -> list[int]:
    """Of all quotas with a file on the node, on or off; ascending."""
    try:
        names = os.listdir(paths.vzquota)
    except OSError:
        return []
    found = (name.removeprefix("quota.") for name in names if name.startswith("quota."))
    return sorted(int(number) for number in found if number.isdigit())
