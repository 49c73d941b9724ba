"""What the virtual machine is made of: kernel, initrd, root disk. All of it cached by content."""

from __future__ import annotations

import inspect
import lzma
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .host import (
    VMError,
    apt_proxies,
    apt_sources,
    cached,
    check_machine,
    ensure_packages,
    key_of,
    locked,
    run,
    scratch,
    suite,
)

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
CHECKOUT_INSIDE = "/srv/vzpy"

KERNEL_PACKAGE = "linux-image-cloud-amd64"

# Each needs the ones before it. quota_v2 belongs here too: without it an ext4 that has the quota
# feature does not mount (ESRCH), and the root disk is one.
INITRD_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "quota_tree",
    "quota_v2",
)

PACKAGES = (
    "acl",
    "attr",
    "btrfs-progs",
    "busybox-static",
    "bzip2",
    "dmsetup",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libcap2-bin",
    "libseccomp2",
    "lxcfs",
    "nftables",
    "procps",
    "python3",
    "quota",
    "strace",
    "util-linux",
    "xfsprogs",
    "xz-utils",
    "zstd",
)

MKE2FS = ("-t", "ext4", "-q", "-F", "-I", "256", "-L", "vzroot", "-O", "project,quota")
MKE2FS_QUOTAS = ("-E", "quotatype=usrquota:grpquota:prjquota,lazy_itable_init=1")
ROOT_SIZE = "8G"

# What the tests run with inside is read from pyproject.toml; the linters stay outside.
REQUIREMENT_GROUPS = ("dev", "test", "tests")
LINTERS = re.compile(r"(mypy|ruff|types-)")


@dataclass(frozen=True)
class Images:
    kernel: Path
    initrd: Path
    root: Path


def build(*, fresh: bool = False) -> Images:
    """The images, from the cache where the same ones were built before; `fresh` builds anew."""
    check_machine()
    with locked():
        kernel_key = key_of(suite(), KERNEL_PACKAGE)
        kernel = cached("kernel", kernel_key, _build_kernel, fresh=fresh)

        script = (HERE / "initrd.sh").read_text()
        initrd_key = key_of(kernel_key, version_of(kernel), script, INITRD_MODULES)
        initrd = cached("initrd", initrd_key, lambda out: _build_initrd(out, kernel), fresh=fresh)

        base_key = key_of(suite(), PACKAGES)
        base = cached("base", base_key, _build_base, fresh=fresh)

        needs = requirements()
        recipe = (needs, MKE2FS, MKE2FS_QUOTAS, ROOT_SIZE, inspect.getsource(_build_root))
        root_key = key_of(base_key, kernel_key, version_of(kernel), recipe)
        root = cached(
            "root", root_key, lambda out: _build_root(out, base, kernel, needs), fresh=fresh
        )
    return Images(kernel / "vmlinuz", initrd, root)


def version_of(kernel: Path) -> str:
    """Part of the keys of what holds its modules: the package gives a newer one every few weeks."""
    return next((kernel / "modules").iterdir()).name


def requirements() -> list[str]:
    """What pip installs for the checkout: its dependencies and those of its tests."""
    data = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = data["project"]
    found = {"pytest", *project.get("dependencies", ())}
    for table in (project.get("optional-dependencies", {}), data.get("dependency-groups", {})):
        for group in REQUIREMENT_GROUPS:
            found.update(item for item in table.get(group, ()) if isinstance(item, str))
    return sorted(item for item in found if not LINTERS.match(item))


def _build_kernel(out: Path) -> None:
    """`out/vmlinuz` and `out/modules/VERSION`, taken out of the package without installing it."""
    ensure_packages(("kmod",))
    with scratch("kernel") as work:
        depends = run(["apt-cache", "depends", "--important", KERNEL_PACKAGE])
        if not depends:
            run(["apt-get", "update", "-q"])
            depends = run(["apt-cache", "depends", "--important", KERNEL_PACKAGE])
        image = re.search(r"Depends: (linux-image-\S+)", depends)
        if not image:
            raise VMError(f"apt does not say which kernel {KERNEL_PACKAGE} stands for")
        # apt's own user may not be able to write into this folder.
        fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", image[1]]
        try:
            run(fetch, cwd=work)
        except VMError:
            run(["apt-get", "update", "-q"])
            run(fetch, cwd=work)
        run(["dpkg", "-x", next(work.glob("*.deb")), work / "tree"])
        version = next((work / "tree/lib/modules").iterdir()).name
        # The package does this when it is installed.
        run(["depmod", "-b", work / "tree", version])
        out.mkdir()
        shutil.move(work / "tree/lib/modules", out / "modules")
        shutil.move(work / f"tree/boot/vmlinuz-{version}", out / "vmlinuz")


def _build_initrd(out: Path, kernel: Path) -> None:
    ensure_packages(("busybox-static", "cpio"))
    with scratch("initrd") as tree:
        for folder in ("bin", "dev", "proc", "sys", "modules", "newroot"):
            (tree / folder).mkdir()
        shutil.copy("/bin/busybox", tree / "bin/busybox")
        for applet in ("sh", "mount", "umount", "insmod", "tar", "switch_root", "poweroff", "cat"):
            (tree / "bin" / applet).symlink_to("busybox")
        for number, name in enumerate(INITRD_MODULES):
            content = _module(kernel, name)
            if content:
                (tree / f"modules/{number:02}-{name}.ko").write_bytes(content)
        shutil.copy(HERE / "initrd.sh", tree / "init")
        (tree / "init").chmod(0o755)
        names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
        run(["cpio", "--quiet", "-o", "-H", "newc", "-O", out], cwd=tree, stdin=names)


def _module(kernel: Path, name: str) -> bytes:
    """Nothing where it is built in, and unpacked where newer packages have it compressed."""
    if any(f"/{name}.ko" in file.read_text() for file in kernel.rglob("modules.builtin")):
        return b""
    found = next((kernel / "modules").rglob(f"{name}.ko*"), None)
    if found is None:
        raise VMError(f"the kernel package has no module {name}")
    return lzma.decompress(found.read_bytes()) if found.suffix == ".xz" else found.read_bytes()


def _build_base(out: Path) -> None:
    ensure_packages(("mmdebstrap",))
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"]
    argv += [f"--include={','.join(PACKAGES)}", *apt_proxies()]
    # Manuals and caches would only make the image larger.
    argv += ["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    run([*argv, suite(), out, "-"], stdin=apt_sources())


def _build_root(out: Path, base: Path, kernel: Path, needs: Sequence[str]) -> None:
    ensure_packages(("e2fsprogs",))
    with scratch("root") as work:
        tree = work / "tree"
        tree.mkdir()
        run(["tar", "-C", tree, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xf", base])
        shutil.copytree(kernel / "modules", tree / "usr/lib/modules", dirs_exist_ok=True)

        # Where the launchers in bin/ look, and by a .pth file whatever python3 is told to run.
        python = next(path.name for path in sorted((tree / "usr/lib").glob("python3.[0-9]*")))
        packages = f"{CHECKOUT_INSIDE}/.venv/lib/{python}/site-packages"
        target = tree / packages.lstrip("/")
        target.mkdir(parents=True)
        _install_wheels(target, python.removeprefix("python"), needs)
        site = tree / "usr/local/lib" / python / "dist-packages"
        site.mkdir(parents=True, exist_ok=True)
        (site / "vzpy-checkout.pth").write_text(f"{CHECKOUT_INSIDE}\n{packages}\n")
        # Compiled now, because doing it under emulation costs seconds in every run.
        run(["chroot", tree, "python3", "-m", "compileall", "-q", packages])

        (tree / "etc/hostname").write_text("vzpy-vm\n")
        (tree / "etc/hosts").write_text("127.0.0.1 localhost vzpy-vm\n::1 localhost\n")
        run(["mke2fs", *MKE2FS, *MKE2FS_QUOTAS, "-d", tree, out, ROOT_SIZE])


def _install_wheels(target: Path, version: str, needs: Sequence[str]) -> None:
    """Wheels for the Python inside, which need not be the one that runs this."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            run([python, "-m", "pip", "--version"])
            break
        except (VMError, OSError):
            continue
    else:
        raise VMError(f"no pip on this machine for {' '.join(needs)}: apt-get install python3-pip")
    argv = [python, "-m", "pip", "install", "-q", "--no-compile", "--target", str(target)]
    argv += ["--root-user-action=ignore", "--only-binary=:all:"]
    argv += ["--implementation=cp", f"--python-version={version}"]
    # pip takes these names literally: one for each glibc that is older than the one inside.
    argv += [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(17, 37)]
    argv += ["--platform=manylinux2014_x86_64"]
    run([*argv, *needs])
