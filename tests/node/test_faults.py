"""A fault at every step of every story: an exception, and a kill -9 of the tool or of the first
task (DESIGN 5.3). Afterwards the VPS is as it was or done, and the next commands work; what is
left behind after its destruction is the leak check's. The steps are taken from the stories' own
lists, and a step that a case does not reach fails it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tools
from vzpy import child, quotaid, rootfs
from vzpy.errors import VzError
from vzpy.story import (
    convert,
    create,
    destroy,
    dump,
    enter,
    imageroot,
    imagesize,
    mount,
    net,
    netdevices,
    rescue,
    snapshot,
    start,
    stop,
    teardown,
)

KILL, FAIL = "VZ_TEST_STOP_AT", "VZ_TEST_FAIL_AT"
GONE = "deleted unmounted down"
DOWN = "exist unmounted down"
MOUNTED = "exist mounted down"
UP = "exist mounted running"

# action -> (words after the CTID, what the VPS was before, what it is when done, steps)
ACTIONS = {
    "create": ((), GONE, DOWN, (*create.STEPS, rootfs.LOWER)),
    "start": ((), DOWN, UP, (*start.STEPS, *child.STEPS, *mount.STEPS)),
    "stop": (("--fast",), UP, DOWN, (*stop.STEPS, *teardown.STEPS, *mount.UMOUNT_STEPS)),
    "exec": (("true",), UP, UP, enter.STEPS),
    "mount": ((), DOWN, MOUNTED, mount.STEPS),
    "umount": ((), MOUNTED, DOWN, mount.UMOUNT_STEPS),
    "destroy": ((), DOWN, GONE, destroy.STEPS),
}
# Stories that cut each other are cut once; `stop --fast` asks no init.
NOT_IN = {("stop", "halt")}
CASES = [
    (action, step)
    for action, (_, _, _, steps) in ACTIONS.items()
    for step in steps
    if (action, step) not in NOT_IN
]
BY_PARENT = {"start", "stop"}


def test_no_list_of_steps_is_forgotten():
    listed = {step for _, _, _, steps in ACTIONS.values() for step in steps}
    # cut in the tests of those layouts and stories
    listed |= {*snapshot.STEPS, *dump.STEPS}
    listed |= {*convert.STEPS, *imagesize.STEPS, imageroot.STEP, *quotaid.STEPS}
    listed |= {*net.STEPS, *netdevices.STEPS, *rescue.STEPS}
    for path in (tools.ROOT / "vzpy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fault":
                step = node.args[0]
                assert not isinstance(step, ast.Constant) or step.value in listed, path


def prepare(node, before: str):
    vps = node.vps(101)
    if before != GONE:
        vps.create(ostemplate="busybox-x86_64", name="one")
        Path(node.paths.conf, "101.start").write_text("true\n")
    if before == MOUNTED:
        vps.mount()
    if before == UP:
        vps.start()
    return vps


def check(vps, *allowed: str) -> None:
    """As it was or done, at the latest when whoever looks has had the time to clean up."""
    seen = []

    def settled() -> bool:
        vps.reload()
        seen[:] = [str(vps.status)]
        return seen[0] in allowed

    try:
        tools.wait_for(settled, 10)
    except AssertionError:
        log = Path(vps.node.paths.state, "vzctl.log").read_text()
        pytest.fail(f"{seen[0]}, not one of {allowed}\n{log}")


def go_on(vps, before: str, done: str) -> None:
    """The same once more, and then a life."""
    vps.reload()
    now = str(vps.status)
    if done == GONE and now == GONE:
        vps.create()
    elif now == GONE:
        vps.create(name="one")
    if str(vps.status) == MOUNTED:
        vps.umount()
    if not vps.status.running:
        vps.start()
    assert tools.sh(vps, "echo alive") == "alive\n"
    vps.stop(fast=True)
    assert str(vps.status) == DOWN
    vps.destroy()
    assert str(vps.status) == GONE


def cut(node, how: str, action: str, step: str) -> tools.Ran:
    words, before, done, _ = ACTIONS[action]
    vps = prepare(node, before)
    ran = tools.run_tool(node, ("vzctl", action, 101, *words), env={how: step}, timeout=60)
    # A task that dies between GO and exec looks like one that has been executed: status tells.
    assert ran.code or (how, step) == (KILL, "child-exec"), f"{step} is not reached: {ran}"
    assert "Traceback" not in ran.stderr, ran
    # An umount script that says no is to be obeyed.
    kept = how == FAIL and step in mount.UMOUNT_STEPS
    # Nothing of a start is done before init is executed, which comes after its last step.
    check(vps, before, *([] if action == "start" else [MOUNTED if kept else done, done]))
    go_on(vps, before, done)
    return ran


def cases(*, by_parent: bool):
    chosen = [c for c in CASES if (c[0] in BY_PARENT) == by_parent]
    return pytest.mark.parametrize("action,step", chosen, ids=["-".join(c) for c in chosen])


@cases(by_parent=True)
def test_killed(node, parent, action, step):
    cut(node, KILL, action, step)


@cases(by_parent=True)
def test_failed(node, parent, action, step):
    told(cut(node, FAIL, action, step), step)


@cases(by_parent=False)
def test_tool_killed(node, action, step):
    assert cut(node, KILL, action, step).code == -9


@cases(by_parent=False)
def test_tool_failed(node, action, step):
    told(cut(node, FAIL, action, step), step)


def told(ran: tools.Ran, step: str) -> None:
    """The error names what happened, in words."""
    assert "Input/output error" in ran.stderr or f"fault asked for at step {step}" in ran.stderr


@pytest.mark.parametrize("how", [KILL, FAIL])
def test_halt(node, how):
    """The one step that `stop --fast` does not have."""
    vps = prepare(node, UP)
    ran = tools.run_tool(node, ("vzctl", "stop", 101), env={how: "halt"})
    assert ran.code
    check(vps, UP, DOWN)
    go_on(vps, UP, DOWN)


def test_library_raises_its_own_errors(node, monkeypatch):
    vps = prepare(node, DOWN)
    for step in start.STEPS:
        monkeypatch.setenv(FAIL, step)
        with pytest.raises(VzError) as caught:
            vps.start()
        assert caught.value.code
        monkeypatch.delenv(FAIL)
        assert str(vps.status) == DOWN, step
    vps.start()
