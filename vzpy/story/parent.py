"""Who is init's parent: vzeventd where it answers, else the caller (DESIGN 2.1).

Both run the same child.launch(); the daemon is handed the prepared descriptors. Only a parent sees
the wait status of init, which tells a reboot from a halt and both from a crash."""

from __future__ import annotations

import os

from vzpy import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.node import Node


def answers(node: Node) -> bool:
    return False


def launch(node: Node, birth: child.Birth, handed: child.Handed) -> bool:
    """Fork the launcher, here or in the daemon; True when it was the daemon."""
    return fork(birth, handed)


def fork(birth: child.Birth, handed: child.Handed) -> bool:
    """Fork the launcher here: False."""
    os.waitpid(child.launch(birth, handed), 0)
    return False


def keep_console(node: Node, ctid: int, master: int) -> None:
    os.close(master)


def watch(node: Node, ctid: int) -> None:
    pass
