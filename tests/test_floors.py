"""The floors of the house: an import only points down, rooms stand side by side, and the commands
that scripts call thousands of times pay only for what they use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vzpy import nodesetup
from vzpy.model import NodePaths

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "vzpy").rglob("*.py")
}

FLOOR_0 = {"errors", "undo", "log", "record", "model", "events", "params", "actions", "optiontable",
           "setoptions", "option", "table", "once", "data", "fault", "lockfile", "elf", "oneline",
           "bundle", "bundling", "plainos"}
# A room of more than one file. A file that is named nowhere is a room of its own, on floor 2.
ROOMS = {
    "countmap": {"countmap", "socketcount", "othersockets", "filecount", "lockcount",
                 "tablelimit"},
    "ubc": {"ubc", "ubcproc"},
    "cgroups": {"cgroups", "cgroupread", "cgroupwalk", "cgroupshare", "loadavg"},
    "dist": {"dist", "dns"},
    "backup": {"backup", "tarout"},
    "rootfs": {"rootfs", "overlay"},
    "snapshots": {"snapshots", "layers", "statecopy"},
    "syscalls": {"syscalls", "netfilter", "squeeze"},
    "config": {"config", "values", "amounts", "words", "options", "edits", "names"},
    "network": {"venet", "antispoof", "dad", "netnotes", "shaping", "traffic", "veth", "netdevs"},
    "quota": {"quota", "quotabusy", "quotafile", "quotaid", "quotatext", "quotatree", "quotaugids",
              "qgroup", "projects"},
    "template": {"template", "caches", "recipe", "busybox", "mmdebstrap", "aptsources", "treecheck",
                 "unpack", "untar", "tarpeek", "vztmp"},
}
FLOOR_3 = {"sync", "child", "story", "identity", "vps", "node", "eventd", "nodesetup", "doctor",
           "listing", "columns", "veproc", "storage"}
FLOOR_4 = {"cli", "commands", "manpages"}

HEAVY = {"re", "typing", "dataclasses", "json", "enum", "contextlib", "subprocess", "pathlib",
         "click", "yaml", "psutil", "pyroute2", "rich"}


def floor(module: str) -> int:
    head, *_, last = module.split(".")[1:] * 2
    if last == "__main__":
        return 4
    if head == "kernel":
        return 1
    for level, names in ((0, FLOOR_0), (3, FLOOR_3), (4, FLOOR_4)):
        if head in names:
            return level
    return 2


def room(module: str) -> str:
    head = module.split(".")[1]
    return next((name for name, files in ROOMS.items() if head in files), head)


def imports(path: Path):
    """(module, line, at module level) of every import that is made when the code runs."""

    def walk(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                for statement in child.orelse:
                    yield from walk(statement, top)
            elif isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path}:{child.lineno}: a relative import"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
                known = [name for name in names if name in MODULES]
                yield from ((name, child.lineno, top) for name in known or [child.module])
            else:
                inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                yield from walk(child, top and not inner)

    yield from walk(ast.parse(path.read_text()), True)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"vzpy"}))
def test_imports_point_down(module):
    wrong = []
    for name, line, _ in imports(MODULES[module]):
        if name not in MODULES or name == "vzpy":
            continue
        here, there = floor(module), floor(name)
        neighbours = here == there == 2 and room(module) != room(name)
        if there > here or neighbours:
            kind = "a neighbour" if neighbours else f"up, to floor {there}"
            wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {name} is {kind}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m == "vzpy" or floor(m) < 3))
def test_lower_floors_import_nothing_heavy(module):
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {name}"
        for name, line, top in imports(MODULES[module])
        if top and name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_are_short(module):
    """400 lines; tables of data are exempt."""
    if module.split(".")[-1] in {"params", "actions", "optiontable", "setoptions"}:
        return
    assert len(MODULES[module].read_text().splitlines()) <= 400


def imported(tool: str, *argv: str, env: dict[str, str]) -> set[str]:
    """The modules that a run of a tool imports, started as `make install` starts it."""
    command = [sys._base_executable, "-ISX", "importtime", ROOT / "bin" / tool, *argv]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_calls_of_the_kernel_load_ctypes_when_they_are_made():
    """`vzctl exec` makes none."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import vzpy.story.pump, vzpy.vps\n"
    code += "print('_ctypes' in sys.modules)\n"
    code += "vzpy.ns.p.unshare(0); print('_ctypes' in sys.modules)\n"
    words = [sys._base_executable, "-IS", "-c", code, ROOT]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    "command", ["vzctl status 101", "vzctl exec 101 true", "vzctl exec3 101 true",
                "vzctl set 101 --numproc 100 --save", "vzlist -a", "vzlist -a -o ctid,numproc"]
)
def test_hot_commands_import_nothing_heavy(command, tmp_path):
    paths = NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))
    nodesetup.setup(paths, str(tmp_path / "vz"))
    (tmp_path / "etc/conf/101.conf").write_text('OSTEMPLATE="busybox-x86_64"\n')
    (tmp_path / "vz/private/101").mkdir()
    env = {"VZ_ETC": paths.etc, "VZ_RUN": paths.run, "PATH": "/usr/bin:/bin"}
    found = imported(*command.split(), env=env)
    assert "vzpy.cli" in found
    assert not {name.split(".")[0] for name in found} & HEAVY
