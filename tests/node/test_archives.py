"""Archives of strangers, made at random out of all that is bad in one: each is refused as a whole
or becomes a VPS, and neither reaches anything of the host (migrate.md 5)."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from vzpy.errors import Exit, VzError
from vzpy.story.moving import _HARMLESS
from vzpy.vztmp import PREFIX

EXAMPLES = 6 if os.environ.get("VZ_TEST_VM") == "1" else 50  # the virtual one is emulated
VICTIM = "/tmp/vzpy-victim"  # replaced by the folder of the test
NAMES = (
    "", ".", "./", "..", "/", "a", "./a", "a/b", "a/b/c", "link", "link/x", "link/../x", "dir/",
    f"{VICTIM}/file", f"../../../../../../../../../..{VICTIM}/file", f"a/../..{VICTIM}/new",
    f"{VICTIM}/folder/new", "etc", "etc/vzdump", "etc/vzdump/vps.conf", "proc/self/root/x",
    "x" * 255, "x" * 300, "d/" * 1000 + "x", "d/" * 3000 + "x", "\udcff\udc80", "new\nline",
    "a\x01", ".vz-anchor", f"{PREFIX}abcdef", "dev/sda", "tmp", "bin/sh",
)  # fmt: skip
KINDS = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
    tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"V", b"M", b"?",
)  # fmt: skip
CAPABILITY = "".join(map(chr, (1, 0, 0, 2, *[0xFF] * 4, *[0] * 12)))
PAX = (
    ("SCHILY.xattr.security.capability", CAPABILITY),
    ("SCHILY.xattr.security.capability", "short"),
    ("SCHILY.xattr.security.selinux", "system_u:object_r:etc_t:s0"),
    ("SCHILY.xattr.security.ima", "x"),
    ("SCHILY.xattr.trusted.overlay.opaque", "y"),
    ("SCHILY.xattr.trusted.overlay.redirect", "/"),
    ("SCHILY.xattr.user.overlay.whiteout", "y"),
    ("SCHILY.xattr.system.posix_acl_access", "garbage"),
    ("SCHILY.xattr.user." + "n" * 300, "x"),
    ("SCHILY.xattr.user.note", "x" * 70000),
    ("SCHILY.acl.access", "user::rwx,user:70000:rwx,group::r-x,mask::rwx,other::---"),
    ("SCHILY.acl.access", "user::rwx,user:0:rwx,group::r-x,mask::rwx,other::---"),
    ("SCHILY.acl.default", "user::rwx,group::r-x,other::---"),
    ("SCHILY.acl.access", "rubbish"),
    ("size", "99999999999999"),
    ("size", "-1"),
    ("mtime", "nan"),
    ("mtime", "-5.5"),
    ("mtime", "99999999999999999999"),
    ("uid", "4294967295"),
    ("path", f"{VICTIM}/file"),
    ("linkpath", f"{VICTIM}/file"),
    ("GNU.sparse.major", "1"),
    ("GNU.sparse.map", "0,1,5"),
    ("GNU.sparse.size", "1152921504606846976"),
    ("GNU.sparse.realsize", "4611686018427387904"),
)

members = st.lists(
    st.fixed_dictionaries({
        "name": st.sampled_from(NAMES),
        "type": st.sampled_from(KINDS[:4] * 3 + KINDS),
        "linkname": st.sampled_from(NAMES),
        "mode": st.sampled_from((0, 0o644, 0o755, 0o4755, 0o2755, 0o7777)),
        "uid": st.sampled_from((0, 0, 0, 0, 1000, 65535, 65536, 2**31)),
        "gid": st.sampled_from((0, 0, 0, 0, 65535, 65536)),
        "device": st.sampled_from(((1, 3), (8, 0), (1, 1), (0, 0), (5, 2), (10, 229))),
        "data": st.sampled_from((b"", b"x", b"y" * 5000)),
        "pax": st.lists(st.sampled_from(PAX), max_size=2),
    }),
    max_size=7,
)  # fmt: skip
damage = st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=600)),
                  max_size=2)  # fmt: skip


def write(path: Path, layout: str, entries, harm, victim: str) -> None:
    """An archive with a configuration in front; then `harm` overwrites parts of it."""
    conf = f'OSTEMPLATE="busybox-x86_64"\nVE_LAYOUT="{layout}"\n'.encode()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8",
                      errors="surrogateescape") as tar:  # fmt: skip
        info = tarfile.TarInfo("./etc/vzdump/vps.conf")
        info.size = len(conf)
        tar.addfile(info, io.BytesIO(conf))
        for entry in entries:
            info = tarfile.TarInfo(entry["name"].replace(VICTIM, victim))
            info.type, info.linkname = entry["type"], entry["linkname"].replace(VICTIM, victim)
            info.mode, info.uid, info.gid = entry["mode"], entry["uid"], entry["gid"]
            info.devmajor, info.devminor = entry["device"]
            info.pax_headers = {k: v.replace(VICTIM, victim) for k, v in entry["pax"]}
            info.size = len(entry["data"])
            tar.addfile(info, io.BytesIO(entry["data"]))
    if harm:
        data = bytearray(path.read_bytes())
        for at, what in harm:
            at %= len(data)
            data[at : at + len(what)] = what
        path.write_bytes(data)


def outside(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that a way out could change."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        about = path.lstat()
        found[str(path)] = (about.st_mode, about.st_uid, about.st_nlink, about.st_mtime_ns,
                            about.st_ctime_ns, os.listxattr(path))  # fmt: skip
    return found


def is_tame(top: Path, base: int) -> None:
    """What became a VPS holds nothing that one could not have made."""
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            about = os.lstat(path)
            device = os.major(about.st_rdev), os.minor(about.st_rdev)
            whiteout = stat.S_ISCHR(about.st_mode) and device == (0, 0)
            assert not stat.S_ISBLK(about.st_mode), path
            assert not stat.S_ISCHR(about.st_mode) or device in _HARMLESS, path
            if not whiteout:
                assert base <= about.st_uid < base + 65536, (path, about.st_uid - base)
                assert base <= about.st_gid < base + 65536, path
            for attribute in os.listxattr(path, follow_symlinks=False):
                assert not attribute.startswith("security.") or attribute == "security.capability"
                if attribute == "security.capability":  # of the VPS's root, not of the host's
                    value = os.getxattr(path, attribute, follow_symlinks=False)
                    assert value[3] == 3 and int.from_bytes(value[20:24], "little") >= base


def member(name: str, kind: bytes, link: str = "", pax: tuple[tuple[str, str], ...] = ()):
    return {"name": name, "type": kind, "linkname": link, "mode": 0o4755, "uid": 0, "gid": 0,
            "device": (0, 0), "data": b"", "pax": list(pax)}  # fmt: skip


LINK_OUT = [
    member("link", tarfile.SYMTYPE, VICTIM),
    member("link/x", tarfile.REGTYPE, pax=PAX[:1]),
]
HARD_LINK_OUT = [
    member("link", tarfile.SYMTYPE, f"{VICTIM}/file"),
    member("hard", tarfile.LNKTYPE, "link"),
    member("hard", tarfile.REGTYPE),
]


@pytest.mark.parametrize("layout", ["simfs", "overlay"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=EXAMPLES,
          deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # fmt: skip
@given(entries=members, harm=st.one_of(st.just([]), damage))
@example(entries=LINK_OUT, harm=[])
@example(entries=HARD_LINK_OUT, harm=[])
def test_any(node, tmp_path, layout, entries, harm):
    victim = tmp_path / "victim"
    if not victim.exists():
        (victim / "folder").mkdir(parents=True)
        (victim / "file").write_text("mine")
    path = tmp_path / "a.tar"
    write(path, layout, entries, harm, str(victim))
    before = outside(victim)
    vps = node.vps(202)
    try:
        vps = node.restore(str(path), 202)
    except VzError as err:
        assert err.code in (Exit.FS_BAD_TMPL, Exit.FS_NO_DISK_SPACE, Exit.FS_NEW_VE_PRVT), err
        assert str(err)
        assert not os.listdir(os.path.dirname(vps.private))
        left = {path.suffix for path in Path(node.paths.conf).glob("202.*")}
        assert left <= {".destroyed"}  # of the one before
    else:
        try:
            is_tame(Path(vps.private, "upper" if layout == "overlay" else ""), vps.ids.base)
        finally:
            vps.destroy()
    assert outside(victim) == before
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "victim"]
