"""Action scripts: the administrator's own programs around mount, umount, start and create.

vps.KIND is the node's, N.KIND one VPS's, both in the folder of N.conf. They run on the host, with
exactly the environment that the contract gives (config-files 7), and nothing of the caller's."""

from __future__ import annotations

import os

from vzpy.errors import Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.model import NodePaths

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELPERS = "/usr/libexec/vzctl/scripts"
# Around the mount the node's script is the outer one: first going in, last coming out.
_ORDER = {
    "premount": ("vps", "N"),
    "mount": ("vps", "N"),
    "umount": ("N", "vps"),
    "postumount": ("N", "vps"),
}
# All that may be reset: Python itself ignores SIGPIPE and SIGXFSZ, nohup SIGHUP.
_SIGNALS = [n for n in range(1, 65) if n not in (9, 19, 32, 33)]


class ScriptFailed(VzError):
    """A script ended badly, or cannot be executed."""

    code = Exit.ACTIONSCRIPT


def host_scripts(paths: NodePaths, ctid: int, kind: str) -> list[str]:
    """The scripts of a kind (premount, mount, umount, postumount) there are, in order."""
    names = (f"{paths.conf}/{ctid if who == 'N' else who}.{kind}" for who in _ORDER[kind])
    return [name for name in names if os.path.exists(name)]


def run(paths: NodePaths, ctid: int, kind: str) -> None:
    """Run the host's scripts of a kind; the first that fails ends it.

    Raises ScriptFailed (79)."""
    for script in host_scripts(paths, ctid, kind):
        _checked(script, paths, ctid, f"Error executing {kind} script {script}", kind)


def run_prestart(paths: NodePaths, ctid: int) -> None:
    """The helper vps-prestart, where the machine has one (it loads modules for DEVNODES).

    Raises ScriptFailed (79)."""
    script = f"{HELPERS}/vps-prestart"
    if os.path.exists(script):
        _checked(script, paths, ctid, f"Error executing prestart script {script}", "prestart")


def create_script(paths: NodePaths) -> str | None:
    """The hook vps.create, if there is one."""
    script = f"{paths.conf}/vps.create"
    return script if os.path.exists(script) else None


def ct_script(paths: NodePaths, ctid: int, kind: str) -> bytes | None:
    """The text of N.start or N.stop, for a shell inside the VPS; None when there is none.

    Raises ScriptFailed (79) when it is there and cannot be read."""
    script = f"{paths.conf}/{ctid}.{kind}"
    try:
        with open(script, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ScriptFailed.of(
            f"Error executing {kind} script {script}", err, step=f"{kind}-script"
        ) from err


def execute(script: str, paths: NodePaths, ctid: int, *words: str) -> str:
    """Run one script on the host to its end; returns what went wrong, "" when nothing did.

    words  its arguments
    Its output is the caller's. An exception meanwhile (KeyboardInterrupt, a signal handler's)
    kills the script with all it started, and goes on."""
    env = {
        "HOME": "/",
        "TERM": "linux",
        "PATH": PATH,
        "VEID": str(ctid),
        "VE_CONFFILE": f"{paths.conf}/{ctid}.conf",
    }
    try:
        # A process group of its own, so that one kill reaches the children of a shell script.
        pid = os.posix_spawn(
            script,
            [script, *words],
            env,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
    except OSError as err:
        return "it needs a first line #!INTERPRETER" if err.errno == 8 else str(err.strerror)
    try:
        status = os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return "its exit status is lost, because this process ignores SIGCHLD"
    except BaseException:
        _kill(pid)
        raise
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"it was killed by signal {-code}"
    return f"exit status {code}" if code else ""


def _checked(script: str, paths: NodePaths, ctid: int, text: str, kind: str) -> None:
    if why := execute(script, paths, ctid):
        raise ScriptFailed(text, step=f"{kind}-script", hint=f"{script}: {why}")


def _kill(group: int) -> None:
    try:
        os.killpg(group, 9)
        os.waitpid(group, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
