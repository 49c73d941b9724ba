"""How quotas look: the tables of vzquota and vzdqdump, /proc/vz/vzquota (quota.md 4)."""

from __future__ import annotations

import time

from vzpy.kernel.quotactl import Dqblk
from vzpy.quotafile import QuotaFile, Row, Ugid, is_on
from vzpy.record import replace

KINDS = ("user", "group")
RESOURCES = ("1k-blocks", "inodes")
_DAY = 86400


def seconds(text: str) -> int:
    """`[[[dd:]hh:]mm:]ss`, or a number with h, d, w, m(onth), y. Raises ValueError."""
    units = {"h": 3600, "d": _DAY, "w": 7 * _DAY, "m": 30 * _DAY, "y": 365 * _DAY}
    if text[-1:].lower() in units:
        return _count(text[:-1]) * units[text[-1].lower()]
    parts = [_count(part) for part in text.split(":")]
    if len(parts) > 4:
        raise ValueError(text)
    sizes = (1, 60, 3600, _DAY)
    return sum(part * size for part, size in zip(reversed(parts), sizes))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise ValueError(text)
    return int(text)


def duration(left: int) -> str:
    if left <= 0:
        return "none"
    minutes = (left + 30) // 60
    days, hours = divmod(minutes // 60, 24)
    return f"{days}days" if days else f"{hours:02d}:{minutes % 60:02d}"


def blocks(used: int) -> int:
    """Bytes in blocks of 1 KiB."""
    return -(-used >> 10)


def _grace(used: int, soft: int, expires: int, now: int) -> str:
    return duration(expires - now) if soft and used > soft and expires else ""


def _both(quota: QuotaFile) -> tuple[tuple[str, int, Row], ...]:
    return (
        (RESOURCES[0], blocks(quota.space.used), quota.space),
        (RESOURCES[1], quota.inodes.used, quota.inodes),
    )


def table(quota: QuotaFile, batch: bool = False) -> str:
    """The first level."""
    now = int(time.time())
    lines = []
    if not batch:
        head = ("resource", "usage", "softlimit", "hardlimit", "grace")
        lines.append("{:>11} {:>14}  {:>14} {:>14} {:>8}".format(*head))
    for name, used, row in _both(quota):
        if batch:
            numbers = (used, row.soft, row.hard, row.expires, row.grace)
            lines.append(" ".join(f"{number:14}" for number in numbers))
            continue
        mark = "*" if row.soft and used > row.soft else " "
        grace = _grace(used, row.soft, row.expires, now)
        lines.append(f"{name:>11} {used:14}{mark} {row.soft:14} {row.hard:14} {grace:>8}")
    return "\n".join(lines)


def is_exceeded(quota: QuotaFile) -> bool:
    return bool(quota.ugid_limit) and len(quota.ugids) > quota.ugid_limit


def ugid_table(quota: QuotaFile, batch: bool = False, force: bool = False) -> str:
    """The second level. force: without asking the file what the next start will do."""
    total, limit = len(quota.ugids), quota.ugid_limit
    loaded = min(total, limit) if quota.ugid_active else 0
    exceeded = is_exceeded(quota)
    if batch:
        lines = [
            f"{-1 if force else int(quota.ugid_on)} {int(quota.ugid_active)}",
            f"{loaded} {total} {limit}",
            str(int(exceeded)),
        ]
        lines += [
            f"{kind:>5} {quota.graces[2 * n]:14} {quota.graces[2 * n + 1]:14} {0:9X}h"
            for n, kind in enumerate(KINDS)
        ]
    else:
        on = "-" if force else "on" if quota.ugid_on else "off"
        lines = [
            "",
            f"User/group quota: {on},{'active' if quota.ugid_active else 'inactive'}",
            f"{'*' if exceeded else ''}Ugids: loaded {loaded}, total {total}, limit {limit}",
            f"Ugid limit was exceeded: {'yes' if exceeded else 'no'}",
            "",
            "User/group grace times and quotafile flags:",
            " type block_exp_time inode_exp_time  dqi_flags",
        ]
        lines += [
            f"{kind:>5} {_period(quota.graces[2 * n]):>14} {_period(quota.graces[2 * n + 1]):>14}"
            f" {0:9X}h"
            for n, kind in enumerate(KINDS)
        ]
        lines += [
            "",
            "User/group objects:",
            "ID           type  resource       usage   softlimit   hardlimit    grace status",
        ]
    now = int(time.time())
    for ugid in quota.ugids:
        lines += _object(ugid, quota.ugid_active, now, batch)
    return "\n".join(lines)


def _period(grace: int) -> str:
    return duration(grace) if grace else ""


def _object(ugid: Ugid, loaded: bool, now: int, batch: bool) -> list[str]:
    d = ugid.dqblk
    lines = []
    for name, used, soft, hard, expires in (
        (RESOURCES[0], blocks(d.curspace), d.bsoftlimit, d.bhardlimit, d.btime),
        (RESOURCES[1], d.curinodes, d.isoftlimit, d.ihardlimit, d.itime),
    ):
        grace = str(expires) if batch else _grace(used, soft, expires, now)
        status = f"{int(loaded)} 0" if batch else "loaded" if loaded else ""
        lines.append(
            f"{ugid.number:<11} {KINDS[ugid.kind]:>5} {name:>9} {used:11} {soft:11} {hard:11}"
            f" {grace:>8} {status:>6}"
        )
    return lines


def proc_vzquota(quotas: dict[int, QuotaFile]) -> str:
    """What /proc/vz/vzquota showed of the quotas that are on."""
    lines = ["    qid: path                     usage      softlimit      hardlimit       time"
             "       expire"]
    for number, quota in sorted(quotas.items()):
        if not is_on(quota):
            continue
        lines.append(f"{number}: {quota.path}")
        lines += [
            f"{name:>10} {used:14} {row.soft:14} {row.hard:14} {row.expires:10} {row.grace:10}"
            for name, used, row in _both(quota)
        ]
    return "\n".join(lines) + "\n"


# vzdqdump, vzdqload


def dump(quota: QuotaFile, parts: str) -> str:
    """parts  letters of vzdqdump's options: G grace, U limits, T times, F first level"""
    lines = ["#ugid_quota_status:\tstatus", f"ugid_quota_status:\t{int(quota.ugid_on)}"]
    if quota.ugid_on:
        if "G" in parts:
            lines.append("#grace_time:\ttype\tbgrace\tigrace")
            for n in range(2):
                bgrace, igrace = quota.graces[2 * n : 2 * n + 2]
                lines.append(f"grace_time:\t{n}\t{bgrace}\t{igrace}")
        if "U" in parts or "T" in parts:
            lines += ["#ugid_number:\tnumber", f"ugid_number:\t{len(quota.ugids)}"]
            columns = ["#ugid:", "id", "type"]
            columns += ["bsoft", "bhard", "isoft", "ihard"] if "U" in parts else []
            columns += ["btime", "itime"] if "T" in parts else []
            lines.append("\t".join(columns))
            for ugid in quota.ugids:
                d = ugid.dqblk
                fields = [ugid.number, ugid.kind]
                if "U" in parts:
                    fields += [d.bsoftlimit, d.bhardlimit, d.isoftlimit, d.ihardlimit]
                if "T" in parts:
                    fields += [d.btime, d.itime]
                lines.append("\t".join(["ugid:", *map(str, fields)]))
    if "F" in parts:
        s, i = quota.space, quota.inodes
        lines.append("first_level_quota:")
        lines.append(f"{s.used} {s.soft << 10} {s.hard << 10} {s.expires} {s.grace}")
        lines.append(f"{i.used} {i.soft} {i.hard} {i.expires} {i.grace}")
    return "\n".join(lines) + "\n"


def undump(text: str, parts: str, had: QuotaFile) -> QuotaFile:
    """What dump() wrote, over what is there. Raises ValueError with the number of the line."""
    found, graces = had, list(had.graces)
    ugids: dict[tuple[int, int], Ugid] = {(u.kind, u.number): u for u in had.ugids}
    rows: list[Row] = []
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    expected = 0
    for number, line in lines:
        if line.startswith("#"):
            continue
        try:
            if expected:
                expected -= 1
                rows.append(Row(*map(_count, line.split())))
                continue
            label, *words = line.split()
            fields = [_count(word) for word in words]
            if label == "ugid_quota_status:":
                found = replace(found, ugid_on=bool(fields[0]))
            elif label == "grace_time:" and "G" in parts:
                kind, *pair = fields
                if kind not in (0, 1) or len(pair) != 2:
                    raise ValueError
                graces[2 * kind : 2 * kind + 2] = pair
            elif label == "ugid:":
                ugid = _ugid(fields, parts)
                ugids[ugid.kind, ugid.number] = ugid
            elif label == "first_level_quota:":
                expected = 2
            elif label not in ("ugid_number:", "grace_time:"):
                raise ValueError
        except (ValueError, IndexError, TypeError):
            raise ValueError(f"line {number} is not understood: {line}") from None
    if expected:
        raise ValueError("it is cut short")
    if rows and "F" in parts:
        space, inodes = rows
        space = replace(space, soft=space.soft >> 10, hard=space.hard >> 10)
        found = replace(found, space=space, inodes=inodes)
    return replace(
        found,
        graces=(graces[0], graces[1], graces[2], graces[3]),
        ugids=tuple(ugids[key] for key in sorted(ugids)),
    )


def _ugid(fields: list[int], parts: str) -> Ugid:
    number, kind, *rest = fields
    limits = [rest.pop(0) for _ in range(4)] if "U" in parts else [0] * 4
    times = [rest.pop(0) for _ in range(2)] if "T" in parts else [0] * 2
    if rest or kind not in (0, 1):
        raise ValueError
    return Ugid(kind, number, Dqblk(limits[1], limits[0], 0, limits[3], limits[2], 0, *times))
