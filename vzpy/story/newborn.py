"""What the first task of a VPS has to know, found out in its mounted root (child.py)."""

from __future__ import annotations

import os

from vzpy import capabilities, child, inits, rootfs, syscalls
from vzpy.mountplan import Seen
from vzpy.record import record
from vzpy.story import devices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.story.conversation import Conversation
    from vzpy.vps import VPS


@record
class Newborn:
    """What has been decided before the root was looked at.

    pty      it gets a console of its own, since somebody keeps the master
    ptys     at most so many, 0 for the kernel's default
    device   that quota tools inside will find, "" where users and groups are not limited
    table    level of netfilter that a table of the host's makes, "" for none"""

    pty: bool
    shm_size: str
    ptys: int
    device: str = ""
    table: str = ""

    def look(
        self, vps: VPS, cgroup: str, talk: Conversation
    ) -> tuple[str, child.Birth, list[int]]:
        """The kind of init, what the task has to know, and the descriptors that come with it."""
        conf = vps.config
        tree, below = root_of(vps)
        talk.hand_over(tree, *(fd for _, fd in below))
        nodes = devices.nodes(conf, cgroup)
        if nodes or self.device:
            made = talk.hand_over(devices.make_nodes(nodes, vps.ids))
            below.append((devices.NODES, made))
            if self.device:
                devices.make_inert(made, self.device, os.fstat(tree).st_dev)
                nodes = (*nodes, self.device)
        if self.ptys:
            from vzpy.story import bounds

            below.append(("dev/pts", talk.hand_over(bounds.devpts(self.ptys, vps.ids))))
        kind = inits.kind_in_tree(tree)
        container = "lxc" if inits.uses_openrc(tree) else inits.INITS[kind].container
        env = {
            "HOME": "/",
            "TERM": "linux",
            "container": container,
        }
        notify = talk.wait and kind == "systemd"
        if notify:
            env["NOTIFY_SOCKET"] = child.NOTIFY_SOCKET.decode()
        birth = child.Birth(
            init=tuple(path.encode() for path in inits.INIT_PATHS),
            argv=(b"init", *inits.INITS[kind].argv),
            env=tuple((k.encode(), v.encode()) for k, v in env.items()),
            capabilities=capabilities.bounding(conf.value("CAPABILITY") or {}),
            filters=syscalls.programs(vps.node.paths.state, conf.own("NETFILTER") or ""),
            seen=Seen(container, self.shm_size, own_pts=not self.ptys),
            below=tuple(path for path, _ in below),
            pty=self.pty,
            nodes=nodes,
            nodes_at=devices.NODES,
            table=_transaction(self.table) if self.table else b"",
            notify=notify,
            handover=syscalls.quota_handover() if self.device else b"",
        )
        return kind, birth, [tree, *(fd for _, fd in below)]


def root_of(vps: VPS) -> tuple[int, list[tuple[str, int]]]:
    """rootfs.detached(), as its VPS sees it. Each is a clone: what is mounted in one does not show
    in another."""
    tree, below = rootfs.detached(vps.root, vps.layout, vps.private)
    if vps.layout == "image":
        from vzpy.story import imageroot

        imageroot.show_as(tree, vps.ids)
    return tree, below


def files_of(vps: VPS) -> tuple[int, list[tuple[str, int]]]:
    """As root_of(), for who only reads and writes files there. VE_ROOT itself where that shows the
    owners that the VPS sees: the last close of a clone waits for all processors
    (synchronize_rcu_expedited)."""
    if vps.layout == "overlay":
        return os.open(vps.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), []
    return root_of(vps)


def _transaction(level: str) -> bytes:
    from vzpy import netfilter

    return netfilter.transaction(level)
