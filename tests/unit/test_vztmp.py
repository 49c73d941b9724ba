"""The deletion staging area: everything goes, nothing else does, however hostile the tree."""

import errno
import os
import time

import pytest

from vzpy import vztmp


@pytest.fixture
def area(tmp_path):
    return str(tmp_path / "vztmp")


def hostile(path):
    """What the root of a VPS could leave behind."""
    os.makedirs(f"{path}/etc/empty")
    os.symlink("/", f"{path}/root-of-host")
    os.symlink("../..", f"{path}/etc/up")
    os.mkfifo(f"{path}/fifo")
    for name in ("0", "1", "2", "\udcff\n", "-rf", "." + vztmp.PREFIX):
        os.mkdir(f"{path}/{name}")
        with open(f"{path}/{name}/1", "w") as file:
            file.write("x")
    os.link(f"{path}/0/1", f"{path}/1/link")


def nest(path, depth):
    """A path far longer than PATH_MAX, deeper than there are descriptors."""
    fd = os.open(path, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.fixture
def bystander(tmp_path):
    """Must be there after every removal."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    yield outside
    assert (outside / "precious").read_text() == "x"


def move(path, area):
    announced = []
    vztmp.move(path, area, announced.append)
    assert not os.path.lexists(path)
    return announced[-1]


def test_a_hostile_tree_goes_and_what_it_points_at_stays(tmp_path, area, bystander):
    private = str(tmp_path / "private")
    hostile(private)
    os.symlink(str(bystander), f"{private}/link")
    os.symlink(str(bystander), f"{private}/etc/link")
    entry = move(private, area)
    assert os.path.exists(f"{entry}/0/etc")
    assert vztmp.remove_entries(area) == []
    assert os.listdir(area) == [vztmp.LOCK]


def test_a_private_area_that_is_a_link_loses_only_the_link(tmp_path, area, bystander):
    os.symlink(str(bystander), tmp_path / "private")
    move(str(tmp_path / "private"), area)
    assert vztmp.remove_entries(area) == []


def test_depth_without_end(tmp_path, area):
    private = str(tmp_path / "private")
    os.mkdir(private)
    nest(private, 3000)
    move(private, area)
    assert vztmp.remove_entries(area) == []
    assert os.listdir(area) == [vztmp.LOCK]


def test_many_entries_in_one_directory(tmp_path, area):
    private = tmp_path / "private"
    private.mkdir()
    for n in range(5000):
        (private / f"{n}").touch()
        if n % 10 == 0:
            (private / f"d{n}").mkdir()
    move(str(private), area)
    assert vztmp.remove_entries(area) == []
    assert os.listdir(area) == [vztmp.LOCK]


def test_an_interrupted_removal_goes_on(tmp_path, area, monkeypatch):
    private = str(tmp_path / "private")
    hostile(private)
    move(private, area)
    real, calls = os.rmdir, []

    def dies(*args, **kw):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*args, **kw)

    monkeypatch.setattr(os, "rmdir", dies)
    with pytest.raises(KeyboardInterrupt):
        vztmp.remove_entries(area)
    assert vztmp.remove_entries(area) == []
    assert os.listdir(area) == [vztmp.LOCK]


def test_what_cannot_be_removed_is_told_and_the_rest_goes(tmp_path, area, monkeypatch):
    private = str(tmp_path / "private")
    hostile(private)
    entry = move(private, area)
    real = os.unlink

    def refuse(name, **kw):
        if name == "fifo":
            raise OSError(errno.EPERM, "Operation not permitted", name)
        real(name, **kw)

    monkeypatch.setattr(os, "unlink", refuse)
    failures = vztmp.remove_entries(area)
    assert {f.errno for f in failures} == {errno.EPERM, errno.ENOTEMPTY}
    left = [name for _, dirs, files in os.walk(entry) for name in files]
    assert left == ["fifo"]


def test_one_remover_at_a_time(tmp_path, area):
    import fcntl

    private = str(tmp_path / "private")
    os.mkdir(private)
    entry = move(private, area)
    with open(f"{area}/{vztmp.LOCK}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert vztmp.remove_entries(area) == []
        assert os.path.exists(entry)
    vztmp.remove_entries(area)
    assert not os.path.exists(entry)


def test_an_entry_taken_while_it_is_empty_is_made_again(tmp_path, area):
    private = str(tmp_path / "private")
    os.mkdir(private)
    announced = []

    def remover_is_quick(entry):
        announced.append(entry)
        if len(announced) < 3:
            os.rmdir(entry)

    vztmp.move(private, area, remover_is_quick)
    assert os.path.exists(f"{announced[2]}/0")


def test_what_is_moved_in_while_the_entry_is_looked_at_goes_too(tmp_path, area, monkeypatch):
    """The remover saw it empty, and its own mover's remover found this one at work."""
    private = str(tmp_path / "private")
    hostile(private)
    os.mkdir(area, 0o700)
    entry = f"{area}/{vztmp.PREFIX}x"
    os.mkdir(entry)
    real = vztmp._empty

    def empty(path):
        failures = real(path)
        if os.path.exists(private):
            os.rename(private, f"{entry}/0")
        return failures

    monkeypatch.setattr(vztmp, "_empty", empty)
    assert vztmp.remove_entries(area) == []
    assert os.listdir(area) == [vztmp.LOCK]


def test_the_detached_remover(tmp_path, area):
    private = str(tmp_path / "private")
    hostile(private)
    entry = move(private, area)
    vztmp.sweep(area)
    for _ in range(500):
        if not os.path.exists(entry):
            break
        time.sleep(0.01)
    assert not os.path.exists(entry)


def test_remove_in_place(tmp_path, bystander):
    private = str(tmp_path / "private")
    hostile(private)
    os.symlink(str(bystander), f"{private}/link")
    vztmp.remove(private)
    assert not os.path.exists(private)
    vztmp.remove(private)  # absence is success
    os.symlink(str(bystander), tmp_path / "link")
    vztmp.remove(str(tmp_path / "link"))


@pytest.mark.parametrize("kind", ["link", "open"])
def test_a_staging_area_that_others_could_write_to_is_refused(tmp_path, area, bystander, kind):
    if kind == "link":
        os.symlink(str(bystander), area)
    else:
        os.mkdir(area)
        os.chmod(area, 0o777)
    private = str(tmp_path / "private")
    os.mkdir(private)
    with pytest.raises(PermissionError, match="only root"):
        vztmp.move(private, area, lambda entry: None)
    assert os.path.isdir(private)


def test_the_staging_area_lies_at_the_root_of_the_file_system():
    assert vztmp.staging("/proc/self/environ") == "/proc/vztmp"
    assert vztmp.staging("/nonexistent/private/101") == "/vztmp"
