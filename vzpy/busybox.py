"""The builder of the embedded template: a tarball around the machine's static busybox.

No file of it is made on the host, only the tarball: the same busybox gives the same bytes."""

from __future__ import annotations

import os

from vzpy import elf
from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile

PATHS = ("/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/usr/local/bin/busybox")
HINT = "apt-get install busybox-static"
# older than anything: a tree that never changes needs no date of its build
EPOCH = 1_000_000_000


def build(recipe: dict[str, object], scratch: str) -> str:
    """Write SCRATCH/cache.tar. Raises VzError 47 when the machine has no static busybox for it."""
    import io
    import tarfile

    busybox = find(str(recipe["arch"]))
    applets = applet_paths(busybox, set(map(str, _list(recipe, "without"))))
    tarball = os.path.join(scratch, "cache.tar")
    with tarfile.open(tarball, "w", format=tarfile.GNU_FORMAT) as tar:
        made: set[str] = set()

        def member(path: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
            parents(path)
            info = tarfile.TarInfo("." + path)
            info.mode, info.type, info.mtime = mode, kind, EPOCH
            made.add(path)
            return info

        def parents(path: str) -> None:
            parent = os.path.dirname(path)
            if parent != "/" and parent not in made:
                tar.addfile(member(parent, 0o755, tarfile.DIRTYPE))

        def link(path: str, target: str) -> None:
            info = member(path, 0o777, tarfile.SYMTYPE)
            info.linkname = target
            tar.addfile(info)

        def file(path: str, mode: int, content: bytes) -> None:
            info = member(path, mode)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        tar.addfile(member("/", 0o755, tarfile.DIRTYPE))
        for path, mode in _mapping(recipe, "directories").items():
            tar.addfile(member(str(path), _mode(path, mode), tarfile.DIRTYPE))
        with open(busybox, "rb") as program:
            file("/bin/busybox", 0o755, program.read())
        for path in applets:
            link(path, "/bin/busybox")
        for path, target in _mapping(recipe, "links").items():
            link(str(path), str(target))
        for path, content in _mapping(recipe, "files").items():
            if not isinstance(content, dict) or not isinstance(content.get("text"), str):
                raise VzError(f"recipe: files: {path}: needs a text", Exit.FS_BAD_TMPL)
            mode = _mode(path, content.get("mode", 0o644))
            file(str(path), mode, content["text"].encode())
    return tarball


def find(arch: str) -> str:
    """Path of the machine's static busybox."""
    found = [path for path in PATHS if os.path.isfile(path)]
    for path in found:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = elf.read(fd)
        finally:
            os.close(fd)
        if header and header.static:
            if header.machine != arch:
                raise VzError(
                    f"{path} is for {header.machine}, this template is for {arch}",
                    Exit.FS_BAD_TMPL,
                )
            return path
    what = f"{found[0]} is not statically linked" if found else "busybox is not installed"
    raise VzError(f"Cannot build the template: {what}", Exit.FS_BAD_TMPL, hint=HINT)


def applet_paths(busybox: str, without: set[str]) -> list[str]:
    """Where this busybox wants its names, e.g. /sbin/init; `busybox` itself is not among them."""
    import subprocess

    listing = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, env={})
    paths = sorted("/" + line for line in listing.stdout.split())
    if "/sbin/init" not in paths:
        raise VzError(f"{busybox} has no init", Exit.FS_BAD_TMPL, hint=HINT)
    names = without | {"busybox"}
    return [path for path in paths if os.path.basename(path) not in names]


def _mapping(recipe: dict[str, object], key: str) -> dict[object, object]:
    value = recipe.get(key, {})
    assert isinstance(value, dict)  # recipe.load has checked
    for path in value:
        if not isinstance(path, str) or os.path.normpath(path) != path or path[:1] != "/":
            raise VzError(f"recipe: {key}: {path!r} is not an absolute path", Exit.FS_BAD_TMPL)
    return value


def _list(recipe: dict[str, object], key: str) -> list[object]:
    value = recipe.get(key, [])
    assert isinstance(value, list)
    return value


def _mode(path: object, mode: object) -> int:
    """YAML 1.1 reads 0755 as octal."""
    if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise VzError(f"recipe: {path}: {mode!r} is not a mode like 0755", Exit.FS_BAD_TMPL)
    return mode
