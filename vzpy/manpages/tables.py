"""What the tables say, as Markdown for the man pages: `{directive argument}` on its own line."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from inspect import cleandoc

from vzpy import actions, columns, params, setoptions
from vzpy.option import Option
from vzpy.params import BY_KEY

# What stands for a value of each class.
METAVARS = {
    "addresses": "ADDR[/MASK]",
    "addresses-or-all": "ADDR|all",
    "capability": "NAME:on|off[,...]",
    "cpulimit": "PERCENT",
    "cpulist": "LIST|all",
    "cpumask": "LIST|all|auto",
    "cpuunits": "N",
    "devices": "b|c:MAJOR:MINOR|all:[rwq]|none",
    "rate": "DEVICE:CLASS:KBIT",
    "devnodes": "NAME:[rwq]|none",
    "devnodes-here": "NAME:[rwq]|none",
    "disk-inodes": "N[:N]",
    "disk-space": "SIZE[:SIZE]",
    "features": "NAME:on|off[,...]",
    "filename": "NAME",
    "float": "X",
    "hex": "HEX",
    "hostname": "NAME",
    "ifname": "IFNAME|all",
    "integer": "N",
    "iolimit": "BYTES",
    "iolimit-mb": "SIZE",
    "iopslimit": "N",
    "ioprio": "0-7",
    "layout": "overlay|simfs|image[:MODE]",
    "mac": "MAC",
    "map": "name",
    "meminfo": "none|pages:N|privvmpages:N",
    "name": "NAME",
    "nameserver": "ADDR|inherit",
    "netdevs": "IFNAME",
    "netfilter": "disabled|stateless|stateful|full",
    "netif": "LIST",
    "netif-add": "IFNAME[,MAC,HOST_IFNAME,HOST_MAC,BRIDGE]",
    "number": "N",
    "on-off": "on|off",
    "one-ifname": "IFNAME",
    "path": "PATH",
    "pci": "[DOMAIN:]BUS:SLOT.FUNC",
    "range-base": "ID",
    "ranges": "N",
    "setmode": "restart|ignore",
    "text": "TEXT",
    "ubc-byte": "SIZE[:SIZE]",
    "ubc-num": "N[:N]",
    "ubc-page": "PAGES[:PAGES]",
    "userpasswd": "USER:PASSWORD",
    "uuid": "UUID",
    "vswap": "SIZE",
    "words": "WORDS",
    "yesno": "yes|no",
}

_ROOMS = {
    params.CORE: "General",
    params.NAME: "General",
    params.FS: "General",
    params.GUEST: "Inside",
    params.UBC: "Memory, processes and other beancounters",
    params.CPU: "CPU",
    params.IO: "Disk bandwidth",
    params.DISK: "Disk quota",
    params.NET: "Network",
    params.NETDEV: "Network",
    params.VETH: "Network",
    params.SHAPE: "Network",
    params.FILTER: "Kernel features",
    params.CAPS: "Kernel features",
    params.DEV: "Devices",
    params.PCI: "Devices",
}
_WORD = re.compile(r"(--?[\w-]+)|\b([A-Z][A-Z_]*)\b")


def expand(markdown: str) -> str:
    """Replace each directive by what it stands for. Raises KeyError for an unknown one."""
    lines = []
    for line in markdown.split("\n"):
        if line.startswith("{") and line.endswith("}"):
            name, *arguments = line[1:-1].split()
            lines += _DIRECTIVES[name](*arguments)
        else:
            lines.append(line)
    return "\n".join(lines)


def option_lines(option: Option) -> list[str]:
    """An option as a definition: all its names, its value, its text."""
    names = [f"-{option.short}"] if option.short else []
    names += [f"--{name}" for name in (option.name, *option.aliases) if name != option.short]
    term = ", ".join(f"**{name}**" for name in names)
    if option.kind:
        term += f" {_marked(METAVARS[option.kind])}"
    text = option.help
    param = BY_KEY.get(option.key)
    if param:
        text += f" (`{param.key}`)"
    if option.req_save:
        text += "; needs **--save**"
    if param and param.restart:
        text += "; needs a restart"
    return [term, f": {_sentence(text)}", ""]


def _marked(synopsis: str) -> str:
    """Options bold, values (capitals) italic."""
    return _WORD.sub(lambda m: f"**{m[1]}**" if m[1] else f"*{m[2]}*", synopsis)


def _actions() -> list[str]:
    lines = []
    for action in actions.all_actions():
        names = ", ".join((action.name, *action.aliases))
        synopsis = _marked(action.synopsis)
        lines += [f"### {names}", f"**vzctl {action.name}** *CTID* {synopsis}".rstrip(), ""]
        lines += [_sentence(action.help), ""]
        if action.name == "set":
            lines += ["The parameters have a section of their own, below.", ""]
        else:
            for option in action.options:
                lines += option_lines(option)
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _parameters() -> list[str]:
    groups: dict[str, list[str]] = {"How to set": []}
    for option in setoptions.SET:
        param = BY_KEY.get(option.key)
        group = _ROOMS[param.room] if param else _group_of(option)
        groups.setdefault(group, []).extend(option_lines(option))
    return [line for group, lines in groups.items() for line in (f"### {group}", *lines)]


def _group_of(option: Option) -> str:
    """Options of `set` that are no parameter: how to set, or by the room they act in."""
    if option.name == "userpasswd":
        return "Inside"
    if option.name in ("skip_arpdetect",):
        return "Network"
    return "Disk quota" if option.name == "offline-resize" else "How to set"


def _options(tool: str) -> list[str]:
    module = import_module(f"vzpy.commands.{tool}")
    return [line for option in module.OPTIONS for line in option_lines(option)]


def _vz(*names: str) -> list[str]:
    """A command of click, or one of a group of it: its usage, text and options."""
    import click

    from vzpy.commands.vznode import group

    name, command = " ".join(names), group.commands[names[0]]
    for inner in names[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[inner]
    options = [param for param in command.params if isinstance(param, click.Option)]
    words = [f"*{param.name}*" for param in command.params if param not in options]
    lines = [f"### {name}", " ".join([f"**vz {name}** [*options*]", *words]), ""]
    lines += [*cleandoc(command.help or "").split("\n"), ""]
    for option in options:
        value = "" if option.is_flag else f" *{option.metavar or 'N'}*"
        lines += [f"**{option.opts[0]}**{value}", f": {option.help}", ""]
    return lines


def _config() -> list[str]:
    """The parameters of N.conf in their storage order, by their options' texts."""
    lines = []
    for param in BY_KEY.values():
        if param.scope == params.GLOBAL:
            continue
        known = (*setoptions.SET, *setoptions.CREATE)
        options = ", ".join(f"**--{o.name}**" for o in known if o.key == param.key)
        text = param.help or (f"set by {options}" if options else "")
        if not text:
            continue  # described by hand
        default = f"; default {param.default}" if param.default else ""
        lines += [f"**{param.key}**", f": {_sentence(text + default)}", ""]
    return lines


_OWN_FIELDS = {
    "ctid": "number",
    "veid": "number",
    "vpsid": "number",
    "smart_name": "second name, else the number",
    "status": "running, stopped, mounted or suspended",
    "laverage": "load averages of 1, 5 and 15 minutes",
    "uptime": "time since its start",
    "vswap": "whether RAM and swap are its only beancounters",
    "ip": "addresses",
    "configured_ip": "addresses in the configuration file",
    "layout": "kind of root file system",
    "origin_sample": "sample it was made of",
}


def _fields() -> list[str]:
    """The fields of vzlist in its order, with the header of their column."""
    helps = {param.option: param.help for param in BY_KEY.values()}
    shown = (param for param in BY_KEY.values() if param.column)
    helps |= {param.column.partition(" ")[0]: param.help for param in shown}
    lines = []
    for name in (*columns.ORDER, *columns.EXTRA):
        field = columns.field_of(name)
        assert field
        text = helps.get(name) or _OWN_FIELDS[name]
        lines += [f"**{name}** ({field.column.header})", f": {_sentence(text)}", ""]
    return lines


def _reasons() -> list[str]:
    """Why antispoof.py drops a packet."""
    from vzpy import antispoof

    lines = []
    for reason, text in antispoof.REASONS.items():
        lines += [f"**{reason}**", f": {_sentence(text)}", ""]
    return lines


_DIRECTIVES: dict[str, Callable[..., list[str]]] = {
    "actions": _actions,
    "config": _config,
    "fields": _fields,
    "options": _options,
    "parameters": _parameters,
    "reasons": _reasons,
    "vz": _vz,
}
