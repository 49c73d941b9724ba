"""vzcfgscale: a configuration, larger or smaller by a factor (beancounters.md 5.5)."""

from __future__ import annotations

import os
import shutil
import sys

from vzpy import amounts, config, values
from vzpy.commands import planned, vzcfgvalidate
from vzpy.commands.planned import FAILED, Usage
from vzpy.errors import VzError
from vzpy.model import NodePaths
from vzpy.option import Option
from vzpy.params import BY_KEY, NOT_FROM_SAMPLE, UBC_KEYS
from vzpy.planning import scale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vzpy.config import Config

OPTIONS = (
    Option("output-file", "path", "write there, instead of to standard output", short="o"),
    Option("all", "float", "scale everything by this factor", short="a"),
    Option("cpu-only", "float", "scale CPU units", short="c"),
    Option("disk-only", "float", "scale disk quota", short="d"),
    Option("ubc-only", "float", "scale beancounters", short="u"),
    Option("network-only", "float", "scale network bandwidth (there is none to scale)", short="n"),
    Option("remove", help="leave out what belongs to one VPS only", short="r"),
    Option("validate", help="fail when the beancounters do not hold together", short="v"),
    Option("help", help="usage", short="h"),
)
USAGE = """Usage: vzcfgscale [options] <configfile>
Options are:
\t-o, --output-file <file>   Write output to file. Default is stdout
\t-a, --all <coeff>          Scale all parameters to the value <coeff>
\t-c, --cpu-only <coeff>     Scale only CPU parameters
\t-d, --disk-only <coeff>    Scale only disk quota parameters
\t-u, --ubc-only <coeff>     Scale only UBC parameters
\t-n, --network-only <coeff> Scale only network bandwidth parameters
\t-v, --validate             Validate UBC parameters
\t-r, --remove               Removes container-specific parameters"""
_ONE_VPS_ONLY = (*NOT_FROM_SAMPLE, "NAMESERVER", "SEARCHDOMAIN")


def main(argv: list[str]) -> int:
    """Run `vzcfgscale ARGV...`; returns the exit code."""
    try:
        given, words = planned.parse("vzcfgscale", argv, OPTIONS)
        if not words:
            raise Usage(FAILED)
        if len(words) > 1:
            raise VzError(f"non-option ARGV-elements: {' '.join(words)}")
        return _run(words[0], given)
    except Usage as why:
        return planned.tell_usage(USAGE, why)
    except VzError as err:
        return planned.complain(err)


def _run(path: str, given: dict[str, str]) -> int:
    everything = _factor(given, "all")
    cpu, disk, ubc = (
        everything or _factor(given, f"{what}-only") for what in ("cpu", "disk", "ubc")
    )
    _factor(given, "network-only")
    output = given.get("output-file", "")
    if os.path.isdir(output):
        print(f"Error: output file {output} is directory")
        return FAILED
    if not os.path.exists(path):
        raise VzError(f"No such file {path}")
    found = planned.file_config(NodePaths.of(), path)
    pairs = planned.pairs_of(found)
    changes: dict[str, str | None] = {}
    if ubc:
        pairs |= scale.scaled(pairs, UBC_KEYS, ubc)
        changes |= _texts(found, {key: pairs[key] for key in UBC_KEYS if key in pairs})
    if cpu and (units := found.value("CPUUNITS")):
        changes |= _texts(found, {"CPUUNITS": scale.scaled_units(units, cpu)})
    if disk:
        there = {key: pair for key in scale.DISK if (pair := found.value(key))}
        changes |= _texts(found, scale.scaled(there, scale.DISK, disk))
    if "remove" in given:
        changes |= dict.fromkeys(_ONE_VPS_ONLY)
    if "validate" in given and not vzcfgvalidate.check(pairs, None, False, None):
        return FAILED
    if output:
        _save(path, output, changes)
    else:
        with open(path, errors="surrogateescape") as f:
            text = config.edited(f.read(), changes)
        sys.stdout.buffer.write(os.fsencode(text))
    print("Scale completed: success", file=sys.stderr)
    return 0


def _texts(found: Config, changed: Mapping[str, object]) -> dict[str, str]:
    """Of what the file itself sets: what vz.conf gives it stays there."""
    return {
        key: values.text(BY_KEY[key].kind, value)
        for key, value in changed.items()
        if found.own(key) is not None
    }


def _save(path: str, output: str, changes: dict[str, str | None]) -> None:
    """What was there before is kept as OUTPUT.bak. Raises VzError."""
    try:
        if os.path.exists(output):
            shutil.copy2(output, f"{output}.bak")
        if not (os.path.exists(output) and os.path.samefile(path, output)):
            shutil.copyfile(path, output)
    except OSError as err:
        raise VzError.of(f"Unable to save {output}", err) from None
    config.save(output, changes)


def _factor(given: dict[str, str], name: str) -> float:
    """0 when it was not given. Raises VzError."""
    if name not in given:
        return 0
    try:
        return amounts.positive_float(given[name])
    except amounts.Invalid:
        raise VzError(f"Bad parameter {given[name]}") from None
