"""vznetstat: bytes and packets of VPSs, those from before a restart included."""

from __future__ import annotations

from vzpy import state, traffic
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.kernel.netlink import Socket
from vzpy.model import NodePaths
from vzpy.params import Option
from vzpy.traffic import Counts

OPTIONS = (
    Option("veid", "number", "only this VPS", short="v"),
    Option("class", "number", "only this class of traffic; all of it is class 0 here", short="c"),
    Option("json", help="a JSON list instead of a table", short="j"),
    Option("help", help="usage", short="h"),
)
USAGE = "Usage: vznetstat [-v CTID] [-c CLASS] [-j]"
_ROW = "{:<10} {:<10} {:>20} {:>14} {:>20} {:>14}"
_HEADER = ("CTID", "Net.Class", "Input(bytes)", "Input(pkts)", "Output(bytes)", "Output(pkts)")


def main(argv: list[str]) -> int:
    """Run `vznetstat ARGV...`; returns the exit code."""
    try:
        given, words = planned.parse("vznetstat", argv, OPTIONS)
        numbers = (given.get("veid", "0"), given.get("class", "0"))
        if words or not all(text.isascii() and text.isdigit() for text in numbers):
            raise Usage(FAILED)
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    shown = counts(NodePaths.of()) if int(numbers[1]) == 0 else {}
    if "veid" in given:
        shown = {ctid: total for ctid, total in shown.items() if ctid == int(numbers[0])}
    if "json" in given:
        import json

        print(json.dumps([{"ctid": ctid, **vars(total)} for ctid, total in shown.items()]))
    else:
        print(_ROW.format(*_HEADER))
        for ctid, total in shown.items():
            print(_ROW.format(ctid, 0, *vars(total).values()))
    return 0


def counts(paths: NodePaths) -> dict[int, Counts]:
    """Of every VPS that has sent or received something, and of those that run, by number."""
    running = [ctid for ctid in state.running_ids(paths) if state.find(paths, ctid)]
    with Socket() as sock:
        now = {c: traffic.of_devices(sock, state.directory(paths, c)) for c in running}
    everyone = sorted({*now, *traffic.numbers(paths.state)})
    return {c: traffic.kept(paths.state, c).plus(now.get(c, Counts())) for c in everyone}
