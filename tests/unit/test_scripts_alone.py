"""Action scripts: order, environment, failures, interruption."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vzpy import scripts
from vzpy.model import NodePaths


@pytest.fixture
def paths(tmp_path):
    etc = tmp_path / "etc"
    (etc / "conf").mkdir(parents=True)
    return NodePaths(str(etc), str(tmp_path / "run"), str(tmp_path / "var"), "vz-test")


def script(paths, name, text, mode=0o755, first="#!/bin/sh\n"):
    path = f"{paths.conf}/{name}"
    with open(path, "w") as file:
        file.write(first + text)
    os.chmod(path, mode)
    return path


@pytest.mark.parametrize(
    "kind, order",
    [
        ("premount", ["vps", "101"]),
        ("mount", ["vps", "101"]),
        ("umount", ["101", "vps"]),
        ("postumount", ["101", "vps"]),
    ],
)
def test_order(paths, tmp_path, kind, order):
    for who in ("vps", "101", "102"):
        script(paths, f"{who}.{kind}", f"echo {who} >>{tmp_path}/said\n")
    scripts.run(paths, 101, kind)
    assert (tmp_path / "said").read_text().split() == order


def test_missing_scripts_are_no_error(paths):
    scripts.run(paths, 101, "mount")
    assert scripts.ct_script(paths, 101, "start") is None
    assert scripts.create_script(paths) is None


def test_environment_is_exactly_the_contract(paths, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    script(paths, "101.mount", f"exec /usr/bin/env -0 >{tmp_path}/env\n", first="#!/bin/dash\n")
    scripts.run(paths, 101, "mount")
    env = dict(x.split("=", 1) for x in (tmp_path / "env").read_text().split("\0") if x)
    env.pop("PWD", None)  # the shell's own
    assert env == {
        "HOME": "/",
        "TERM": "linux",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VEID": "101",
        "VE_CONFFILE": f"{paths.conf}/101.conf",
    }


def test_argv_stdin_and_streams(paths, capfd):
    name = script(paths, "vps.mount", 'echo "$#:$0"; cat; echo told >&2\n')
    scripts.run(paths, 101, "mount")
    assert capfd.readouterr() == (f"0:{name}\n", "told\n")


@pytest.mark.parametrize("kind", ["premount", "mount", "umount", "postumount"])
def test_a_failure_is_79_and_ends_it(paths, tmp_path, kind):
    first, second = scripts._ORDER[kind]
    failing = script(paths, f"{first}.{kind}".replace("N", "101"), "exit 3\n")
    script(paths, f"{second}.{kind}".replace("N", "101"), f"touch {tmp_path}/ran\n")
    with pytest.raises(scripts.ScriptFailed) as info:
        scripts.run(paths, 101, kind)
    assert info.value.code == 79
    assert info.value.message == f"Error executing {kind} script {failing}"
    assert info.value.hint == f"{failing}: exit status 3"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "mode, first, why",
    [
        (0o644, "#!/bin/sh\n", "Permission denied"),
        (0o755, "", "it needs a first line #!INTERPRETER"),
        (0o755, "#!/nonexistent\n", "No such file or directory"),
    ],
)
def test_what_cannot_be_executed_says_why(paths, mode, first, why):
    script(paths, "101.mount", "exit 0\n", mode, first)
    with pytest.raises(scripts.ScriptFailed) as info:
        scripts.run(paths, 101, "mount")
    assert why in info.value.hint


def test_killed_by_a_signal(paths):
    script(paths, "101.mount", "kill -9 $$\n")
    with pytest.raises(scripts.ScriptFailed, match="killed by signal 9"):
        scripts.run(paths, 101, "mount")


def test_signals_are_as_in_a_fresh_process(paths, tmp_path):
    """Python ignores SIGPIPE; a script must not."""
    script(paths, "101.mount", f"grep -E 'Sig(Ign|Blk)' /proc/self/status >{tmp_path}/sig\n")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        scripts.run(paths, 101, "mount")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    words = (tmp_path / "sig").read_text().split()
    glibc = 3 << 31  # 32 and 33 are its own: no program can set them
    assert [int(words[1], 16) & ~glibc, int(words[3], 16) & ~glibc] == [0, 0]


def test_an_interrupt_kills_the_script_and_its_children(paths, tmp_path):
    script(paths, "101.mount", f"sleep 600 & echo $$ $! >{tmp_path}/pids; wait\n")

    def interrupt():
        while not (tmp_path / "pids").exists() or len(_pids(tmp_path)) < 2:
            time.sleep(0.01)
        # The first one may come just before we wait, and then wakes nobody.
        while not over.wait(0.5):
            os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        try:
            scripts.run(paths, 101, "mount")
        finally:
            over.set()
    for pid in _pids(tmp_path):
        for _ in range(100):
            if not _lives(pid):
                break
            time.sleep(0.01)
        assert not _lives(pid)


def _lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _pids(tmp_path):
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def test_a_caller_that_ignores_sigchld_is_told(paths):
    script(paths, "101.mount", "exit 0\n")
    code = (
        "import signal; from vzpy import scripts; from vzpy.model import NodePaths;"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        f"scripts.run(NodePaths({paths.etc!r}, '', '', ''), 101, 'mount')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ignores SIGCHLD" in done.stderr


def test_the_text_of_a_ct_script(paths):
    script(paths, "101.start", "echo hi \xe9\n", mode=0o600)
    assert scripts.ct_script(paths, 101, "start") == "#!/bin/sh\necho hi \xe9\n".encode()
    os.mkdir(f"{paths.conf}/101.stop")
    with pytest.raises(scripts.ScriptFailed, match="Error executing stop script"):
        scripts.ct_script(paths, 101, "stop")
