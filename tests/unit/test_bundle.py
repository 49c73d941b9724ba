"""The package from one file: the same modules, fresh ones, and nothing without the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vzpy import bundle

TELL = (
    "import sys; sys.path.insert(0, {folder!r})\n"
    "from vzpy import bundle; bundle.install()\n"
    "import vzpy.errors as e, vzpy.story as s\n"
    "print(type(e.__loader__).__name__, e.__file__, s.__path__, e.Exit.LOCKED, e.__doc__)"
)


@pytest.fixture
def package(tmp_path) -> Path:
    made = tmp_path / "vzpy"
    shutil.copytree(bundle.PACKAGE, made, ignore=shutil.ignore_patterns("__pycache__"))
    return made


def told(package: Path) -> list[str]:
    words = [sys.executable, "-IS", "-c", TELL.format(folder=str(package.parent))]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_every_module_is_in_it(package):
    bundle.build(str(package), "/usr/lib/vzpy/vzpy")
    names = [".".join(("vzpy", *path.relative_to(package).with_suffix("").parts))
             for path in package.rglob("*.py")]
    code = (
        f"import sys; sys.path.insert(0, {str(package.parent)!r})\n"
        "from vzpy import bundle; bundle.install()\n"
        "finder = sys.meta_path[0]\n"
        f"for name in {[n.removesuffix('.__init__') for n in names]}:\n"
        "    assert finder.find_spec(name), name\n"
        "import vzpy.errors\n"
        "print(vzpy.errors.VzError.of.__code__.co_filename)"
    )
    ran = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("/usr/lib/vzpy/vzpy/errors.py\n", "")


def test_modules_come_from_it_without_docstrings(package):
    bundle.build(str(package), str(package))
    assert told(package) == [
        "Finder", f"{package}/errors.py", f"['{package}/story']", "9", "None",
    ]  # fmt: skip


def test_one_that_has_changed_is_imported_as_always(package):
    bundle.build(str(package), str(package))
    source = package / "errors.py"
    before = source.stat()
    source.write_text(source.read_text().replace("LOCKED = 9", "LOCKED = 8"))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert told(package)[0] == "SourceFileLoader" and "8" in told(package)
    source.unlink()
    with pytest.raises(subprocess.CalledProcessError):
        told(package)


@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_another_interpreters_is_left_alone(package, content):
    file = package / "__pycache__" / os.path.basename(bundle.FILE)
    file.parent.mkdir()
    file.write_bytes(content)
    assert told(package)[0] == "SourceFileLoader"


def test_without_it_all_is_as_always(package):
    assert told(package)[0] == "SourceFileLoader"
