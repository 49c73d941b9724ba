"""Linters are tests: red here is red in CI, and one run tells all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=lambda c: c[0])
def test_python(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


def test_shell():
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    scripts = [ROOT / ".ci/run", *ROOT.glob("**/*.sh"), ROOT / "templates/system/vz.init"]
    ours = [s for s in scripts if s.is_file() and not s.is_relative_to(ROOT / ".venv")]
    done = subprocess.run(["shellcheck", *ours], text=True, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
