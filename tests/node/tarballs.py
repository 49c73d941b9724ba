"""Archives of every kind."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest


class Archive:
    """A tarball made member by member, as no honest tar would."""

    def __init__(self, path: Path, **kw) -> None:
        self.path = path
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT, **kw)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o644, **fields) -> Archive:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, len(data), 1e9
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def link(self, name, target, kind=tarfile.SYMTYPE) -> Archive:
        return self.add(name, kind, linkname=target)

    def close(self) -> str:
        self.tar.close()
        return str(self.path)


def tool(name: str) -> str:
    if not (path := shutil.which(name)):
        pytest.skip(f"needs {name}")
    return path
