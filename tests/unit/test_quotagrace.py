"""Grace times where the kernel's warnings are not heard."""

from __future__ import annotations

import os
from types import SimpleNamespace

from vzpy import quota
from vzpy.eventd import quotagrace
from vzpy.kernel.proc import boot_id
from vzpy.kernel.quotactl import PRJQUOTA, USRQUOTA, Dqblk
from vzpy.model import NodePaths
from vzpy.quotafile import QuotaFile, Row, Ugid, save

BASE = 1 << 30


def test_it_looks_again_and_again(monkeypatch, tmp_path):
    """All that is on, its users too; the next look is asked for each time."""
    def unheard():
        raise OSError(2, "no such family")

    later, shortened = [], []
    loop = SimpleNamespace(after=lambda seconds, call: later.append((seconds, call)))
    paths = NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))
    user = Ugid(USRQUOTA, 5, Dqblk(bsoftlimit=1, btime=9))
    monkeypatch.setattr(quotagrace.quotanetlink, "subscribe", unheard)
    monkeypatch.setattr(quota, "ugids", lambda fd, ids: iter([user]))
    monkeypatch.setattr(
        quota, "shorten", lambda fd, kind, qid, graces, just=False: shortened.append(
            (kind, qid, graces, just)
        )
    )
    found = QuotaFile(
        str(tmp_path), 7, Row(grace=60), Row(grace=70), on=True, boot=boot_id(),
        ugid_active=True, base=BASE, count=65536, graces=(11, 12, 13, 14),
    )  # fmt: skip
    save(paths.quota_file(101), found)
    save(paths.quota_file(102), QuotaFile(str(tmp_path), 8, Row(), Row()))
    monkeypatch.setattr(os.path, "exists", lambda _: True)  # /proc/sys/fs/quota
    grace = quotagrace.QuotaGrace(SimpleNamespace(loop=loop, busy=[], paths=paths))
    assert not shortened
    for _ in range(2):
        seconds, call = later.pop()
        assert seconds == 10 and not later
        call()
        assert shortened == [
            (PRJQUOTA, 7, (60, 70), False), (USRQUOTA, BASE + 5, (11, 12), False)
        ]
        shortened.clear()
    assert grace._is_wanted()
