"""vznetstat: bytes and packets of VPSs, those from before a restart included; and what of them was
stopped, since its addresses are not the VPS's."""

from __future__ import annotations

from vzpy import antispoof, state, traffic
from vzpy.commands import planned
from vzpy.commands.planned import FAILED, Usage
from vzpy.kernel.netlink import Socket
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.traffic import Checked, Counts

OPTIONS = (
    Option("veid", "number", "only this VPS", short="v"),
    Option("class", "number", "only this class of traffic; all of it is class 0 here", short="c"),
    Option("dropped", help="packets dropped on their way, by the reason", short="d"),
    Option("json", help="a JSON list instead of a table", short="j"),
    Option("help", help="usage", short="h"),
)
USAGE = "Usage: vznetstat [-v CTID] [-c CLASS] [-d] [-j]"
_ROW = "{:<10} {:<10} {:>20} {:>14} {:>20} {:>14}"
_DROPPED_ROW = "{:<10} {:<15} {:>14} {}"
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
    only = int(numbers[0]) if "veid" in given else None
    if "dropped" in given:
        return _show_dropped(checked(NodePaths.of(), only), "json" in given)
    shown = counts(NodePaths.of()) if int(numbers[1]) == 0 else {}
    if only is not None:
        shown = {ctid: total for ctid, total in shown.items() if ctid == only}
    if "json" in given:
        _print_json([{"ctid": ctid, **vars(total)} for ctid, total in shown.items()])
    else:
        print(_ROW.format(*_HEADER))
        for ctid, total in shown.items():
            print(_ROW.format(ctid, 0, *vars(total).values()))
    return 0


def _show_dropped(devices: dict[int, list[Checked]], as_json: bool) -> int:
    rows = [(ctid, device) for ctid, those in devices.items() for device in those]
    if as_json:
        _print_json([{"ctid": ctid, **vars(device)} for ctid, device in rows])
        return 0
    print(_DROPPED_ROW.format("CTID", "Device", "Dropped(pkts)", "Reason"))
    for ctid, device in rows:
        if device.dropped is None:
            why = "nothing is checked: mac_filter=off"
            print(_DROPPED_ROW.format(ctid, device.device, "-", why))
        for reason, count in (device.dropped or {}).items():
            if count:
                why = f"{reason}: {antispoof.REASONS[reason]}"
                print(_DROPPED_ROW.format(ctid, device.device, count, why))
    return 0


def _print_json(rows: list[dict[str, object]]) -> None:
    import json

    print(json.dumps(rows))


def counts(paths: NodePaths) -> dict[int, Counts]:
    """Of every VPS that has sent or received something, and of those that run, by number."""
    with Socket() as sock:
        now = {c: traffic.of_devices(sock, state.directory(paths, c)) for c in _running(paths)}
    everyone = sorted({*now, *traffic.numbers(paths.state)})
    return {c: traffic.kept(paths.state, c).plus(now.get(c, Counts())) for c in everyone}


def checked(paths: NodePaths, only: int | None = None) -> dict[int, list[Checked]]:
    """The devices of every running VPS, or of one, by number."""
    wanted = [ctid for ctid in _running(paths) if only in (None, ctid)]
    with Socket() as sock:
        return {c: traffic.checked(sock, state.directory(paths, c)) for c in wanted}


def _running(paths: NodePaths) -> list[int]:
    return [ctid for ctid in state.running_ids(paths) if state.find(paths, ctid)]
