"""A guest whose Python, codecs and NSS libraries are poisoned: nothing of them runs with the host's
rights."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

import pytest
from terminal import Terminal

import tools
from vzpy.errors import VzError


class Watch:
    """inotify(7) on folders: whatever is opened or executed in them."""

    IN_ACCESS, IN_OPEN = 0x1, 0x20

    def __init__(self, folders) -> None:
        libc = ctypes.CDLL(None)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for folder in folders:
            mask = ctypes.c_uint32(self.IN_ACCESS | self.IN_OPEN)
            assert libc.inotify_add_watch(self.fd, os.fsencode(folder), mask) > 0

    def names(self) -> set[str]:
        found = set()
        try:
            while data := os.read(self.fd, 65536):
                while data:
                    size = struct.unpack_from("I", data, 12)[0]
                    found.add(data[16 : 16 + size].rstrip(b"\0").decode())
                    data = data[16 + size :]
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self.fd)


def poison(vps) -> list[Path]:
    """Everything that a Python process of ours could load from the guest by the paths it has: as
    simfs, whose files are the guest's own."""
    bad = b"open('/MARK', 'a').write('run')\nraise SystemExit(9)\n"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    libraries = [p for p in sys.path if p.endswith((version, "site-packages", "lib-dynload"))]
    roots = {*libraries, f"/usr/lib/{version}", f"/usr/lib/{version}/lib-dynload",
             "/usr/lib/python3/dist-packages", str(tools.ROOT)}  # fmt: skip
    for root in roots:
        for name in ("encodings/__init__", "encodings/utf_8", "encodings/ascii", "encodings/idna",
                     "traceback", "linecache", "socket", "ctypes/__init__", "pwd", "grp",
                     "sitecustomize", "vzpy/errors", "vzpy/sync", "vzpy/__init__"):  # fmt: skip
            write(vps, f"{root}/{name}.py", bad)
            write(vps, f"{root}/{name}.so", b"\x7fELF rubbish")
    machine = f"/lib/{os.uname().machine}-linux-gnu"
    for folder in ("/lib", "/lib64", machine, f"/usr{machine}"):
        for name in ("libc.so.6", "libnss_files.so.2", "libnss_x.so.2", "libgcc_s.so.1",
                     "libffi.so.8", "ld-linux-x86-64.so.2", "libseccomp.so.2"):  # fmt: skip
            write(vps, f"{folder}/{name}", b"\x7fELF rubbish")
    for name, text in (("nsswitch.conf", "passwd: x\nhosts: x\n"), ("ld.so.preload", "/lib/x.so\n"),
                       ("ld.so.cache", "rubbish"), ("locale.alias", "x")):  # fmt: skip
        write(vps, f"/etc/{name}", text.encode())
    top = Path(vps.private)
    return [top / "lib", top / "etc", *(p for p in top.rglob("*") if p.is_dir() and
            p.relative_to(top).parts[0] in ("usr", "lib", "lib64", "work", "root"))]


def write(vps, path: str, content: bytes) -> None:
    at = Path(vps.private, path.lstrip("/"))
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_bytes(content)


def test_poisoned_trees_run_nothing(parent, node, monkeypatch, vzctl):
    """After the guest's root is entered a lazy import, a codec or NSS would run the guest's code
    as the host's root (DESIGN 2.4). Nothing there is even opened."""
    vps = node.create(101, layout="simfs")
    plain = {p for p in Path(vps.private).rglob("*") if p.is_dir()}
    folders = [f for f in poison(vps) if f.exists() and (f not in plain or f.name == "etc")]
    assert len(folders) > 10
    watch = Watch(folders)
    try:
        vps.start()
        # The host's DNS is written into /etc from outside; then init reads there.
        busybox = {name for name in watch.names() if "resolv.conf" not in name}
        assert busybox <= {"inittab", "init.d", "rcS", "hostname", "passwd", "group", "TZ", ""}
        for argv in (["true"], ["no-such"], ["/etc/passwd"], ["/"], ["ü"], ["a\0b"], [b"\xff\xfe"]):
            try:
                vps.exec(argv, env={"PATH": "/bin", "Ü": "ü"})
            except VzError:
                pass
        with pytest.raises(VzError):
            vps.exec(["sleep", "9"], timeout=0.1)
        with Terminal(node, "enter", 101) as t:
            t.expect("entered")
            t.type("exit\n")
            t.expect("exited")
        vzctl("set", 101, "--userpasswd", "root:x")
        vzctl("exec", 101, "true")
        vps.stop(fast=True)
        for step in ("child-root", "child-mounts", "child-console", "child-exec"):
            monkeypatch.setenv("VZ_TEST_FAIL_AT", step)
            with pytest.raises(VzError):
                vps.start()
            monkeypatch.delenv("VZ_TEST_FAIL_AT")
        opened = {n for n in watch.names() if n.endswith((".py", ".so", ".conf", ".cache", ".2",
                                                          ".6", ".preload", ".1"))}  # fmt: skip
        # busybox itself has NSS of its own: only what a glibc or a Python would load counts.
        assert opened <= {"nsswitch.conf", "resolv.conf"}
        assert not os.path.exists(f"{vps.private}/MARK")
        (folders[-1] / next(iter(os.listdir(folders[-1])))).open("rb").close()
        assert watch.names()  # the watch sees what there is to see
    finally:
        watch.close()
