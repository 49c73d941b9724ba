"""What more than one file of unit tests stands on."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def tree(tmp_path):
    """A directory that stands for the root of a VPS."""
    (tmp_path / "etc/systemd").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def root(tree):
    """The same, open."""
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
