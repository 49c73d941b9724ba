"""What is written back before a name counts: files one by one while they are few."""

from __future__ import annotations

import os

import pytest

from vzpy.kernel import syncfs


@pytest.fixture
def told(monkeypatch):
    calls: list[tuple[str, str]] = []
    fsync = syncfs.fsync
    monkeypatch.setattr(syncfs, "fsync", lambda path: (calls.append(("fsync", path)), fsync(path)))
    monkeypatch.setattr(syncfs, "syncfs", lambda path: calls.append(("syncfs", path)))
    return calls


def test_few(tmp_path, told):
    """Each file, whatever else lies beside it, and the folder that has the tree's name."""
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "one").write_text("x")
    (top / "a/b/two").write_text("x")
    (top / "a/link").symlink_to("/etc/passwd")
    os.mkfifo(top / "a/fifo")
    syncfs.sync_tree(str(top))
    assert sorted(told[:-1]) == [("fsync", f"{top}/a/b/two"), ("fsync", f"{top}/one")]
    assert told[-1] == ("fsync", str(tmp_path))


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_many(tmp_path, told, kind):
    top = tmp_path / "top"
    top.mkdir()
    for number in range(40):
        (top / str(number)).mkdir() if kind == "folders" else (top / str(number)).touch()
    syncfs.sync_tree(str(top))
    assert told == [("syncfs", str(top)), ("fsync", str(tmp_path))]


def test_no_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        syncfs.fsync(str(tmp_path / "link"))


def test_no_such_file_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        syncfs.syncfs(str(tmp_path / "none"))
