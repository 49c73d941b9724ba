"""How a lock file comes to be; what it does is in tests/node/test_locks.py."""

from __future__ import annotations

import errno
import os

import pytest

from vzpy import state
from vzpy.errors import Locked


@pytest.mark.parametrize("nameless", [True, False], ids=["nameless", "named"])
def test_whole_or_not_at_all(tmp_path, monkeypatch, nameless):
    """On file systems that know files without a name, and on those that do not."""
    real_open = os.open

    def refusing(path, flags, *rest, **words):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real_open(path, flags, *rest, **words)

    if not nameless:
        monkeypatch.setattr(os, "open", refusing)
    with state.Lock(str(tmp_path), 101):
        assert os.listdir(tmp_path) == ["101.lck"]
        assert (tmp_path / "101.lck").read_text().startswith(f"{os.getpid()}\n")
        with pytest.raises(Locked), state.Lock(str(tmp_path), 101):
            pass
        assert os.listdir(tmp_path) == ["101.lck"]
    assert os.listdir(tmp_path) == []
