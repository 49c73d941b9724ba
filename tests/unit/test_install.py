"""What the package carries along: data files, versions, launchers."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

import vzpy
from vzpy import data

ROOT = Path(__file__).parents[2]


def test_data_files_are_found_from_a_checkout():
    assert os.path.samefile(data.path("conf", "vz.conf"), ROOT / "templates/conf/vz.conf")
    assert "VE_LAYOUT" in data.read("conf", "vz.conf")


def test_every_tool_of_the_makefile_has_a_console_script_and_back():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("TOOLS"))
    assert set(line.partition(":=")[2].split()) == set(scripts)


@pytest.mark.parametrize("script", [".ci/run", "tools/need.sh", "tools/demo.sh"])
def test_shell_scripts_parse(script):
    shell = (ROOT / script).read_text().split("\n", 1)[0].removeprefix("#!").split()
    subprocess.run([*shell, "-n", ROOT / script], check=True)
    assert os.access(ROOT / script, os.X_OK)


def test_licence_and_version():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert vzpy.__version__.count(".") == 2
