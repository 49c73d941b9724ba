"""The peers: crun, runc, lxc and podman, each running the same tree, kernel and namespaces.

A container of a peer is a number, as a VPS is. It has the template's tree as a read-only root
(no peer is charged for an overlay), busybox init as process 1, the namespaces user (with a range
of its own), mount, pid, network (empty), IPC, UTS and cgroup, and no limits. So peers do less
than vzpy, whose VPSs have an overlay, a time namespace, a system call filter, and a lock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from bed import Bed, Failed

from vzpy.kernel import caps

INIT = "/sbin/init"
_BASE, _RANGE = 0x60000000, 65536  # of host ids; below the pool of vzpy
# What init and its services write to, or find closed: the tree is nobody's inside.
_SCRATCH = ("run", "tmp", "var/log", "var/spool/cron/crontabs")


class Peer:
    """How one program starts, enters, ends and lists its containers: words of commands."""

    name = ""
    program = ""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.folder = f"{bed.folder}/{self.name}"
        os.mkdir(self.folder, 0o755)
        self.made: set[int] = set()

    def prepare(self, number: int) -> None:
        """Make what a start takes for granted; once for each number."""
        if number not in self.made:
            self.configure(number)
            self.made.add(number)

    def configure(self, number: int) -> None:
        raise NotImplementedError

    def start(self, number: int) -> list[str]:
        raise NotImplementedError

    def exec(self, number: int, *words: str) -> list[str]:
        raise NotImplementedError

    def stop(self, number: int) -> list[str]:
        """At once, without asking init; afterwards it can be started again."""
        raise NotImplementedError

    def listing(self) -> list[str]:
        raise NotImplementedError

    def cgroup(self, number: int) -> str:
        """Of the container, below the mount of cgroup2."""
        return f"{self.bed.cgroup}/{self.name}-{number}"

    def version(self) -> str:
        words = [self.program, "--version"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
        first = (done.stdout or done.stderr).split("\n")[0].removeprefix(self.name)
        return f"{self.name} {first.removeprefix(' version').strip()}"

    def check(self, number: int) -> None:
        """Init is process 1 inside, of the tree, and its root is nobody's on the host."""
        said = self.bed.output(self.exec(number, "/bin/cat", "/proc/1/comm", "/proc/self/uid_map"))
        if said.split() != ["init", "0", str(base(number)), str(_RANGE)]:
            raise Failed(f"{self.name} runs something else: {said!r}")


def base(number: int) -> int:
    return _BASE + number * _RANGE


class Oci(Peer):
    """crun and runc: the bundle that `spec` makes, its namespaces completed."""

    def configure(self, number: int) -> None:
        bundle = f"{self.folder}/{number}"
        os.mkdir(bundle)
        subprocess.run([self.program, "spec"], cwd=bundle, check=True, timeout=20)
        with open(f"{bundle}/config.json") as f:
            config = json.load(f)
        config["process"].update(terminal=False, args=[INIT])
        config["root"] = {"path": self.bed.tree, "readonly": True}
        config["mounts"] += [
            {"destination": f"/{path}", "type": "tmpfs", "source": "tmpfs"} for path in _SCRATCH
        ]
        linux = config["linux"]
        kinds = ("pid", "network", "ipc", "uts", "mount", "cgroup", "user")
        linux["namespaces"] = [{"type": kind} for kind in kinds]
        ids = [{"containerID": 0, "hostID": base(number), "size": _RANGE}]
        linux["uidMappings"] = linux["gidMappings"] = ids
        linux["cgroupsPath"] = f"/{self.cgroup(number)}"
        linux.pop("resources", None)  # rules for devices
        if not may_raise_limits():
            config["process"].pop("rlimits", None)
        with open(f"{bundle}/config.json", "w") as f:
            json.dump(config, f)

    def _words(self, *words: str) -> list[str]:
        return [self.program, "--root", f"{self.bed.run}/{self.name}", *words]

    def start(self, number: int) -> list[str]:
        return self._words("run", "-d", "-b", f"{self.folder}/{number}", f"c{number}")

    def exec(self, number: int, *words: str) -> list[str]:
        return self._words("exec", f"c{number}", *words)

    def stop(self, number: int) -> list[str]:
        return self._words("delete", "-f", f"c{number}")

    def listing(self) -> list[str]:
        return self._words("list")


class Crun(Oci):
    name = program = "crun"


class Runc(Oci):
    name = program = "runc"


class Lxc(Peer):
    name, program = "lxc", "lxc-start"

    def configure(self, number: int) -> None:
        os.mkdir(f"{self.folder}/c{number}", 0o755)
        lines = [
            f"lxc.uts.name = c{number}",
            f"lxc.rootfs.path = dir:{self.bed.tree}",
            "lxc.rootfs.options = ro",
            f"lxc.idmap = u 0 {base(number)} {_RANGE}",
            f"lxc.idmap = g 0 {base(number)} {_RANGE}",
            "lxc.mount.auto = proc:mixed sys:ro cgroup:ro",
            "lxc.net.0.type = empty",
            f"lxc.init.cmd = {INIT}",
            f"lxc.cgroup.dir.container = {self.cgroup(number)}",
            f"lxc.cgroup.dir.monitor = {self.bed.cgroup}/lxc-monitors/{number}",
            "lxc.apparmor.profile = unconfined",
            *(f"lxc.mount.entry = tmpfs {path} tmpfs rw 0 0" for path in _SCRATCH),
        ]
        with open(f"{self.folder}/c{number}/config", "w") as f:
            f.write("\n".join(lines) + "\n")

    def _words(self, program: str, number: int, *words: str) -> list[str]:
        return [program, "-P", self.folder, "-n", f"c{number}", *words]

    def start(self, number: int) -> list[str]:
        return self._words("lxc-start", number, "-d", "-o", f"{self.folder}/log")

    def exec(self, number: int, *words: str) -> list[str]:
        return self._words("lxc-attach", number, "--", *words)

    def stop(self, number: int) -> list[str]:
        return self._words("lxc-stop", number, "-k")

    def listing(self) -> list[str]:
        return ["lxc-ls", "-P", self.folder, "-f"]


# Where the bench itself may not raise limits, crun must not be asked to either.
_WRAPPER = """#!/bin/sh
previous=
for word; do
	case $previous in
	-b | --bundle) file=$word/config.json ;;
	-p | --process) file=$word ;;
	*) file= ;;
	esac
	[ ! -f "$file" ] || sed -i 's/"rlimits":\\[[^]]*\\]/"rlimits":[]/' "$file"
	previous=$word
done
exec crun "$@"
"""


class Podman(Peer):
    name = program = "podman"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        os.makedirs(f"{self.folder}/spool/cron/crontabs")
        self.runtime = "crun"
        if not may_raise_limits():
            self.runtime = f"{self.folder}/crun"
            with open(self.runtime, "w") as f:
                f.write(_WRAPPER)
            os.chmod(self.runtime, 0o755)

    def configure(self, number: int) -> None:
        pass

    def _words(self, *words: str) -> list[str]:
        where = self.folder
        return [
            "podman", "--root", f"{where}/root", "--runroot", f"{self.bed.run}/podman",
            "--tmpdir", f"{where}/tmp", "--storage-driver", "vfs", "--events-backend", "none",
            "--cgroup-manager", "cgroupfs", "--runtime", self.runtime, *words,
        ]  # fmt: skip

    def start(self, number: int) -> list[str]:
        ids = f"0:{base(number)}:{_RANGE}"
        return self._words(
            "run", "-d", "--name", f"c{number}", "--read-only", "--uidmap", ids, "--gidmap", ids,
            "--network", "none", "--cgroup-parent", self.cgroup(number), "--pids-limit", "0",
            "--log-driver", "none", "--systemd=false",
            "--tmpfs", "/var/log", "--volume", f"{self.folder}/spool:/var/spool:ro",
            "--rootfs", self.bed.tree, INIT,
        )  # fmt: skip

    def exec(self, number: int, *words: str) -> list[str]:
        return self._words("exec", f"c{number}", *words)

    def stop(self, number: int) -> list[str]:
        return self._words("rm", "-f", "-t", "0", f"c{number}")

    def listing(self) -> list[str]:
        return self._words("ps")


ALL = (Crun, Runc, Lxc, Podman)


def may_raise_limits() -> bool:
    return bool(caps.bounding_of(os.getpid()) & caps.mask(["sys_resource"]))


def at_hand(bed: Bed, names: list[str]) -> tuple[list[Peer], dict[str, str]]:
    """The peers of those names that work here, each tried; and why the others do not."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for kind in ALL:
        if kind.name not in names:
            continue
        if not shutil.which(kind.program):
            missing[kind.name] = "not installed"
            continue
        peer = kind(bed)
        try:
            peer.prepare(0)
            bed.command(peer.start(0))
            try:
                peer.check(0)
            finally:
                bed.command(peer.stop(0))
            found.append(peer)
        except (Failed, subprocess.SubprocessError) as err:
            missing[kind.name] = str(err)
    return found, missing
