"""Many threads of one process, each with VPSs of its own, while another keeps the interpreter
busy: no hang, no mix-up."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import tools

THREADS = 8


@pytest.fixture
def busy():
    """A thread that never lets go of the interpreter for long, and a process beside."""
    end = threading.Event()

    def spin() -> None:
        while not end.is_set():
            sum(range(2000))

    thread = threading.Thread(target=spin)
    thread.start()
    spinner = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    yield
    end.set()
    thread.join()
    spinner.kill()
    spinner.wait()


def rounds(node, count: int) -> None:
    for number in range(THREADS):
        node.create(101 + number)

    def work(number: int) -> None:
        vps = node.vps(101 + number)
        for k in range(count // THREADS):
            vps.start()
            done = vps.exec(["sh", "-c", f"hostname; echo {k} >&2; exit {number}"])
            assert done.returncode == number
            assert done.stdout == f"vps{101 + number}\n".encode()
            assert done.stderr == f"{k}\n".encode()
            vps.stop(fast=True)
            assert str(vps.status) == "exist unmounted down"

    tools.in_threads(work, range(THREADS), 1200)


def test_some_rounds(parent, node, busy):
    rounds(node, 2 * THREADS)


@tools.slow
def test_many_rounds(parent, node, busy):
    rounds(node, tools.ROUNDS // 2)


def test_create_and_destroy_at_once(node):
    """Id ranges, names and trees are not mixed up."""

    def work(number: int) -> tuple[int, int]:
        vps = node.create(201 + number, name=f"n{number}")
        base = vps.ids.base
        assert node.vps(f"n{number}").ctid == 201 + number
        return base, number

    bases = tools.in_threads(work, range(THREADS))
    assert len({base for base, _ in bases}) == THREADS
    tools.in_threads(lambda number: node.vps(201 + number).destroy(), range(THREADS))
    assert list(node) == []


def test_processes_at_once(node):
    """The same from many processes: each starts one, looks into it, stops it."""
    program = """if True:
        import sys
        from vzpy import Node
        node = Node()
        vps = node.create(int(sys.argv[1]))
        vps.start()
        print(vps.exec(["hostname"]).stdout.decode(), end="")
        vps.stop(fast=True)
        vps.destroy()
    """
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run,
           "PYTHONPATH": str(tools.ROOT)}  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(101 + n)], env=env,
                         stdout=subprocess.PIPE)
        for n in range(THREADS)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in running]
    assert said == [f"vps{101 + n}\n".encode() for n in range(THREADS)]
    assert list(node) == []
