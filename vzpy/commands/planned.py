"""What the planning tools share: a configuration's pairs, the blocks of running VPSs, usage."""

from __future__ import annotations

import sys

from vzpy import config, options
from vzpy.errors import ConfigError, UsageError, VzError
from vzpy.params import UBC_KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vzpy.config import Config
    from vzpy.model import NodePaths
    from vzpy.node import Node
    from vzpy.option import Option
    from vzpy.planning.oversell import Block
    from vzpy.ubcproc import Beancounter

FAILED = 1


class Usage(Exception):
    """Print the usage and end: asked for (code 0), or since the command line is wrong."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


def parse(
    tool: str, argv: list[str], known: Sequence[Option]
) -> tuple[dict[str, str], list[str]]:
    """Options by name with their texts ("" for a flag), the last of each kind, and the words.

    Raises Usage."""
    try:
        pairs, words = options.getopt(tool, argv, known, FAILED)
    except UsageError as err:
        raise Usage(FAILED, str(err)) from None
    given = {option.name: text for _, option, text in pairs}
    if "help" in given:
        raise Usage(0)
    return given, words


def tell_usage(usage: str, why: Usage) -> int:
    """Print a usage where it belongs; the exit code."""
    if text := str(why):
        print(text, file=sys.stderr)
    print(usage, file=sys.stderr if why.code else sys.stdout)
    return why.code


def complain(err: VzError) -> int:
    """Tell what is wrong; the exit code. Without a vz.conf it is everybody's."""
    print(err, file=sys.stderr)
    return err.code if isinstance(err, ConfigError) else FAILED


def yesno(flag: str, text: str) -> bool:
    """Raises Usage."""
    if text not in ("yes", "no"):
        raise Usage(FAILED, f"Invalid argument for {flag}: {text}")
    return text == "yes"


def file_config(paths: NodePaths, path: str) -> Config:
    """A file over vz.conf, without which it stands alone; what is wrong in it is told.

    Raises VzError when it is missing or cannot be read."""
    try:
        above = config.load_global(paths.etc)
    except ConfigError:
        where = f"{paths.etc}/vz.conf"
        print(f"WARNING: Global configuration file {where} not found", file=sys.stderr)
        above = config.Config([config.Layer(where)])
    found = above.vps(0, path)
    if not found.exists:
        raise VzError(f"Container configuration file {path} not found", FAILED)
    return found


def pairs_of(found: Config) -> dict[str, tuple[int, int]]:
    """The beancounters a configuration sets; what cannot be read is told on standard error."""
    values = {key: found.value(key) for key in UBC_KEYS}
    for line in found.warnings:
        print(line, file=sys.stderr)
    return {key: pair for key, pair in values.items() if pair is not None}


def blocks(node: Node) -> dict[int, tuple[Config, Block]]:
    """The running VPSs: configuration and beancounters, by number."""
    return {
        ctid: (node.vps(ctid).config, block(rows))
        for ctid, rows in sorted(node.beancounters().items())
    }


def block(rows: Iterable[Beancounter]) -> Block:
    return {
        row.name: (row.held or 0, row.maxheld or 0, row.barrier, row.limit, row.failcnt or 0)
        for row in rows
    }


def held_of(block: Block) -> dict[str, int]:
    """Parameter -> held."""
    return {name.upper(): row[0] for name, row in block.items()}
