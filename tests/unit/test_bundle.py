"""The package from one file: the same modules, fresh ones, and nothing without the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vzpy import bundling, plainos

ROOT = Path(__file__).parents[2]
RUN = "from vzpy.cli import run\n\nrun()\n"
TELL = (
    "import vzpy.errors as e, vzpy.story as s\n"
    "print(type(e.__loader__).__name__, e.__file__, s.__path__, e.Exit.LOCKED, e.__doc__)"
)


@pytest.fixture
def package(tmp_path) -> Path:
    made = tmp_path / "vzpy"
    shutil.copytree(bundling.PACKAGE, made, ignore=shutil.ignore_patterns("__pycache__"))
    return made


def bundle_of(package: Path, shown: str = "") -> None:
    bundling.build(str(package), shown or str(package))


def told(package: Path, code: str = TELL) -> list[str]:
    """What code prints that stands in place of the last lines of a launcher."""
    text = (ROOT / "tools/launcher.in").read_text().replace("@LIB@", str(package.parent))
    assert text.endswith(RUN)
    words = [sys.executable, "-IS", "-c", text.removesuffix(RUN) + code]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_every_module_is_in_it(package):
    bundle_of(package, "/usr/lib/vzpy/vzpy")
    names = [".".join(("vzpy", *path.relative_to(package).with_suffix("").parts))
             for path in package.rglob("*.py")]
    code = (
        "finder = sys.meta_path[0]\n"
        f"for name in {[n.removesuffix('.__init__') for n in names]}:\n"
        "    assert finder.find_spec(name), name\n"
        "import vzpy.errors\n"
        "print(vzpy.errors.VzError.of.__code__.co_filename)"
    )
    assert told(package, code) == ["/usr/lib/vzpy/vzpy/errors.py"]


def test_modules_come_from_it_without_docstrings(package):
    bundle_of(package)
    assert told(package) == ["Finder", f"{package}/errors.py", f"['{package}/story']", "9", "None"]


def test_what_tools_do_not_ask_for_is_not_in_it(package):
    bundle_of(package)
    code = (
        "from vzpy import state, vps\n"
        "print(vps.VPS.exec.__annotations__, state.Facts.__annotations__['pid'])"
    )
    assert told(package, code) == ["{}", "int"]


def test_they_are_as_importlib_makes_them(package):
    """Those that are asked for, and those that others import."""
    code = (
        "import vzpy.story.enter\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('vzpy') and name != 'vzpy.plainos':\n"
        "        above, _, last = name.rpartition('.')\n"
        "        assert not above or getattr(sys.modules[above], last) is module\n"
        "        own = set(vars(module))"
        " - {'__cached__', '__annotations__', 'annotations', 'plainos'}\n"
        "        print(name, module.__package__, module.__file__,"
        " getattr(module, '__path__', 0), module.__spec__.name, *sorted(own))\n"
    )
    without = told(package, code)
    bundle_of(package)
    assert told(package, code) == without and "vzpy.kernel.program" in without


def test_each_one_can_be_the_first(package):
    """Whatever it imports, in whatever order."""
    bundle_of(package)
    code = (
        "import os\n"
        "for name in list(sys.meta_path[0].index):\n"
        "    if not name.endswith('__main__'):\n"
        "        if not (pid := os.fork()):\n"
        "            __import__(name)\n"
        "            os._exit(0)\n"
        "        if os.waitpid(pid, 0)[1]:\n"
        "            print(name)\n"
    )
    libraries = f"sys.path.append({os.path.dirname(os.path.dirname(pytest.__file__))!r})\n"
    assert told(package, libraries + code) == []


def test_one_that_fails_is_not_there(package):
    (package / "log.py").write_text("raise ValueError")
    bundle_of(package)
    code = (
        "try:\n    import vzpy.node\nexcept ValueError:\n"
        "    print('vzpy.log' in sys.modules, 'vzpy.node' in sys.modules)"
    )
    assert told(package, code) == ["False", "False"]


def test_one_that_has_changed_is_imported_as_always(package):
    bundle_of(package)
    source = package / "errors.py"
    before = source.stat()
    source.write_text(source.read_text().replace("LOCKED = 9", "LOCKED = 8"))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert told(package)[0] == "SourceFileLoader" and "8" in told(package)
    assert told(package, "from vzpy.config import Exit; print(Exit.LOCKED)") == ["8"]
    source.unlink()
    with pytest.raises(AssertionError, match="No module named 'vzpy.errors'"):
        told(package)


@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_another_interpreters_is_left_alone(package, content):
    file = package / "__pycache__" / os.path.basename(bundling.FILE)
    file.parent.mkdir()
    file.write_bytes(content)
    assert told(package)[0] == "SourceFileLoader"


def test_without_it_all_is_as_always(package):
    assert told(package)[0] == "SourceFileLoader"


def test_os_is_a_plain_one_until_more_is_asked_of_it(package):
    """It is whole then, also where nothing may be imported any more; who has it keeps it."""
    bundle_of(package)
    code = (
        "import os, os.path, posixpath, vzpy.ns\n"
        "from os import getpid, path\n"
        "assert os.path is path is posixpath and os.getpid is getpid and os.sep == '/'\n"
        "assert (path.join('a', 'b'), path.join(b'a', b'b')) == ('a/b', b'a/b')\n"
        "assert path.realpath('/proc/self/../1') == '/proc/1' and os.path is path\n"
        "assert os.fsencode('\\udcff') == b'\\xff' and os.fsdecode(b'\\xff') == '\\udcff'\n"
        "assert (os.getenv('ANY'), os.getenv('NONE'), os.getenv('NONE', 'x')) == ('1', None, 'x')\n"
        "plain = os\n"
        "print('_collections_abc' in sys.modules)\n"
        "vzpy.ns.poison_imports()\n"
        "assert os.environ['ANY'] == '1' and sys.meta_path == []\n"
        "import os\n"
        "assert os is plain and os.getpid is getpid and not hasattr(os, 'wings')\n"
        "os.environ['ANY'] = '2'\n"
        "print('_collections_abc' in sys.modules, os.getenv('ANY'))"
    )
    os.environ["ANY"] = "1"
    try:
        assert told(package, code) == ["False", "True", "2"]
    finally:
        del os.environ["ANY"]


@pytest.mark.parametrize("exist_ok", [False, True])
@pytest.mark.parametrize(
    "name",
    ["a", "a/b/c", "a/b/", "a/./b", "there", "file", "file/x", "dangling", "dangling/x"],
)
def test_its_makedirs_is_the_real_one(tmp_path, name, exist_ok):
    found = []
    for make in (os.makedirs, plainos.makedirs):
        there = tmp_path / make.__module__
        (there / "there").mkdir(parents=True)
        (there / "file").touch()
        (there / "dangling").symlink_to("nowhere")
        try:
            make(f"{there}/{name}", 0o711, exist_ok)
            told = ""
        except OSError as err:
            told = type(err).__name__
        modes = {str(x.relative_to(there)): x.lstat().st_mode for x in there.rglob("*")}
        found.append((told, modes))
    assert found[0] == found[1]


PATHS = ["", "/", "//", "///", "a", "a/", "/a", "//a//b//", "a/./b", "a/../b", "../a", "/..", "a//",
         "\\udcff/x", "a" * 300, "\0", "link", "link/", "nowhere", "file", "file/"]


@pytest.mark.parametrize("cwd", [".", "/"])
def test_its_paths_are_the_real_ones(tmp_path, monkeypatch, cwd):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("none")
    monkeypatch.chdir(tmp_path / cwd)
    for one in PATHS:
        for name in ("split", "dirname", "basename", "abspath", "exists", "lexists", "isdir",
                     "isfile", "islink"):
            assert getattr(plainos, name)(one) == getattr(os.path, name)(one), (name, one)
        for path in (one, f"{tmp_path}/{one}", f"{tmp_path}/link/{one}"):
            assert "\0" in path or plainos.realpath(path) == os.path.realpath(path)
        for other in PATHS:
            assert plainos.join(one, other, "x") == os.path.join(one, other, "x")
    two = (tmp_path / "file").stat(), tmp_path.stat()
    assert plainos.samestat(two[0], two[0]) and not plainos.samestat(*two)
    for there in (plainos.exists, plainos.isdir):
        assert not there("/none") and there(Path("/tmp")) and not there(1 << 30)


def test_hot_commands_load_nothing_of_the_interpreters_that_is_a_file_or_slow(package):
    bundle_of(package)
    code = (
        "import vzpy.commands.vzctl, vzpy.options, vzpy.commands.vzctl_exec, vzpy.story.flow\n"
        "import vzpy.commands.vzctl_stop, vzpy.commands.vzlist\n"
        "from vzpy.model import NodePaths\n"
        "NodePaths.of('/tmp/none', '/tmp/none')\n"
        "slow = {'_collections_abc', 'genericpath', 'stat', 'struct', 'getopt', '_ctypes'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    assert told(package, code) == ["[]"]


def test_the_first_module_of_a_command_brings_the_others(package):
    """But not one whose source has changed, and none without those that it needs."""
    bundle_of(package)
    (package / "ns.py").write_text("EIGHT = 8\n")
    code = (
        "import vzpy.commands.vzctl\n"
        "before = 'vzpy.story.enter' in sys.modules\n"
        "try:\n    import vzpy.commands.vzctl_exec\n"
        "except ImportError as err:\n    print(err.name)\n"
        "else:\n    print(before, type(sys.modules['vzpy.ns'].__loader__).__name__,"
        " type(sys.modules['vzpy.story.pump'].__loader__).__name__)\n"
    )
    assert told(package, code) == ["False", "SourceFileLoader", "Finder"]
