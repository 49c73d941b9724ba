#!/usr/bin/env python3
"""The network of a VPS: what a start with one address costs, wiring a thousand, and nginx.

start  against crun without any network, and lxc with a veth on a bridge; 0.3 s of idle before each
many   net.wire(), all that a start does for the network, for many VPSs one after the other
path   one process is both client and server: CPU of a request and its answer, 2 us of it Python's.
       The least of many turns, so that what else runs on the machine hardly shows
nginx  the same server in a VPS, on the host, and in lxc on a bridge; wrk on the host, and on
       another machine, which is a network namespace on the same Ethernet. There the packets of a
       routed VPS are copied once more than on the way from a real network card: the kernel may not
       change what its sender, on the same machine, still holds. CPU is that of wrk and nginx with
       what the kernel does in their place, and less shy of a busy machine than rates are

All in a network namespace of its own. Entrants take turns, figures are medians."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import peers
from bed import Bed, Failed, Sample, call, keep, lacking, median, run_bench, say

from vzpy import config, tasks
from vzpy.events import silent
from vzpy.kernel import mount as m
from vzpy.kernel import proc, process
from vzpy.kernel.elf import FIRST
from vzpy.kernel.program import Program
from vzpy.story import net
from vzpy.story.start import facts_of
from vzpy.sync import Channel

sys.path.append(str(Path(__file__).parents[1] / "node"))
from wire import Lan, Net, inside, ip

IDLE = 0.3
NET = "192.0.2"
ADDRESS, LXC_ADDRESS, HOST = f"{NET}.101", f"{NET}.60", f"{NET}.1"
SERVER = "/mnt/nginx"  # where it lies inside
_PROGRAMS = ("crun", "lxc-start", "nginx", "wrk")
_CONF = """daemon on; master_process on; worker_processes 1; user root; pid {tmp}/nginx.pid;
error_log /dev/null crit;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 1000000;
    client_body_temp_path {tmp}/b; proxy_temp_path {tmp}/p; fastcgi_temp_path {tmp}/f;
    uwsgi_temp_path {tmp}/u; scgi_temp_path {tmp}/s;
    server {{ listen {port}; location / {{ return 200 "{text}"; }} }}
}}
"""


class LxcBridged(peers.Lxc):
    """With a veth on a bridge, set up by lxc."""

    name = "lxc"

    def configure(self, number: int) -> None:
        super().configure(number)
        path = f"{self.folder}/c{number}/config"
        with open(path) as f:
            text = f.read()
        network = [
            "lxc.net.0.type = veth", "lxc.net.0.link = br0", "lxc.net.0.flags = up",
            "lxc.net.0.name = eth0", f"lxc.net.0.ipv4.address = {LXC_ADDRESS}/24",
            f"lxc.net.0.ipv4.gateway = {HOST}",
            f"lxc.mount.entry = {self.bed.folder}/nginx mnt none bind,ro 0 0",
        ]
        with open(path, "w") as f:
            f.write(text.replace("lxc.net.0.type = empty", "\n".join(network)))


@contextmanager
def bridged_lan() -> Iterator[Lan]:
    """The host's address lies on br0, whose port its eth0 is, so that lxc can join."""
    lan = Lan()
    for line in ("link add br0 type bridge", "link set br0 up", "link set eth0 master br0",
                 f"addr del {HOST}/24 dev eth0", f"addr add {HOST}/24 dev br0"):
        lan.node.ip(line)
    with lan.node:
        yield lan
    lan.close()


# A start


def start(bed: Bed, lxc: LxcBridged, rounds: int) -> dict[str, object]:
    vps, crun = bed.node.vps(101), peers.Crun(bed)
    crun.prepare(1)

    def ended(peer: peers.Peer) -> Callable[[], object]:
        return lambda: bed.command(peer.stop(1))

    entrants: dict[str, tuple[Callable[[], Sample], Callable[[], object]]] = {
        "library start": (lambda: call(vps.start), lambda: vps.stop(fast=True)),
        "crun run -d, no network": (lambda: bed.command(crun.start(1)), ended(crun)),
        "vzctl start": (
            lambda: bed.command([bed.tool("vzctl"), "start", "101"]), lambda: vps.stop(fast=True)),
        "lxc-start -d, bridge": (lambda: bed.command(lxc.start(1)), ended(lxc)),
    }
    samples: dict[str, list[Sample]] = {name: [] for name in entrants}
    for turn in range(rounds + 1):
        for name, (act, after) in entrants.items():
            time.sleep(IDLE)
            sample = act()
            if turn:  # the first is to warm up
                samples[name].append(sample)
            after()
    found = {name: median(s.wall for s in rows) for name, rows in samples.items()}
    for name, rows in samples.items():
        say(f"{name:26}{found[name]:9.2f} ms   min {min(s.wall for s in rows):.2f}"
            f"   cpu {median(s.cpu for s in rows):.2f}")
    for ours, peer, reach in (("library start", "crun run -d, no network", 0.75),
                              ("vzctl start", "lxc-start -d, bridge", 1.0)):
        say(f"{ours} / {peer}: {found[ours] / found[peer]:.2f}  [to reach {reach:g}]")
    return dict(found)


# Many


def many(bed: Bed, count: int) -> dict[str, object]:
    """Only the network: each VPS is a process that does nothing in a network namespace. One that
    runs keeps vzeventd there, as on any node."""
    samples = []
    with ExitStack() as undo:
        bed.node.vps(101).start()
        undo.callback(bed.node.vps(101).stop, fast=True)
        for number in range(count):
            ctid = 1001 + number
            vps = bed.node.vps(ctid)
            address = f"198.18.{number // 250}.{1 + number % 250}"
            config.save(vps.conf_path, {
                "IP_ADDRESS": address, "LOCAL_UID": "1879048192", "LOCAL_GID": "1879048192",
                "VE_LAYOUT": "overlay",
            })
            undo.callback(os.unlink, vps.conf_path)
            pid = _sleeper(undo)
            facts = facts_of(vps, pid, "")
            os.makedirs(f"{bed.node.paths.run}/{ctid}", exist_ok=True)
            undo.callback(shutil.rmtree, f"{bed.node.paths.run}/{ctid}", ignore_errors=True)
            undo.callback(net.unwire, bed.node.paths, ctid)
            samples.append(call(lambda: net.wire(vps, facts, silent)))  # noqa: B023
        part = max(count // 10, 1)
        found: dict[str, object] = {}
        for name, times in (("wall", [s.wall for s in samples]), ("cpu", [s.cpu for s in samples])):
            first, last = median(times[:part]), median(times[-part:])
            say(f"wiring {count} VPSs, {name:4} {median(times):8.2f} ms each; first {part}"
                f" {first:.2f}, last {part} {last:.2f}, ratio {last / first:.2f}  [to reach 1.2]")
            found[name] = {"first": first, "last": last, "ratio": last / first}
    return found


def _sleeper(undo: ExitStack) -> int:
    """No fork of ours: a thousand that share our memory would make each page fault of ours dear."""
    ours, theirs = Channel.pair()
    undo.callback(ours.close)
    calls = Program(FIRST)
    calls.call("unshare", process.CLONE_NEWNET)
    tasks.say(calls, b"ready")
    tasks.wait(calls)
    pid = calls.start([theirs.fileno()])
    undo.callback(_end, pid)
    theirs.close()
    if ours.receive()[0] != b"ready":
        raise Failed("no network namespace")
    return pid


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# The path of a request


def path(bed: Bed, lan: Lan, rounds: int) -> dict[str, object]:
    """Over loopback or the Ethernet alone, into VPSs by venet, and into one by a veth on the bridge
    where host and neighbour are."""
    ends: dict[str, tuple[str, Net | None, int]] = {"host": (HOST, lan.node, 0)}
    with ExitStack() as undo:
        for ctid, name, params in (
            (101, "VPS, venet", {}),  # as it was created: netfilter stateless
            (102, "VPS, venet, netfilter full", {"ipadd": [f"{NET}.102"], "netfilter": "full"}),
            (103, "VPS, veth on a bridge", {"netif_add": "eth0,,,,br0", "netfilter": "full"}),
        ):
            vps = bed.node.vps(ctid)
            if ctid != 101:
                bed.node.create(ctid)
                vps.set(**params)
            vps.start()
            undo.callback(vps.stop, fast=True)
            facts = vps.facts()
            assert facts
            ends[name] = (f"{NET}.{ctid}", None, facts.pid)
            if ctid == 103:
                with inside(facts.pid):
                    ip(f"addr add {NET}.103/24 dev eth0")
                    ip("link set eth0 up")
        pairs = {
            (client, name): undo.enter_context(_connected(where, *ends[name], port))
            for port, (client, where) in enumerate(
                (("host", lan.node), ("neighbour", lan.neighbour)), 5000)
            for name in ends
        }
        least = dict.fromkeys(pairs, float("inf"))
        for _, (key, pair) in itertools.product(range(rounds), pairs.items()):
            least[key] = min(least[key], _round_trip(*pair))
    for (client, name), cost in least.items():
        say(f"from the {client:10} to {name:28}{cost:7.2f} us, {cost - least[client, 'host']:+.2f}")
    return {f"{client} to {name}": cost for (client, name), cost in least.items()}


@contextmanager
def _connected(
    client: Net, address: str, server: Net | None, pid: int, port: int
) -> Iterator[tuple[int, int]]:
    """Descriptors of both ends of a connection."""
    with server or inside(pid):
        ear = socket.create_server((address, port))
    with client:
        near = socket.create_connection((address, port))
    far = ear.accept()[0]
    ear.close()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with near, far:
        yield near.fileno(), far.fileno()


def _round_trip(near: int, far: int, count: int = 400) -> float:
    """Microseconds of processor time."""
    write, read, request, answer = os.write, os.read, bytes(60), bytes(850)
    before = time.thread_time_ns()
    for _ in range(count):
        write(near, request)
        read(far, 4096)
        write(far, answer)
        read(near, 4096)
    return (time.thread_time_ns() - before) / count / 1000


# nginx


def nginx(
    bed: Bed, lan: Lan, lxc: LxcBridged, rounds: int, seconds: int
) -> dict[str, object]:
    """A worker each; they listen all the while, and one at a time is asked."""
    vps = bed.node.vps(101)
    vps.start()
    bed.command(lxc.start(1))
    words = f"{SERVER}/run {SERVER} /tmp"
    if vps.exec(["sh", "-c", words]).returncode:
        raise Failed("nginx does not start in the VPS")
    bed.command(lxc.exec(1, "sh", "-c", words.replace(SERVER, "/mnt").replace("/tmp", "/run")))
    os.makedirs(f"{bed.folder}/host", exist_ok=True)
    subprocess.run([f"{bed.folder}/nginx/run", f"{bed.folder}/nginx", f"{bed.folder}/host"],
                   check=True)
    found: dict[str, object] = {}
    try:
        for client, where in (("host", lan.node), ("neighbour", lan.neighbour)):
            found[f"wrk on the {client}"] = _compare(where, client, rounds, seconds)
    finally:
        with open(f"{bed.folder}/host/nginx.pid") as f:
            os.kill(int(f.read()), signal.SIGQUIT)
        bed.command(lxc.stop(1))
        vps.stop(fast=True)
    return found


def _compare(where: Net, client: str, rounds: int, seconds: int) -> dict[str, object]:
    servers = {"host": HOST, "VPS": ADDRESS, "lxc, bridge": LXC_ADDRESS}
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in servers}
    for _, (name, address) in itertools.product(range(rounds), servers.items()):
        runs[name].append(_wrk(where, address, seconds))
    say(f"\nwrk on the {client}")
    rates, tails, costs = (
        {name: median(run[i] for run in rows) for name, rows in runs.items()} for i in range(3)
    )
    for name in servers:
        say(f"nginx, {name:14}{rates[name]:10.0f} requests/s   p99 {tails[name]:8.2f} ms   CPU"
            f" {costs[name]:6.1f} us/request")
    for name, reach in (("host", 0.95), ("lxc, bridge", 1.0)):
        say(f"VPS / {name}: {rates['VPS'] / rates[name]:.2f}  [to reach {reach:g}]"
            f"   CPU {costs['VPS'] / costs[name]:.2f}")
    return {"requests/s": rates, "p99 ms": tails, "CPU us/request": costs}


def _wrk(where: Net, address: str, seconds: int) -> tuple[float, float, float]:
    """Requests a second, 99th percentile of latency in ms, CPU in us a request."""
    words = ["wrk", "-t", "1", "-c", "32", "-d", f"{seconds}s", "--latency", f"http://{address}:88/"]
    lines: list[str] = []
    nginx = _cpu_of_nginx()
    sample = call(lambda: lines.extend(where.run(*words).stdout.splitlines()))
    nginx = _cpu_of_nginx() - nginx
    rate = next(line.split()[1] for line in lines if line.startswith("Requests/sec"))
    tail = next(line.split()[1] for line in lines if line.split()[:1] == ["99%"])
    count = int(next(line.split()[0] for line in lines if "requests in" in line))
    scale = {"us": 0.001, "ms": 1.0}
    unit = tail[-2:] if tail[-2:] in scale else "s"
    late = float(tail.removesuffix(unit)) * scale.get(unit, 1000.0)
    return float(rate), late, (sample.cpu + nginx) * 1000 / count


def _cpu_of_nginx() -> float:
    """Milliseconds that all processes of our servers have run (proc_pid_schedstat)."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"nginx" in proc.slurp(f"/proc/{pid}/cmdline"):
                total += int(proc.slurp(f"/proc/{pid}/schedstat").split()[0])
        except OSError:
            pass  # it has gone
    return total / 1e6


def pack_server(bed: Bed) -> None:
    """nginx of the host with its libraries, as a folder that runs wherever it is put."""
    folder = Path(bed.folder, "nginx")
    (folder / "lib").mkdir(parents=True)
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    shutil.copy(program, folder / "nginx")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), "")
        if path:
            shutil.copy(os.path.realpath(path), folder / "lib" / Path(path).name)
    shutil.copy(os.path.realpath("/lib64/ld-linux-x86-64.so.2"), folder / "ld.so")
    text = _CONF.format(tmp="TMP", port=88, text="x" * 612)
    (folder / "conf.in").write_text(text)
    (folder / "run").write_text(
        "#!/bin/sh\n# $1: this folder, $2: one to write to\n"
        'sed "s,TMP,$2,g" "$1/conf.in" >"$2/nginx.conf"\n'
        'exec "$1/ld.so" --library-path "$1/lib" "$1/nginx" -e /dev/null -c "$2/nginx.conf"\n'
    )
    (folder / "run").chmod(0o755)


def give_server(bed: Bed) -> None:
    """Into VPS 101."""
    vps = bed.node.vps(101)
    there = Path(vps.private, "upper", SERVER.lstrip("/"))
    shutil.copytree(Path(bed.folder, "nginx"), there)
    for path in (there.parent, there, *there.rglob("*")):
        os.chown(path, vps.ids.base, vps.ids.base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=1000, help="VPSs to wire (1000)")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk (3)")
    parser.add_argument("--only", default="start,many,path,nginx")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    asked = parser.parse_args()
    only = asked.only.split(",")
    if absent := [name for name in _PROGRAMS if not shutil.which(name)]:
        lacking(f"not installed: {', '.join(absent)}")
    process.unshare(process.CLONE_NEWNET)
    everything: dict[str, object] = {"kernel": platform.release()}
    with bridged_lan() as lan, Bed() as bed:
        say(f"Linux {platform.release()}, {os.cpu_count()} processors")
        # lxc looks for its bridge in /sys/class/net, which is that of whoever mounted it
        m.mount("none", "/sys", "sysfs", 0)
        m.mount("none", "/sys/fs/cgroup", "cgroup2", 0)
        bed.undo.callback(m.umount2, "/sys", m.MNT_DETACH)
        config.save(f"{bed.node.paths.etc}/vz.conf", {"SKIP_ARPDETECT": "yes"})
        bed.node.config = config.load_global(bed.node.paths.etc)
        pack_server(bed)
        bed.node.create(101, ipadd=[ADDRESS])
        give_server(bed)
        lxc = LxcBridged(bed)
        lxc.prepare(1)
        if "start" in only:
            everything["start"] = start(bed, lxc, asked.rounds)
        if "many" in only:
            everything["many"] = many(bed, asked.count)
        if "path" in only:
            everything["path"] = path(bed, lan, 3 * asked.rounds)
        if "nginx" in only:
            everything["nginx"] = nginx(bed, lan, lxc, asked.rounds, asked.seconds)
    keep(everything, asked.json)


if __name__ == "__main__":
    run_bench(main)
