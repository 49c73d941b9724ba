"""One of everything that a file system can hold, put into a VPS, and a picture of all files of a
stopped VPS that is the same in whatever layout they lie."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from pathlib import Path

from vzpy.story.area import Area

NET_RAW = struct.pack("<5I", 2 << 24 | 1, 1 << 13, 0, 0, 0)
HOLE = 3 << 20
_CAPABILITY, _ACL = "security.capability", "system.posix_acl_access"


def acl(user: int, group: int) -> bytes:
    """user::rw- and one more user and group, mask, other."""
    rows = [(1, 6, -1), (2, 4, user), (4, 4, -1), (8, 4, group), (16, 4, -1), (32, 4, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)


def furnish(vps) -> None:
    """Put them in; what the template has is changed, removed and replaced too."""
    area = Area(vps.private, vps.layout, vps.ids)
    root, base = area.open(), area.ids.base
    try:
        _furnish(Path(f"/proc/self/fd/{root}/."), base)
    finally:
        os.close(root)


def _furnish(root: Path, base: int) -> None:
    home = root / "home" / "one"
    home.mkdir(parents=True)
    for name in ("plain", "su", "ping", "acl", "user", "first"):
        (home / name).write_text(name)
    os.link(home / "first", root / "etc" / "second")
    os.symlink("/etc/passwd", home / "link")
    os.mkfifo(home / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(home)
        sock.bind("socket")
        os.chdir(here)
    os.mknod(home / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open(home / "sparse", "wb") as file:
        file.seek(HOLE)
        file.write(b"end")
    (home / os.fsdecode(b"n\xff\n\\")).write_bytes(b"")
    deep = os.open(home, os.O_RDONLY)
    for _ in range(40):  # longer than a path can be
        os.mkdir("d" * 200, dir_fd=deep)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(os.open("bottom", os.O_CREAT, 0o600, dir_fd=deep))
    os.close(deep)
    for _, folders, files, fd in os.fwalk(home):
        for name in (".", *folders, *files):
            os.chown(name, base, base, dir_fd=fd, follow_symlinks=False)
    os.chown(home / "plain", base + 65535, base + 100)
    os.chmod(home / "su", 0o4755)
    value = struct.pack("<I", 3 << 24 | 1) + NET_RAW[4:] + struct.pack("<I", base)
    os.setxattr(home / "ping", _CAPABILITY, value)
    os.setxattr(home / "acl", _ACL, acl(base + 5, base + 6))
    os.setxattr(home / "user", "user.note", b"kept")
    os.chmod(home, 0o1711)
    # of the template: gone, replaced by another kind, changed without a trace in size and time
    (root / "etc/issue").unlink(missing_ok=True)
    for name in ("bin/ls", "bin/cp"):
        (root / name).unlink()
    (root / "bin/cp").mkdir()
    os.chown(root / "bin/cp", base, base)
    target = root / "etc/group"
    about, text = target.stat(), target.read_bytes()
    target.write_bytes(text[:-2] + b"X\n")
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))
    os.utime(home, ns=(1, 2_000_000_003))


def picture(vps) -> dict[str, tuple[object, ...]]:
    """path -> kind, mode, owner as the VPS sees it, time, names, target or content, attributes."""
    area = Area(vps.private, vps.layout, vps.ids)
    root, base = area.open(), area.ids.base
    top = os.open(".", os.O_RDONLY, dir_fd=root)
    found: dict[str, tuple[object, ...]] = {}
    try:
        for path, folders, files, fd in os.fwalk(".", dir_fd=top):
            if path == ".":
                found["."] = _about(".", fd, base)
            for name in (*folders, *files):
                found[f"{path}/{name}"] = _about(name, fd, base)
        found.pop("./lost+found", None)  # of e2fsck
    finally:
        os.close(top)
        os.close(root)
    return found


def _about(name: str, fd: int, base: int) -> tuple[object, ...]:
    about = os.stat(name, dir_fd=fd, follow_symlinks=False)
    at = f"/proc/self/fd/{fd}/{name}"
    kind = stat.S_IFMT(about.st_mode)
    content: object = about.st_rdev
    if kind == stat.S_IFLNK:
        content = os.readlink(name, dir_fd=fd)
    elif kind == stat.S_IFREG:
        content = about.st_size, hashlib.sha256(Path(at).read_bytes()).hexdigest()
    elif kind == stat.S_IFDIR:
        content = None
    names = 0 if kind == stat.S_IFDIR else about.st_nlink
    owner = about.st_uid - base, about.st_gid - base
    kept = {} if kind == stat.S_IFLNK else _attributes(at, base)
    time = 0 if content == os.makedev(0, 0) else about.st_mtime_ns
    return kind, about.st_mode, owner, time, names, content, kept


def _attributes(at: str, base: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in os.listxattr(at):
        value = os.getxattr(at, name)
        if name == _CAPABILITY:
            root = struct.unpack("<I", value[20:])[0] if len(value) > 20 else base
            found[name] = value[4:20], root - base
        elif name == _ACL:
            rows = struct.iter_unpack("<HHI", value[4:])
            found[name] = [(tag, perm, who - base if tag in (2, 8) else 0)
                           for tag, perm, who in rows]
        elif not name.startswith("trusted."):
            found[name] = value
    return found
