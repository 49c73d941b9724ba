"""Unpacking an OS template's tarball: format, space, and the enclosed program that does it."""

from __future__ import annotations

import errno
import os

from vzpy.errors import Exit, VzError
from vzpy.model import RANGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen

    from vzpy.model import IdRange

    Progress = Callable[[int, int], None]  # done, total, in whatever the work is counted

# magic, program, Debian's package, how many times larger the content is (templates.md 1)
FORMATS = (
    (b"\x1f\x8b", "gzip", "gzip", 3.0),
    (b"BZ", "bzip2", "bzip2", 3.0),
    (b"\xfd7zXZ", "xz", "xz-utils", 4.7),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd", 4.0),
    (b"\x04\x22\x4d\x18", "lz4", "lz4", 2.5),
)
TICK = 0.1  # seconds between two reports of progress


def unpack(
    tarball: str,
    dest: str,
    ids: IdRange | None = None,
    progress: Progress | None = None,
) -> None:
    """Unpack `tarball` into the directory `dest`, which is there and empty.

    Owners as in the archive, or shifted into `ids`; then only harmless device nodes are made.
    What is left in `dest` after a failure is the caller's to remove.
    Errors: 46 no space, 47 not an archive, damaged, an owner beyond the range."""
    source = _open(tarball)
    try:
        program = _decompressor(tarball, source)
        needed, available = content_size(source), available_space(dest)
        if available < needed:
            raise no_space(dest, available, needed)
        _run(tarball, source, program, dest, ids, progress)
    finally:
        os.close(source)


def check(tarball: str, ids: IdRange) -> None:
    """Look it through, to its end. Raises 47 as unpack() does, but for what only a write shows."""
    source = _open(tarball)
    try:
        _run(tarball, source, _decompressor(tarball, source), "", ids, None)
    finally:
        os.close(source)


def _open(tarball: str) -> int:
    try:
        return os.open(tarball, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise VzError.of("Cannot open the OS template", err, Exit.FS_BAD_TMPL) from None


def _format(source: int) -> tuple[bytes, str, str, float] | None:
    """By the first bytes, whatever the name says; None is a plain tar."""
    head = os.pread(source, 8, 0)
    return next((f for f in FORMATS if head.startswith(f[0])), None)


def _decompressor(tarball: str, source: int) -> str | None:
    """Full path of the program that decompresses it; None when it is not compressed."""
    found = _format(source)
    if found is None:
        return None
    from shutil import which

    _, program, package, _ = found
    if path := which(program):
        return path
    raise VzError(
        f"Cannot unpack {tarball}: {program} is not installed",
        Exit.FS_BAD_TMPL,
        hint=f"apt-get install {package}",
    )


def read_members(tarball: str, wanted: set[str], most: int) -> dict[str, bytes]:
    """The bytes of some regular files of an archive, looked for up to the first `most` bytes after
    which none was found.

    Errors: 47 not an archive, damaged."""
    import sys
    from subprocess import DEVNULL, PIPE, Popen

    source = _open(tarball)
    children: list[Popen[bytes]] = []
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        stdin = source
        if program := _decompressor(tarball, source):
            reader = Popen([program, "-dc"], stdin=source, stdout=PIPE, stderr=DEVNULL, env={})
            children.append(reader)
            stdin = reader.stdout.fileno()  # type: ignore[union-attr]
        command = [sys.executable, "-IS", f"{here}/tarpeek.py", str(most), *sorted(wanted)]
        writer = Popen(command, stdin=stdin, stdout=PIPE, stderr=DEVNULL, env={})
        children.append(writer)
        found = writer.communicate()[0]
    finally:
        os.close(source)
        for child in children:
            child.kill()
            child.wait()
    if writer.returncode:
        raise _damaged(tarball, "", hint="")
    pieces = {}
    while found:
        head, _, rest = found.partition(b"\n")
        name, size = head.rsplit(b" ", 1)
        pieces[os.fsdecode(name)], found = rest[: int(size)], rest[int(size) :]
    return pieces


_GZIP_MOST = 1032  # bytes from one, at the most


def content_size(source: int) -> int:
    """Bytes in the tarball when it is decompressed: known for plain and gzip, else a guess."""
    size = os.fstat(source).st_size
    found = _format(source)
    if found is None:
        return size
    if found[1] == "gzip" and size >= 18:
        content = int.from_bytes(os.pread(source, 4, size - 4), "little")
        # Smaller, it is given modulo 2^32; larger than deflate can do, the file is cut short.
        if size * 0.9 < content < size * _GZIP_MOST:
            return content
    return int(size * found[3])


def no_space(dest: str, available: int, needed: int) -> VzError:
    return VzError(
        f"Insufficient disk space in {dest};"
        f" available: {available // 1024}, needed: {-(-needed // 1024)}",
        Exit.FS_NO_DISK_SPACE,
        errno=errno.ENOSPC,
    )


def available_space(path: str) -> int:
    """Bytes that root may still write there."""
    fs = os.statvfs(path)
    return fs.f_bfree * fs.f_frsize


def command(dest: str, ids: IdRange | None) -> list[str]:
    """What unpacks its standard input into a directory; why it failed is its output."""
    import sys

    untar = os.path.join(os.path.dirname(os.path.abspath(__file__)), "untar.py")
    base, count, devices = (ids.base, ids.count, "harmless") if ids else (0, RANGE, "all")
    return [sys.executable, "-IS", untar, dest, str(base), str(count), devices]


def _run(
    tarball: str,
    source: int,
    program: str | None,
    dest: str,
    ids: IdRange | None,
    progress: Progress | None,
) -> None:
    """PROGRAM -dc < tarball | untar.py dest"""
    from subprocess import DEVNULL, PIPE, Popen

    os.lseek(source, 0, os.SEEK_SET)
    children = []
    try:
        stdin = source
        if program:
            reader = Popen([program, "-dc"], stdin=source, stdout=PIPE, stderr=PIPE, env={})
            children.append(reader)
            stdin = reader.stdout.fileno()  # type: ignore[union-attr]
        writer = Popen(command(dest, ids), stdin=stdin, stdout=PIPE, stderr=DEVNULL, env={})
        children.append(writer)
        if program:
            reader.stdout.close()  # type: ignore[union-attr]  # it ends when the writer does
        _watch(writer, source, progress)
        failure = writer.communicate()[0]
        complaint = reader.communicate()[1] if program else b""
    finally:
        for child in children:
            child.kill()
            child.wait()
    if writer.returncode:
        raise explained(tarball, dest, failure, complaint)
    if program and reader.returncode:
        raise _damaged(tarball, complaint.decode(errors="replace"))


def _watch(child: Popen[bytes], source: int, progress: Progress | None) -> None:
    """Report until `child` ends. Whoever reads the tarball shares the file offset with us."""
    from subprocess import TimeoutExpired

    size = os.fstat(source).st_size
    while progress:
        progress(min(os.lseek(source, 0, os.SEEK_CUR), size), size)
        try:
            child.wait(TICK)
            break
        except TimeoutExpired:
            pass


def _damaged(
    tarball: str, text: str, hint: str = "Make or fetch this cache again."
) -> VzError:
    return VzError(
        f"Cannot unpack {tarball}: {' '.join(text.split()) or 'it is damaged'}",
        Exit.FS_BAD_TMPL,
        hint=hint,
    )


def explained(tarball: str, dest: str, failure: bytes, complaint: bytes = b"") -> VzError:
    """What untar.py wrote before it ended, as an error; `complaint` is the decompressor's."""
    number, _, rest = failure.decode("utf-8", "surrogateescape").partition("\0")
    name, _, text = rest.partition("\0")
    code = int(number) if number.isdecimal() else 0
    if code in (errno.ENOSPC, errno.EDQUOT):
        return VzError(
            f"Insufficient disk space in {dest}; available: 0, needed: more than was estimated",
            Exit.FS_NO_DISK_SPACE,
            errno=code,
            hint=f"Unpacking {tarball} filled it; what was written is removed.",
        )
    if code in (0, errno.EBADMSG):
        return _damaged(tarball, complaint.decode(errors="replace") or text)
    where = f"{name}: " if name else ""
    return VzError(f"Cannot unpack {tarball}: {where}{text}", Exit.FS_BAD_TMPL, errno=code)
