"""vzpy: many Linux systems on one stock kernel, driven as OpenVZ was.

    from vzpy import Node, VPS

Names are imported when they are used, so that a tool pays only for what it needs."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.errors import VzError as VzError
    from vzpy.node import Node as Node
    from vzpy.vps import VPS as VPS

__all__ = ["Node", "VPS", "VzError", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Node":
        from vzpy.node import Node

        return Node
    if name == "VPS":
        from vzpy.vps import VPS

        return VPS
    if name == "VzError":
        from vzpy.errors import VzError

        return VzError
    raise AttributeError(f"module 'vzpy' has no attribute {name!r}")
