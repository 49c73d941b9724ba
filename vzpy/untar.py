"""The program that unpacks an OS template, chrooted where it unpacks.

    python3 -IS untar.py DEST BASE COUNT DEVICES < TAR     one failure on stdout: errno, name, text
    python3 -IS untar.py "" BASE COUNT DEVICES < TAR       only looked through, to its end

An archive is a stranger's. Names with `..`, absolute names and links through links cannot leave a
chroot, and a device node of the archive cannot be opened on a nodev mount, so nothing here has to
reason about names. It is a process of its own, not a fork of the tool: the tool may have threads,
and after chroot(2) no import, codec or NSS library of the guest can be loaded (DESIGN 2.4), since
all is imported before and sys.path is empty. It imports nothing of this package, therefore."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import sys
import tarfile

CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 2, 4, 8, 32, 4096
MS_REC, MS_SLAVE = 16384, 1 << 19
PR_SET_PDEATHSIG, SIGKILL = 1, 9

CHUNK = 1 << 20
MEMORY = 512 << 20  # address space: a header may claim to be gigabytes long
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

XATTR, ACL = "SCHILY.xattr.", "SCHILY.acl."
KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")  # never trusted.overlay.*
# linux/capability.h: struct vfs_ns_cap_data
CAP_REVISION_MASK, CAP_REVISION_3 = 0xFF000000, 0x03000000
# linux/posix_acl_xattr.h
ACL_USER, ACL_GROUP = 0x02, 0x08
ACL_TAGS = {"user": 0x01, "group": 0x04, "mask": 0x10, "other": 0x20}

# null zero full random urandom; tty console ptmx
HARMLESS = {(1, n) for n in (3, 5, 7, 8, 9)} | {(5, n) for n in (0, 1, 2)}


class Refused(Exception):
    """The archive asks for something that a VPS cannot have: (name, text)."""


def enclose(dest: str) -> None:
    """See of the host nothing but `dest`, mounted so that no node of it opens a device."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(what: str, result: int) -> None:
        if result < 0:
            err = ctypes.get_errno()
            raise OSError(err, f"{what}: {os.strerror(err)}", dest)

    path = os.fsencode(dest)
    fenced = MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC
    check("prctl", libc.prctl(PR_SET_PDEATHSIG, SIGKILL))
    check("unshare", libc.unshare(CLONE_NEWNS))
    check("mount", libc.mount(None, b"/", None, ctypes.c_ulong(MS_SLAVE | MS_REC), None))
    check("mount", libc.mount(path, path, None, ctypes.c_ulong(MS_BIND), None))
    check("mount", libc.mount(None, path, None, ctypes.c_ulong(fenced), None))
    os.chroot(dest)
    os.chdir("/")
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()


class Member(tarfile.TarInfo):
    """tarfile takes a header that makes no sense, and an end without its mark, for the end of the
    archive: half of it would be a success."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as err:
            raise tarfile.ReadError(f"unexpected end, or a damaged header: {err}") from None


class Unpacker:
    """Writes the members of one archive below the current root, owners shifted by `base`."""

    def __init__(self, base: int, count: int, all_devices: bool) -> None:
        self.base = base
        self.count = count
        self.all_devices = all_devices
        self.directories: list[tarfile.TarInfo] = []

    def run(self, stream: object) -> None:
        os.umask(0)
        tar = tarfile.open(
            fileobj=stream,  # type: ignore[call-overload]
            mode="r|",
            bufsize=CHUNK,
            tarinfo=Member,
            encoding="utf-8",
            errors="surrogateescape",
        )
        while (member := tar.next()) is not None:
            self.member(tar, member)
            tar.members.clear()  # tarfile keeps them all, for archives that can seek
        # inner ones first: a mode without w or x, and the times, are set when all is inside
        for directory in reversed(self.directories):
            if stat.S_ISDIR(os.lstat(directory.name).st_mode):
                self.attributes(directory, directory.name)

    def member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        # in a chroot "/.." is "/", so the kernel has the last word on what is left of the name
        member.name = name = "/" + member.name.strip("/")
        if name in ("/", "/."):
            member.name = "/"
            self.directories.append(member)
            return
        make_room(name, member.isdir(), self.base)
        if member.isdir():
            if not os.path.isdir(name):
                os.mkdir(name, 0o700)
            self.directories.append(member)
        elif member.issym():
            os.symlink(member.linkname, name)
            self.attributes(member, name)
        elif member.islnk():
            os.link("/" + member.linkname.lstrip("/"), name, follow_symlinks=False)
        elif member.isdev():
            if self.node(member, name):
                self.attributes(member, name)
        elif member.type != b"V":  # the label of an archive; what is unknown is a file (pax(1))
            self.file(tar, member, name)

    def node(self, member: tarfile.TarInfo, name: str) -> bool:
        if member.isfifo():
            os.mkfifo(name, 0o600)
            return True
        device = (member.devmajor, member.devminor)
        if not self.all_devices and (member.isblk() or device not in HARMLESS):
            return False
        kind = stat.S_IFBLK if member.isblk() else stat.S_IFCHR
        os.mknod(name, kind | 0o600, os.makedev(*device))
        return True

    def file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        """A regular file, its holes kept. O_EXCL: never into what an earlier member put there."""
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            source = tar.fileobj
            assert source is not None
            sparse: list[tuple[int, int]] | None = member.sparse  # type: ignore[assignment]
            for offset, size in [(0, member.size)] if sparse is None else sparse:
                if offset != os.lseek(fd, 0, os.SEEK_CUR):
                    os.lseek(fd, offset, os.SEEK_SET)
                while size > 0:
                    data = source.read(min(size, CHUNK))
                    if not data:
                        raise tarfile.ReadError("unexpected end of data")
                    size -= len(data)
                    while data:
                        data = data[os.write(fd, data) :]
            if sparse is not None:
                os.ftruncate(fd, member.size)
            self.attributes(member, fd)
        except OSError as err:
            err.filename = name
            raise
        finally:
            os.close(fd)

    def attributes(self, member: tarfile.TarInfo, at: int | str) -> None:
        """Owner, then mode (chown clears set-id bits), then xattrs (it clears capabilities too)."""
        uid, gid = self.shift(member, "user", member.uid), self.shift(member, "group", member.gid)
        follow = isinstance(at, int)
        os.chown(at, uid, gid, follow_symlinks=follow)
        if not member.issym():
            os.chmod(at, member.mode & 0o7777)
        for key, text in member.pax_headers.items():
            if key.startswith(XATTR):
                name, value = key[len(XATTR) :], text.encode("utf-8", "surrogateescape")
            elif key in (ACL + "access", ACL + "default"):
                name, value = "system.posix_acl_" + key[len(ACL) :], acl_from_text(text)
            else:
                continue
            if name.startswith(KEPT_XATTRS) and value and not member.issym():
                set_xattr(at, name, self.shift_xattr(member, name, value))
        when = nanoseconds(member.pax_headers.get("mtime") or str(member.mtime))
        os.utime(at, ns=(when, when), follow_symlinks=follow)

    def shift(self, member: tarfile.TarInfo, kind: str, number: int) -> int:
        if not 0 <= number < self.count:
            text = f"belongs to {kind} {number}, a VPS has only 0 to {self.count - 1}"
            raise Refused(member.name, text)
        return self.base + number

    def shift_xattr(self, member: tarfile.TarInfo, name: str, value: bytes) -> bytes:
        """The ids inside an extended attribute, as the host has to see them."""
        if self.base == 0:
            return value
        if name == "security.capability" and len(value) >= 20:
            magic, *sets = struct.unpack("<5I", value[:20])
            root = struct.unpack("<I", value[20:24])[0] if len(value) >= 24 else 0
            magic = magic & ~CAP_REVISION_MASK | CAP_REVISION_3
            return struct.pack("<6I", magic, *sets, self.shift(member, "root", root))
        if name.startswith("system.posix_acl_"):
            out = value[:4]
            for tag, perm, number in struct.iter_unpack("<HHI", value[4:]):
                if tag in (ACL_USER, ACL_GROUP):
                    number = self.shift(member, "user or group", number)
                out += struct.pack("<HHI", tag, perm, number)
            return out
        return value


class Reader(Unpacker):
    """Writes nothing: would it be unpacked?"""

    def member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.shift(member, "user", member.uid)
        self.shift(member, "group", member.gid)


def nanoseconds(seconds: str) -> int:
    """A time of the archive; what float(2) would round off is kept. Never before 1970."""
    whole, _, rest = seconds.partition(".")
    if not (whole + rest).isdecimal():
        return max(int(float(seconds) * 1e9), 0)
    return int(whole) * 10**9 + int(rest[:9].ljust(9, "0"))


def set_xattr(at: int | str, name: str, value: bytes) -> None:
    try:
        os.setxattr(at, name, value)
    except OSError as err:
        # a file system without ACLs or user attributes serves; without a capability ping fails
        if err.errno != errno.ENOTSUP or name == "security.capability":
            raise


def make_room(name: str, directory: bool, owner: int) -> None:
    """Let `name` be made: its parents are there, the owner's where the archive has none of them,
    and of two members with one name the later wins.

    A directory that holds something is never replaced: OSError ENOTEMPTY."""
    try:
        found = os.lstat(name).st_mode
    except FileNotFoundError:
        make_folders(os.path.dirname(name), owner)
        return
    if stat.S_ISDIR(found):
        if not directory:
            os.rmdir(name)
    else:
        os.unlink(name)


def make_folders(path: str, owner: int) -> None:
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
        os.chown(folder, owner, owner)


def acl_from_text(text: str) -> bytes:
    """acl_to_text(3) as tar writes it, `user::rwx,user:1000:r-x,...` -> the xattr's bytes.

    b"" when it names a user or group: names are the archive's maker's, ids are what counts."""
    entries = []
    for entry in text.replace(",", "\n").split():
        fields = entry.split(":")
        if len(fields) < 3 or fields[0] not in ACL_TAGS:
            return b""
        tag, number = ACL_TAGS[fields[0]], 0xFFFFFFFF
        if who := fields[3] if len(fields) > 3 else fields[1]:
            if not who.isdecimal():
                return b""
            tag, number = (ACL_USER if fields[0] == "user" else ACL_GROUP), int(who)
        perm = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in fields[2])
        entries.append((tag, number, perm))
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, number) for tag, number, perm in sorted(entries)
    )


def main(dest: str, base: str, count: str, devices: str) -> int:
    failure = (0, "", "")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if dest:
            enclose(dest)
        stream = os.fdopen(0, "rb", buffering=0)
        kind = Unpacker if dest else Reader
        kind(int(base), int(count), devices == "all").run(stream)
        while os.read(0, CHUNK):
            pass  # padding: the decompressor checks its sums at the very end
    except Refused as err:
        failure = (errno.EINVAL, *err.args)
    except OSError as err:
        name = err.filename if isinstance(err.filename, str) else ""
        failure = (err.errno or errno.EIO, name, err.strerror or str(err))
    except MemoryError:
        failure = (errno.EBADMSG, "", "a header is too long")
    except Exception as err:  # tarfile raises whatever a bad header leads to; no traceback in here
        failure = (errno.EBADMSG, "", str(err) or type(err).__name__)
    if failure[0]:
        number, name, text = failure
        os.write(1, f"{number}\0{name}\0{text}".encode("utf-8", "surrogateescape"))
    return 1 if failure[0] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
