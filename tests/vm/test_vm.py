"""Boots virtual machines: one for the bed itself, one in which the node tests run.

Everything here may install Debian packages and, the first time, builds the images (a minute).
VZ_TEST_VM_ARGS chooses among the node tests: "tests/node/test_set.py -k quota".
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from . import boot, vm
from .build import CHECKOUT
from .host import VMError, cache_dir, check_machine, ensure_packages

pytestmark = pytest.mark.vm

CACHE_INSIDE = "/var/cache/vzpy-tests"
NODE_TIMEOUT_S = 3600.0

# Emulation makes an hour of the whole suite's minutes. So the heart of it runs here each time: what
# a VPS is, its life, and limits that only this machine has; `make test-vm` runs all but what
# is slow, or fetches packages, which cannot be had without a network. It does so in some machines
# one after the other, so that one that hangs takes no more with it than its part.
HEART = "inside lifecycle exec.py::TestCgroups set ubc netfilter sockets".split()
PARTS = 4
CHOICE = "-m 'not network and not slow'"


def node_runs() -> dict[str, str]:
    """What each machine runs, by name: the words of its pytest."""
    if asked := os.environ.get("VZ_TEST_VM_ARGS"):
        return {"asked": asked}
    if not os.environ.get("VZ_TEST_VM_ALL"):
        files = [f"tests/node/test_{name}" + ".py" * (".py" not in name) for name in HEART]
        return {"heart": " ".join([CHOICE, *files])}
    files = sorted(f"tests/node/{path.name}" for path in CHECKOUT.glob("tests/node/test_*.py"))
    parts = [files[n::PARTS] for n in range(PARTS)]
    return {f"part{n}": " ".join([CHOICE, *part]) for n, part in enumerate(parts, 1) if part}


RUNS = node_runs()


@pytest.fixture(autouse=True)
def able_machine() -> None:
    try:
        check_machine()
    except VMError as error:
        pytest.skip(str(error))


def counts(junit: Path) -> dict[str, int]:
    """How many tests of the inner pytest ran, and how."""
    names = ("tests", "failures", "errors", "skipped")
    suites = list(ElementTree.parse(junit).getroot().iter("testsuite"))
    return {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}


def seconds_of(junit: Path) -> dict[str, float]:
    """How long the tests of each file took, the longest first."""
    took: dict[str, float] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        file = case.get("classname", "").partition(".test_")[2].partition(".")[0]
        took[file] = took.get(file, 0) + float(case.get("time", 0))
    return dict(sorted(took.items(), key=lambda item: -item[1]))


def pytest_inside(
    capsys: pytest.CaptureFixture[str],
    results: Path,
    words: list[str],
    *,
    timeout_s: float,
    disks: tuple[str, ...] = (),
) -> dict[str, int]:
    """Its output is shown while it comes: a run under emulation takes minutes."""
    templates = cache_dir() / "templates"
    with capsys.disabled():
        print(flush=True)
        outcome = vm.run_command(
            ["python3", "-m", "pytest", *words],
            results=results,
            timeout_s=timeout_s,
            disks=disks,
            put=[(templates, f"{CACHE_INSIDE}/templates")] if templates.is_dir() else [],
            env={"VZ_TEST_CACHE": CACHE_INSIDE},
        )
        junit = results / "junit.xml"
        ran = counts(junit) if junit.exists() else {}
        took = seconds_of(junit) if junit.exists() else {}
        print("vm: seconds:", ", ".join(f"{file} {s:.0f}" for file, s in took.items()))
        print(f"vm: {ran}, up after {outcome.boot_s:.1f} s, {outcome.total_s:.1f} s in all")
        sys.stdout.flush()
    assert outcome.status == 0, f"status {outcome.status} inside, {ran}; more in {results}"
    return ran


def ensure_debian_template() -> None:
    """The node tests want it and have no network inside, so it is made here, once."""
    node = CHECKOUT / "tests/node"
    done = subprocess.run(
        [sys.executable, "-c",
         "import stores; print(stores.debian_tarball(), stores.quota_tarball())"],
        cwd=node,
        env=os.environ | {"PYTHONPATH": f"{node}:{CHECKOUT}", "VZ_TEST_CACHE": str(cache_dir())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "None" not in done.stdout, "no Debian template in the cache, and none can be built"


def test_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["-q", "tests/vm/inside_machine.py"]
    ran = pytest_inside(capsys, tmp_path, words, timeout_s=300, disks=("2G",))
    assert ran["tests"] >= 8 and not ran["skipped"]


@pytest.mark.parametrize("chosen", RUNS.values(), ids=RUNS)
def test_node(capsys: pytest.CaptureFixture[str], tmp_path: Path, chosen: str) -> None:
    ensure_packages(("mmdebstrap",))
    ensure_debian_template()
    words = ["-v", "-p", "no:cacheprovider", "--timeout=600"]
    # What they leave in tmp_path adds up to gigabytes.
    words += ["-o", "tmp_path_retention_policy=none"]
    words += shlex.split(chosen)
    ran = pytest_inside(capsys, tmp_path, words, timeout_s=NODE_TIMEOUT_S, disks=("2G", "2G"))
    assert ran["tests"] > 0
    assert ran["skipped"] == 0


def test_status_output_and_files_come_back(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("handed in\n")
    out = bytearray()
    script = "cat '/opt/a b/given'; cp /etc/hostname /results/; sleep 99 & echo err >&2; exit 7"
    outcome = vm.run_command(
        ["sh", "-c", script],
        results=tmp_path / "results",
        output=out.extend,
        put=[(tmp_path / "given", "/opt/a b/given")],
        timeout_s=60,
    )
    assert outcome.status == 7
    assert bytes(out) == (tmp_path / "results/output.log").read_bytes() == b"handed in\nerr\n"
    assert (tmp_path / "results/hostname").read_text() == "vzpy-vm\n"
    assert (tmp_path / "results/dmesg.log").stat().st_size


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(boot.VMTimeout, match="did not end within 2 s(?s:.*)nearly there"):
        vm.run_command(
            ["sh", "-c", "echo nearly there; sleep 1000"],
            results=tmp_path,
            output=lambda _: None,
            timeout_s=2,
        )


def test_a_panic_is_told_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(VMError, match="stopped before .*(?s:.*)Kernel panic .* sysrq"):
        vm.run_command(
            ["sh", "-c", "echo c >/proc/sysrq-trigger"],
            results=tmp_path,
            output=lambda _: None,
            timeout_s=60,
        )
