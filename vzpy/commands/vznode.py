"""vz setup, doctor, cp: the commands that follow no contract, by click."""

from __future__ import annotations

import os

import click

from vzpy import __version__
from vzpy.commands.vz import tell
from vzpy.errors import Exit, VzError
from vzpy.model import NodePaths


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The boot service: vz start|stop|status|restart|force-reload.",
)
@click.version_option(__version__, message="vz version %(version)s")
def group() -> None:
    """Set up, examine and serve a node of VPSs."""


def main(argv: list[str]) -> int:
    """Run `vz ARGV...`; returns the exit code."""
    try:
        return int(group.main(argv, prog_name="vz", standalone_mode=False) or 0)
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except click.Abort:
        return 130


@group.command()
@click.option("--vzdir", metavar="DIR", help="Folder of VPSs and templates. [default: $VZDIR, /vz]")
@click.option("--remove", is_flag=True, help="Take back what setup made and nobody has changed.")
def setup(vzdir: str | None, remove: bool) -> int:
    """Write the default vz.conf, the sample configurations, the data folders.

    What exists is never touched, so it can be run again and again."""
    from vzpy import nodesetup

    paths = NodePaths.of()
    if remove:
        nodesetup.remove(paths, tell)
    else:
        vzdir = vzdir or os.environ.get("VZDIR") or nodesetup.VZDIR
        nodesetup.setup(paths, vzdir, tell)
    return 0


@group.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of lines.")
@click.option("--vps", "count", default=100, show_default=True, type=click.IntRange(1, 100000),
              help="How many VPSs the kernel's limits have to do for.")
@click.option("--fix", is_flag=True, help="Raise what is too low, in /etc/sysctl.d/99-vz.conf.")
def doctor(as_json: bool, count: int, fix: bool) -> int:
    """Try every ability of this machine that a VPS uses.

    Exit code 0 when a VPS can start, else 1."""
    from vzpy import doctor as room

    findings = []
    if fix:
        from vzpy.doctor import host

        for name, value in host.fix_sysctls(count).items():
            click.echo(f"{name} = {value}", err=as_json)
    for finding in room.examine(NodePaths.of(), count):
        findings.append(finding)
        if not as_json:
            click.echo(finding.line())
    able = room.can_start(findings)
    if as_json:
        import json

        click.echo(json.dumps([vars(f) for f in findings], indent=1))
    else:
        click.echo("\nA VPS can start here." if able else "\nNo VPS can start here.")
    return 0 if able else 1


@group.command()
@click.argument("name", type=click.Choice(("veinfo", "veip", "veth")))
def proc(name: str) -> int:
    """Print what a kernel of OpenVZ shows as /proc/vz/NAME."""
    from vzpy import listing, veproc
    from vzpy.node import Node

    node = Node()
    click.echo(veproc.TEXTS[name](listing.Node(node.paths, node.config)), nl=False)
    return 0


@group.command()
@click.argument("source")
@click.argument("target")
def cp(source: str, target: str) -> int:
    """Copy a file or folder into a VPS or out of it: N:PATH names one in VPS N.

    Into a VPS, owners are its own users; out of it they are the same numbers on the host. Links
    of the VPS never lead out of it. Devices and sockets are left out, set-user-ID bits dropped on
    the way out."""
    from vzpy.node import Node
    from vzpy.story.cp import copy

    copy(Node(), source, target, tell)
    return 0


@group.command()
@click.argument("source")
@click.argument("new", type=int)
@click.option("--hostname", metavar="NAME", default="", help="Its host name. [default: the same]")
@click.option("--name", metavar="NAME", default="", help="Its second name. [default: none]")
def clone(source: str, new: int, hostname: str, name: str) -> int:
    """Copy a stopped VPS, by number or name, to a new number.

    Addresses, network interfaces and devices are left out; ids, machine-id and ssh host keys are
    its own. Data is shared where the file system can."""
    from vzpy.commands.bar import Bar
    from vzpy.node import Node

    with Bar("Copying") as progress:
        Node().clone(source, new, hostname=hostname, name=name, report=tell, progress=progress)
    return 0


@group.group()
def template() -> None:
    """The unpacked OS templates that VPSs of layout overlay stand on."""


@template.command("list")
def template_list() -> int:
    """One line a tree: its name, how many VPSs stand on it, whether it is what new ones get."""
    from vzpy import template as store

    for tree in store.trees(*_store()):
        state = "current" if tree.is_current else "kept" if tree.users else "unused"
        click.echo(f"{os.path.basename(tree.path):<50} {len(tree.users):>5} {state}")
    return 0


@template.command("gc")
def template_gc() -> int:
    """Remove the trees that no VPS stands on and no cache gives any more; prints what went."""
    from vzpy import template as store

    for path in store.gc(*_store()):
        click.echo(path)
    return 0


def _store() -> tuple[str, list[str]]:
    """The template folder, and the private areas of this node."""
    from vzpy.node import Node

    node = Node()
    folder = node.config.raw("TEMPLATE")
    if not folder:
        raise VzError("TEMPLATE is not set", Exit.VE_TMPL_NOTSET)
    return folder, [vps.config.raw("VE_PRIVATE") or "" for vps in node]


@group.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line instead of text.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until interrupted.")
@click.argument("ctid", required=False)
def events(ctid: str | None, as_json: bool, follow: bool) -> int:
    """Tell which VPS ran into which limit, and what was killed for want of memory.

    Of one VPS, or of all. A limit that is hit again and again is told ever more rarely, with how
    often it was. Only what happens while vzeventd runs is seen as it happens; what it finds when
    it starts is told then."""
    from vzpy.node import Node

    node = Node()
    number = node.vps(ctid).ctid if ctid else 0
    for hit in node.events(number, follow=follow):
        click.echo(hit.as_json() if as_json else str(hit))
    return 0


@group.command()
@click.argument("ctid")
def rescue(ctid: str) -> int:
    """Get a VPS going again that thrashes: swaps in and out and does little else.

    It is frozen, what it does not need is reclaimed, and when that does not do its biggest process
    is killed, with a little more memory for the moment. Then it goes on, within its limits."""
    from vzpy.node import Node

    Node().vps(ctid).rescue(report=tell)
    return 0
