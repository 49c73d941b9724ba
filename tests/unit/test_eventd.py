"""vzeventd without VPSs: its messages, its loop, who is let in, what vz-fdkeep holds."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import signal
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import state
from vzpy.errors import Locked
from vzpy.eventd import fdkeep, loop, server, summon, wire, worker
from vzpy.eventd.attach import DETACH, SAK, Keys
from vzpy.kernel import watch
from vzpy.model import NodePaths

plain = st.recursive(
    st.integers() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def depth(value) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, tuple)) else 0


@given(st.dictionaries(st.text(), plain))
def test_messages_arrive_as_they_were_sent(message):
    if depth(message) <= 8:
        assert wire.decode(wire.encode(message)) == message


@given(st.binary())
def test_rubbish_is_no_message(data):
    try:
        assert isinstance(wire.decode(data), dict)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "data", [b"", b"d", b"de ", b"i1e", b"d" * 100000, b"du1:a", b"du1:aie", b"du9999999999:ae",
             b"du-1:ae", b"du1:ai1", b"d1:ai1ei2ei3ee", b"du1:a9:b"]
)
def test_what_is_wrong_is_refused(data):
    with pytest.raises(ValueError):
        wire.decode(data)


def pair():
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def test_descriptors_of_rubbish_are_closed():
    a, b = pair()
    r, w = os.pipe()
    a.sendmsg([b"rubbish"], [(_socket.SOL_SOCKET, 1, r.to_bytes(4, "little"))])
    os.close(r)
    with pytest.raises(ValueError):
        wire.receive(b)
    with pytest.raises(BrokenPipeError):  # the last reader has gone
        os.write(w, b"x")
    os.close(w)


def test_too_long_a_message_is_not_sent():
    a, _b = pair()
    with pytest.raises(OSError) as err:
        wire.send(a, {"data": b"x" * wire.LIMIT})
    assert err.value.errno == errno.EMSGSIZE


def test_a_peer_that_died_before_it_read_is_told_from_one_that_read():
    a, b = pair()
    wire.send(a, {"op": "launch"})
    b.close()
    with pytest.raises(ConnectionResetError):
        wire.receive(a)
    a, b = pair()
    wire.send(a, {"op": "launch"})
    wire.receive(b)
    b.close()
    with pytest.raises(ConnectionAbortedError):
        wire.receive(a)


# The loop


def failing(err):
    raise err


def test_timers_run_in_time_and_cancelled_ones_do_not():
    ran = []
    events = loop.Loop(failing)
    events.after(0.05, lambda: ran.append(time.monotonic()) or events.end())
    events.after(0.02, lambda: ran.append("first"))
    events.after(0.01, lambda: ran.append("never")).cancel()
    began = time.monotonic()
    events.run()
    assert ran[0] == "first"
    assert 0.05 <= ran[1] - began < 1
    events.close()


def test_a_loop_without_timers_sleeps():
    assert loop.Loop(failing)._until_next() is None


def test_an_exception_of_a_callback_is_told_and_the_loop_goes_on():
    told = []
    events = loop.Loop(told.append)
    r, w = os.pipe()
    os.write(w, b"x")
    events.watch(r, select.EPOLLIN, lambda _: (events.forget(r), 1 / 0))
    events.after(0.02, events.end)
    events.run()
    assert [type(err) for err in told] == [ZeroDivisionError]
    os.close(r)
    os.close(w)
    events.close()


def test_signals_come_through_the_loop():
    def run():
        events = loop.Loop(failing)
        got = []
        events.on_signals((signal.SIGUSR1,), lambda sig: got.append(sig) or events.end())
        os.kill(os.getpid(), signal.SIGUSR1)
        events.run()
        os._exit(0 if got == [signal.SIGUSR1] else 1)

    if (pid := os.fork()) == 0:
        run()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# The server


@pytest.fixture
def served(tmp_path):
    """A server in a thread: (connect, handlers, server)."""
    if os.geteuid():
        pytest.skip("needs root")
    path = str(tmp_path / ("long" * 40) / "sock")
    os.mkdir(os.path.dirname(path))
    events = loop.Loop(failing)
    made = server.Server(events, summon.listen(path), lambda: None)
    stop_r, stop_w = os.pipe()
    events.watch(stop_r, select.EPOLLIN, lambda _: events.end())
    thread = threading.Thread(target=events.run)
    thread.start()

    def connect():
        sock = summon.connect(path)
        sock.settimeout(5)
        return sock

    yield connect, made.handlers, made, path
    os.close(stop_w)
    thread.join()
    made.close()
    made.listener.close()
    events.close()
    os.close(stop_r)


def ask(sock, message, fds=()):
    wire.send(sock, message, fds)
    return wire.receive(sock)[0]


def test_a_request_is_answered_and_errors_are_told(served):
    connect, handlers, _, _ = served
    handlers["add"] = lambda client, m, fds: {"sum": wire.number(m, "a") + wire.number(m, "b")}
    handlers["fail"] = lambda client, m, fds: failing(FileNotFoundError(2, "gone"))
    sock = connect()
    assert ask(sock, {"op": "add", "a": 1, "b": 2}) == {"sum": 3}
    assert ask(sock, {"op": "add", "a": "x", "b": 2})["errno"] == errno.EINVAL
    assert ask(sock, {"op": "fail"})["errno"] == errno.ENOENT
    assert ask(sock, {"op": "what"})["errno"] == errno.ENOSYS
    assert ask(sock, {"op": ()})["errno"] == errno.ENOSYS
    assert ask(sock, {"op": "add", "a": 1, "b": 2}) == {"sum": 3}


def test_one_that_talks_rubbish_is_dropped_and_others_are_served(served):
    connect, handlers, made, _ = served
    handlers["hello"] = lambda client, m, fds: {"you": 1}
    bad, good = connect(), connect()
    bad.send(b"\x00rubbish")
    assert "not understood" in wire.receive(bad)[0]["error"]
    with pytest.raises(ConnectionError):
        wire.receive(bad)
    assert ask(good, {"op": "hello"}) == {"you": 1}
    assert len(made.clients) == 1


def test_one_that_does_not_read_is_dropped_and_others_are_served(served):
    connect, handlers, _, _ = served
    handlers["much"] = lambda client, m, fds: {"data": b"x" * 60000}
    stalled, good = connect(), connect()
    stalled.settimeout(0.2)
    with pytest.raises(OSError):
        for _ in range(1000):
            wire.send(stalled, {"op": "much"})
    assert ask(good, {"op": "much"})["data"]


def test_descriptors_that_nobody_takes_are_closed(served):
    connect, handlers, _, _ = served
    handlers["take"] = lambda client, m, fds: {}
    sock = connect()
    r, w = os.pipe()
    assert ask(sock, {"op": "take"}, [r] * 250) == {}
    os.close(r)
    time.sleep(0.05)
    with pytest.raises(BrokenPipeError):
        os.write(w, b"x")
    os.close(w)


def test_only_root_is_let_in(served, tmp_path):
    _, handlers, _, path = served
    handlers["hello"] = lambda client, m, fds: {"you": 1}
    for folder in (path, os.path.dirname(path), *tmp_path.parents[:3], tmp_path):
        os.chmod(folder, 0o777)
    if (pid := os.fork()) == 0:
        os.setuid(65534)
        try:
            sock = summon.connect(path)
            sock.settimeout(5)
            ask(sock, {"op": "hello"})
        except ConnectionError:
            os._exit(0)
        except BaseException:
            os._exit(2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_too_many_clients_are_turned_away(served, monkeypatch):
    monkeypatch.setattr(server, "MAX_CLIENTS", 3)
    connect, handlers, _, _ = served
    handlers["hello"] = lambda client, m, fds: {"you": 1}
    kept = [connect() for _ in range(3)]
    assert [ask(sock, {"op": "hello"}) for sock in kept] == [{"you": 1}] * 3
    with pytest.raises(ConnectionError):
        ask(connect(), {"op": "hello"})
    kept.pop().close()
    time.sleep(0.05)
    assert ask(connect(), {"op": "hello"}) == {"you": 1}


# vz-fdkeep


@pytest.fixture
def keep(tmp_path):
    if os.geteuid():
        pytest.skip("needs root")
    path = str(tmp_path / "sock")
    listener = summon.listen(path)
    listener.setblocking(False)
    thread = threading.Thread(target=fdkeep.Store(listener).run)
    thread.start()
    first = summon.connect(path)
    yield lambda: summon.connect(path)
    first.close()
    thread.join(5)
    assert not thread.is_alive(), "it holds nothing and nobody is there, so it should have ended"
    listener.close()


def test_descriptors_are_kept_over_connections(keep):
    r, w = os.pipe()
    one = keep()
    wire.send(one, {"op": "store", "name": "b"}, [r])
    wire.send(one, {"op": "store", "name": "a"}, [w])
    wire.send(one, {"op": "store", "name": "a"}, [w])
    one.close()
    os.close(r)
    os.write(w, b"kept")
    os.close(w)
    two = keep()
    names, fds = [], []
    name = ""
    while True:
        wire.send(two, {"op": "next", "name": name})
        message, got = wire.receive(two)
        if not got:
            break
        name = message["name"]
        names.append(name)
        fds += got
    assert names == ["a", "b"]
    assert os.read(fds[1], 10) == b"kept"
    for name in names:
        wire.send(two, {"op": "drop", "name": name})
    wire.send(two, {"op": "next", "name": ""})
    assert wire.receive(two)[1] == []
    for fd in fds:
        os.close(fd)
    two.close()


# Ends


def status_of(child_does) -> int:
    if (pid := os.fork()) == 0:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        try:
            child_does()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(
    "does, how",
    [
        (lambda: os.kill(os.getpid(), 1), worker.REBOOT),
        (lambda: os.kill(os.getpid(), 2), worker.HALT),
        (lambda: os.kill(os.getpid(), 9), worker.CRASH),
        (lambda: os._exit(0), worker.HALT),
        (lambda: os._exit(3), worker.CRASH),
    ],
)
def test_the_wait_status_tells_how_it_ended(does, how):
    assert worker.reason(status_of(does)) == how


def test_of_a_crash_the_last_lines_are_told():
    tail = b"".join(b"line %d\r\n" % n for n in range(100)) + b"\x1b[31mpanic\x07\r\n"
    text = worker.describe(worker.CRASH, 9, tail)
    assert text.startswith("Container crashed: its init was killed by signal 9\n")
    assert text.endswith("\tconsole: line 99\n\tconsole: ?[31mpanic?")
    assert len(text.splitlines()) == 11


def test_the_end_of_a_process_that_is_not_ours_is_known():
    """A grandchild: seen as a zombie, and again once somebody has reaped it."""
    r, w = os.pipe()
    if (middle := os.fork()) == 0:
        if (pid := os.fork()) == 0:
            time.sleep(0.2)
            os._exit(7)
        os.write(w, b"%d" % pid)
        time.sleep(0.5)
        os.waitpid(pid, 0)
        time.sleep(5)
        os._exit(0)
    pid = int(os.read(r, 20))
    pidfd = os.pidfd_open(pid)
    assert watch.exit_status(pid, pidfd) is None
    select.select([pidfd], [], [])
    assert watch.exit_status(pid, pidfd) == 7 << 8
    time.sleep(0.6)
    reaped = watch.exit_status(pid, pidfd)
    os.kill(middle, 9)
    os.waitpid(middle, 0)
    for fd in (r, w, pidfd):
        os.close(fd)
    info = struct.pack("=2Q12I", 8, *(0,) * 13)
    try:
        fcntl.ioctl(os.pidfd_open(os.getpid()), 0xC040FF0B, info)
    except OSError:
        pytest.skip("needs PIDFD_GET_INFO")
    assert reaped in (7 << 8, None if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15)
                      else 7 << 8)


# The lock that a worker holds


def test_a_tool_waits_for_the_daemon_and_for_nobody_else(tmp_path):
    lockdir = str(tmp_path)
    with state.Lock(lockdir, 1), pytest.raises(Locked), state.Lock(lockdir, 1):
        pass
    brief = state.Lock(lockdir, 1, word=state.BRIEFLY)
    brief.__enter__()
    assert state.is_locked(lockdir, 1)
    threading.Timer(0.1, brief.__exit__, (None, None, None)).start()
    began = time.monotonic()
    with state.Lock(lockdir, 1):
        assert time.monotonic() - began > 0.09
    assert not state.is_locked(lockdir, 1)


# The terminal


@pytest.mark.parametrize(
    "typed, found",
    [
        (b"\x1b.", [DETACH]),
        (b"ls\r\x1b.", [b"ls\r", DETACH]),
        (b"ls\x1b.", [b"ls\x1b."]),
        (b"\x1b!", [SAK]),
        (b"\x1b!\x1b.", [SAK, DETACH]),
        (b"\x1b[A", [b"\x1b[A"]),
        (b"\r\x1bx\x1b.", [b"\r\x1bx\x1b."]),
        (b"\n\x1b", [b"\n"]),
    ],
)
def test_escapes_count_at_the_start_of_a_line(typed, found):
    assert Keys().feed(typed) == found
    keys = Keys()
    split = [item for byte in typed for item in keys.feed(bytes([byte]))]
    text = [i for i in split if not isinstance(i, bytes)]
    assert text == [i for i in found if not isinstance(i, bytes)]
    assert b"".join(i for i in split if isinstance(i, bytes)) == b"".join(
        i for i in found if isinstance(i, bytes)
    )


def test_a_launcher_is_found_beside_ours_or_in_the_package(monkeypatch, tmp_path):
    for name in ("vzctl", "vzeventd"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "vzctl")])
    assert summon.launcher("vzeventd") == [str(tmp_path / "vzeventd")]
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mytool")])
    assert summon.launcher("vzeventd")[-2].endswith("/vzpy/eventd/__main__.py")


def test_a_daemon_that_holds_the_lock_file_removed_is_not_waited_for(tmp_path):
    paths = NodePaths.of(str(tmp_path / "etc"), str(tmp_path / "run"))
    with summon.Guarded(paths):
        os.unlink(f"{paths.run}/vzeventd.lock")
        with summon.Guarded(paths):
            pass
