"""What a distribution needs from outside: host name, hosts, a locked root, no inherited identity.

A distribution is known by its files, not by its template's name. All is done on the mounted root,
before the VPS runs or while it runs, so every path is the guest's: it is opened with openat2(2),
RESOLVE_IN_ROOT, and a file is replaced by a new one beside it, never written through. `shift` is
what the guest's root is on the host."""

from __future__ import annotations

import _stat as stat
import errno
import os

from vzpy.errors import Exit, VzError
from vzpy.kernel.mount import openat2
from vzpy.kernel.process import set_fs_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vzpy.model import IdRange

MAX_SIZE = 1 << 20  # a configuration file of a guest that is longer is left alone
HOSTS_MARK = "# Auto-generated hostname. Please do not remove this comment."
LOOPBACK = ("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback")
# where a host name is kept, and how; the first always, the others when they are there
HOSTNAME_FILES = (
    ("etc/hostname", ""),  # Debian, Arch, Alpine, whatever has systemd
    ("etc/HOSTNAME", ""),  # SUSE, Slackware
    ("etc/sysconfig/network", "HOSTNAME"),  # Red Hat before systemd, ALT
    ("etc/conf.d/hostname", "hostname"),  # OpenRC
)
SHELL = "/bin/sh"
# Seeds and keys of systemd, OpenRC and sysvinit; each makes them anew.
RANDOM_STATE = (
    "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret",
    "var/lib/misc/random-seed", "var/lib/urandom/random-seed", "var/lib/seedrng/seed.credit",
    "var/lib/seedrng/seed.no-credit",
)  # fmt: skip


def post_create(root: int, ids: IdRange) -> None:
    """What a new VPS must not have from its template, and what it must have (config-files 8).

    root  descriptor of the mounted root
    Raises VzError of what could not be written."""
    shift = ids.base
    _lock_root(root, shift)
    _forget_identity(root, shift)
    _ensure_hosts(root, shift)
    if not exists(root, "etc/resolv.conf"):
        write(root, "etc/resolv.conf", b"", shift)
    crontab = read(root, "etc/crontab")
    if crontab is not None:
        write(root, "etc/crontab", spread_crontab(crontab, os.urandom(64)), shift)


def _lock_root(root: int, shift: int) -> None:
    """An empty password of root would let anybody in: root:: becomes root:!!:"""
    for path in ("etc/shadow", "etc/passwd"):
        text = read(root, path)
        if text and (b"\n" + text).find(b"\nroot::") >= 0:
            write(root, path, (b"\n" + text).replace(b"\nroot::", b"\nroot:!!:", 1)[1:], shift)


def _forget_identity(root: int, shift: int) -> None:
    """Two systems with one machine-id get one DHCP lease. An empty file is filled at first boot
    (machine-id(5)), from container_uuid=."""
    if read(root, "etc/machine-id"):
        write(root, "etc/machine-id", b"", shift)
    if read(root, "var/lib/dbus/machine-id") and exists(root, "etc/machine-id"):
        remove(root, "var/lib/dbus/machine-id")


def renew_identity(root: int, shift: int) -> bool:
    """A copy of a system is another system: what names it, or what it drew at random, goes.

    True when it had ssh host keys, and needs new ones."""
    _forget_identity(root, shift)
    for path in RANDOM_STATE:
        remove(root, path)
    keys = [name for name in _names(root, "etc/ssh") if name.startswith("ssh_host_")]
    for name in keys:
        remove(root, f"etc/ssh/{name}")
    return bool(keys)


def _names(root: int, path: str) -> list[str]:
    try:
        folder = openat2(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return os.listdir(folder)
    finally:
        os.close(folder)


def _ensure_hosts(root: int, shift: int) -> None:
    text = text_of(root, "etc/hosts")
    if text is None:
        return
    lines = text.splitlines()
    there = {line.split()[0] for line in lines if line.split()}
    missing = [f"{address}\t{names}" for address, names in LOOPBACK if address not in there]
    if missing:
        write_lines(root, "etc/hosts", missing + lines, shift)


def spread_crontab(text: bytes, dice: bytes) -> bytes:
    """/etc/crontab with its fixed minutes thrown anew: else all VPSs of a node work at once.

    dice  random bytes, one a line that is changed"""
    lines, at = text.split(b"\n"), 0
    for number, line in enumerate(lines):
        minute, blank, rest = line.partition(b"\t" if b"\t" in line.split(b" ")[0] else b" ")
        if minute.isdigit() and b"cron." in rest and at < len(dice):
            lines[number] = b"%d" % (dice[at] % 60) + blank + rest
            at += 1
    return b"\n".join(lines)


def set_hostname(root: int, hostname: str, ids: IdRange, address: str = "") -> None:
    """Keep the host name where the distribution looks for it, and resolvable in /etc/hosts.

    address  the VPS's first address; without one, 127.0.1.1 stands for it
    Errors: 70 a name that no distribution could keep."""
    if not hostname or not all(c.isalnum() or c in "-._" for c in hostname) or hostname[0] == "-":
        raise VzError(f"Invalid hostname: {hostname}", Exit.BADHOSTNAME)
    shift = ids.base
    for number, (path, key) in enumerate(HOSTNAME_FILES):
        if number and not exists(root, path):
            continue
        if not key:
            write(root, path, f"{hostname}\n".encode(), shift)
            continue
        text = text_of(root, path)
        if text is not None:
            lines = [x for x in text.splitlines() if not x.lstrip().startswith(f"{key}=")]
            write_lines(root, path, [*lines, f'{key}="{hostname}"'], shift)
    hosts = text_of(root, "etc/hosts")
    if hosts is not None:
        write_lines(root, "etc/hosts", hosts_with(hosts, hostname, address), shift)


def hosts_with(text: str, hostname: str, address: str = "") -> list[str]:
    """The lines of /etc/hosts with our own entry, the two lines from HOSTS_MARK on, renewed."""
    lines = text.splitlines()
    if HOSTS_MARK in lines:
        at = lines.index(HOSTS_MARK)
        del lines[at : at + 2]
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    return [*lines, HOSTS_MARK, f"{address or '127.0.1.1'} {names}"]


# passwords

# $1 user; its password on standard input. A user that is missing is made.
PASSWORD_SCRIPT = r"""
IFS= read -r password
user=$1
has() { command -v "$1" >/dev/null 2>&1; }
known() { while IFS=: read -r name rest; do [ "$name" = "$1" ] && return 0; done; return 1; }
taken() { while IFS=: read -r n p i rest; do [ "$i" = "$1" ] && return 0; done; return 1; }
if ! known "$user" < /etc/passwd; then
    if has useradd; then useradd -m "$user"
    elif has adduser; then adduser -D "$user"
    else
        id=1000
        while taken "$id" < /etc/passwd || taken "$id" < /etc/group; do id=$((id + 1)); done
        echo "$user:x:$id:" >> /etc/group &&
        echo "$user:x:$id:$id::/home/$user:/bin/sh" >> /etc/passwd &&
        { [ ! -e /etc/shadow ] || echo "$user:!:19000:0:99999:7:::" >> /etc/shadow; } &&
        mkdir -p "/home/$user" && chmod 700 "/home/$user" && chown "$id:$id" "/home/$user"
    fi || exit 1
fi
if has chpasswd; then printf '%s:%s\n' "$user" "$password" | chpasswd
else printf '%s\n%s\n' "$password" "$password" | passwd "$user"
fi
"""


def password_script(user: str, password: str) -> tuple[list[str], bytes]:
    """(argv, standard input) of what sets a password, to be run inside the VPS.

    The password is on no command line: standard input is the only place that nobody else sees.
    Errors: 74 a name or a password that cannot be."""
    plain = user.isascii() and all(c.isalnum() or c in "-._" for c in user)
    if not user or not plain or user[0] == "-" or len(user) > 32:
        raise VzError(f"Invalid user name: {user}", Exit.CHANGEPASS)
    if any(c in password for c in "\n\r\0"):
        raise VzError("A password cannot hold line ends", Exit.CHANGEPASS)
    line = f"{password}\n".encode(errors="surrogateescape")
    return [SHELL, "-c", PASSWORD_SCRIPT, "sh", user], line


# files of the guest


def exists(root: int, path: str) -> bool:
    """Whether there is anything of that name, be it a dangling link."""
    parent, name = os.path.split(path)
    try:
        fd = openat2(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def read(root: int, path: str) -> bytes | None:
    """The content of a regular file; None when it is missing, something else, or too long."""
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_size > MAX_SIZE:
            return None
        return os.pread(fd, MAX_SIZE, 0)
    finally:
        os.close(fd)


def write(root: int, path: str, content: bytes, shift: int = 0) -> None:
    """Replace a file by a new one, with mode and owner of the old, else 0644 of the guest's root.

    A symbolic link is followed inside the root when it leads to a file, else replaced. Nothing is
    done when the content is there already, or the directory is missing. Raises VzError 3, 47."""
    if read(root, path) == content:
        return
    for _ in range(8):  # links of the last component, as few as a distribution has
        parent, name = os.path.split(path)
        try:
            folder = openat2(root, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise VzError.of(f"Cannot write /{path} in the container", err, _code(err)) from None
        try:
            target = None
            if read(root, path) is not None:
                try:
                    target = os.readlink(name, dir_fd=folder)
                except OSError:
                    pass
            if target is None:
                _replace(folder, name, content, shift)
                return
            path = os.path.join(parent, target).lstrip("/")
        except OSError as err:
            raise VzError.of(f"Cannot write /{path} in the container", err, _code(err)) from None
        finally:
            os.close(folder)


def _replace(folder: int, name: str, content: bytes, shift: int) -> None:
    mode, uid, gid = 0o644, shift, shift
    try:
        old = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(old.st_mode):
            mode, uid, gid = stat.S_IMODE(old.st_mode), old.st_uid, old.st_gid
    except FileNotFoundError:
        pass
    temporary = f".{name}.vz{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = _made(lambda: os.open(temporary, flags, 0o600, dir_fd=folder), shift)
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
        os.write(fd, content)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def _made(make: Callable[[], int], shift: int) -> int:
    """make(), as the guest's root where the host's cannot own a file: on an idmapped mount."""
    try:
        return make()
    except OSError as err:
        if err.errno != errno.EOVERFLOW:
            raise
    set_fs_user(shift)
    try:
        return make()
    finally:
        set_fs_user(0)


def _mkdir(name: str, folder: int) -> int:
    os.mkdir(name, 0o755, dir_fd=folder)
    return 0


def remove(root: int, path: str) -> None:
    """Remove a name, not what it may link to; absence is success."""
    parent, name = os.path.split(path)
    try:
        folder = openat2(root, parent or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass
    finally:
        os.close(folder)


def make_folder(root: int, path: str, shift: int) -> None:
    """A directory of the guest's root, 0755; its parent has to be there. Existing is success.

    Raises VzError 3, 47."""
    parent, name = os.path.split(path)
    try:
        folder = openat2(root, parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _made(lambda: _mkdir(name, folder), shift)
            os.chown(name, shift, shift, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)
    except FileExistsError:
        pass
    except OSError as err:
        raise VzError.of(f"Cannot make /{path} in the container", err, _code(err)) from None


def _code(err: OSError) -> int:
    """Links that lead nowhere are the template's fault."""
    return Exit.FS_BAD_TMPL if err.errno == errno.ELOOP else Exit.SYSTEM


def text_of(root: int, path: str) -> str | None:
    """The text of a file, "" when it is missing; None when it is something else than a file, which
    its maker will have wanted."""
    content = read(root, path)
    if content is None and exists(root, path):
        return None
    return (content or b"").decode("utf-8", "surrogateescape")


def write_lines(root: int, path: str, lines: list[str], shift: int) -> None:
    write(root, path, "".join(f"{x}\n" for x in lines).encode("utf-8", "surrogateescape"), shift)
