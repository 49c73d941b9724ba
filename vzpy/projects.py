"""Project ids: which quota file has which number on the file systems of this machine.

One registry a machine, whatever the node, so that two quotas never count together. It is a text
file, one line each: project, quota file, and PID:STARTTIME of who took it. A number is free again
when its quota file and that process are gone."""

from __future__ import annotations

import os

from vzpy.errors import VzError
from vzpy.kernel.proc import starttime
from vzpy.lockfile import Flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/var/lib/vzctl/projects"
# What others use: projid(5) and projects(5) of xfs_quota(8).
RESERVED = ("/etc/projid", "/etc/projects")
# Beyond every CTID: for quotas whose own number is another's.
_SPARE_FIRST, _SPARE_LAST = 0x80000000, 0xFFFFFFF0


class Registry:
    """Methods may be called from many processes at once. Raises VzError 3: not to be used."""

    def __init__(self, path: str = PATH) -> None:
        self.path = path

    def entries(self) -> dict[str, tuple[int, str]]:
        """Quota file -> (project, holder)."""
        found = {}
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().split("\n")
            for line in filter(None, lines):
                project, holder, name = line.split("\t", 2)
                found[name] = (int(project), holder)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as err:
            raise VzError(f"Unable to use the registry of project ids {self.path}: {err}",
                          hint="Remove it: it is made anew from the private areas.") from err
        return found

    def claim(
        self, quota_file: str, wanted: int, present: int, unused: Callable[[int], bool]
    ) -> int:
        """The project of a quota, its own from now on.

        wanted   the number it gets if nobody has it
        present  what the directory carries already: kept unless it is another's; 0: nothing
        unused   tells of a number whether the file system counts nothing for it"""
        quota_file = os.path.abspath(quota_file)
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with Flock(f"{self.path}.lck"):
                entries = {n: e for n, e in self.entries().items() if _held(n, e[1])}
                own = entries.pop(quota_file, None)
                taken = {project for project, _ in entries.values()}
                if own and (own[0] == present or unused(own[0])):
                    project = own[0]
                elif present and present not in taken:
                    project = present
                else:
                    taken |= _reserved()
                    spare = range(_SPARE_FIRST, _SPARE_LAST)
                    candidates = (n for some in ((wanted,), spare) for n in some)
                    project = next(n for n in candidates if n and n not in taken and unused(n))
                entries[quota_file] = (project, _myself())
                self._write(entries)
                return project
        except OSError as err:
            raise VzError.of("Unable to write the registry of project ids", err) from err

    def release(self, quota_file: str) -> None:
        """The quota is no more. Absence is success."""
        try:
            with Flock(f"{self.path}.lck"):
                entries = self.entries()
                if entries.pop(os.path.abspath(quota_file), None):
                    self._write(entries)
        except OSError as err:
            raise VzError.of("Unable to write the registry of project ids", err) from err

    def file_of(self, project: int) -> str:
        """The quota file of a project, "" when it is nobody's."""
        return next((name for name, (own, _) in self.entries().items() if own == project), "")

    def _write(self, entries: dict[str, tuple[int, str]]) -> None:
        new = f"{self.path}.new"
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
            for name, (project, holder) in entries.items():
                file.write(f"{project}\t{holder}\t{name}\n")
        os.rename(new, self.path)


def _held(quota_file: str, holder: str) -> bool:
    if os.path.lexists(quota_file):
        return True
    pid, _, started = holder.partition(":")
    try:
        return starttime(int(pid)) == int(started)
    except (OSError, ValueError):
        return False


def _myself() -> str:
    pid = os.getpid()
    return f"{pid}:{starttime(pid)}"


def _reserved() -> set[int]:
    found = set()
    for path in RESERVED:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                words = [word for line in file for word in line.strip().split(":")]
        except OSError:
            continue
        found |= {int(word) for word in words if word.isascii() and word.isdigit()}
    return found
