"""The control socket over real sockets, with commands for the tests."""

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from polling import wait_until

from telemetry_agent.clock import Clock
from telemetry_agent.daemon import control
from telemetry_agent.daemon.client import Answers, NoAgentError, ask, socket_path
from telemetry_agent.daemon.control import Command, Control
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import AgentError, UnavailableError
from telemetry_agent.snapshot import PROTOCOL
from telemetry_agent.tasks import Bell

LIMIT_S = 60


class Commands:
    """The commands that the tests send."""

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.bells: list[Bell] = []

    def echo(self, asked: Mapping[str, Any], _bell: Bell) -> Answers:
        yield dict(asked)
        yield {"number": 2}

    def wait(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        self.bells.append(bell)
        try:
            yield {"waits": True}
            self.waiting.release()
            bell.wait(None)
            yield {"rung": True}
        finally:
            self.ended.release()

    def flood(self, _asked: Mapping[str, Any], _bell: Bell) -> Answers:
        while True:
            yield {"flood": "x" * 10_000}

    def unavailable(self, _asked: Mapping[str, Any], _bell: Bell) -> Answers:
        yield {"number": 1}
        raise UnavailableError("nobody there")

    def crash(self, _asked: Mapping[str, Any], _bell: Bell) -> Answers:
        raise RuntimeError("a bug")
        yield {}

    def crash_at_the_end(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        try:
            yield from self.wait(asked, bell)
        except control.GoneError:
            raise RuntimeError("the queue is closed") from None

    def all(self) -> dict[str, Command]:
        names = ("echo", "wait", "flood", "unavailable", "crash", "crash_at_the_end")
        return {name: getattr(self, name) for name in names}


@contextlib.contextmanager
def listening(queue: Path, commands: Commands) -> Iterator[Control]:
    supervisor = Supervisor(Clock())
    supervised = supervisor.add("control", lambda: Control(queue, commands.all()))
    supervised.start()
    wait_until(lambda: answers_at(queue))
    try:
        yield supervised.task
    finally:
        supervised.end(LIMIT_S)
        assert supervised.crashes == 0


def answers_at(queue: Path) -> bool:
    try:
        return bool(list(ask(queue, {"ask": "echo"})))
    except NoAgentError:
        return False


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@contextlib.contextmanager
def connected(queue: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(str(socket_path(queue)))
        yield sock


def said(sock: socket.socket) -> list[Any]:
    """Return all lines until the agent closes the connection."""
    data = b""
    while more := sock.recv(65536):
        data += more
    return [json.loads(line) for line in data.splitlines()]


def test_answers_come_as_they_were_given(queue: Path, commands: Commands) -> None:
    with listening(queue, commands):
        question = {"ask": "echo", "text": "ü\n\x00"}
        assert list(ask(queue, question)) == [question, {"number": 2}]


def test_on_the_wire_it_is_json_lines_with_an_end(queue: Path, commands: Commands) -> None:
    with listening(queue, commands), connected(queue) as sock:
        sock.sendall(b'{"ask":')
        sock.sendall(b'"echo"}\nwhat follows is nobody\'s business\n')
        assert said(sock) == [
            {"protocol": PROTOCOL, "ask": "echo"},
            {"protocol": PROTOCOL, "number": 2},
            {"protocol": PROTOCOL, "end": True},
        ]


def test_another_version_is_told_once_and_understood(queue: Path, commands: Commands) -> None:
    notes: list[str] = []
    with listening(queue, commands):
        newer = {"ask": "echo", "protocol": PROTOCOL + 1}  # the echo then has that version
        assert list(ask(queue, newer, notes.append)) == [{"ask": "echo"}, {"number": 2}]
    (note,) = notes
    assert note.startswith(f"this command understands protocol {PROTOCOL}, the agent speaks 2:")


def test_an_error_keeps_its_kind(queue: Path, commands: Commands) -> None:
    with listening(queue, commands):
        answers = ask(queue, {"ask": "unavailable"})
        assert next(answers) == {"number": 1}
        with pytest.raises(UnavailableError, match="nobody there"):
            next(answers)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"ask": 7}\n',
        b"[" * 60_000 + b"\n",
    ],
)
def test_what_is_no_question_is_told(line: bytes, queue: Path, commands: Commands) -> None:
    with listening(queue, commands), connected(queue) as sock:
        sock.sendall(line)
        (answer,) = said(sock)
        assert answer["exit_status"] == 2
        assert "is needed" in answer["error"]


def test_a_question_that_is_not_known_is_told(queue: Path, commands: Commands) -> None:
    with listening(queue, commands), pytest.raises(AgentError, match="'dance' cannot be asked"):
        list(ask(queue, {"ask": "dance"}))


def test_ten_megabytes_without_a_line_end_are_not_read(queue: Path, commands: Commands) -> None:
    with listening(queue, commands), connected(queue) as sock:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            sock.sendall(b"x" * 10_000_000)
        assert answers_at(queue)


def test_who_says_nothing_is_dismissed(
    queue: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(queue, commands):
        monkeypatch.setattr(control, "_QUESTION_S", 2)
        with connected(queue) as sock:
            sock.sendall(b'{"ask"')
            assert sock.recv(1) == b""


def test_who_asks_byte_by_byte_is_dismissed(
    queue: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:

    def drip(sock: socket.socket) -> None:
        sock.settimeout(0.05)
        for _ in range(20 * LIMIT_S):
            sock.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                sock.recv(1)

    with listening(queue, commands):
        monkeypatch.setattr(control, "_QUESTION_S", 0.5)
        with connected(queue) as sock, pytest.raises(OSError, match=r"Broken pipe|reset"):
            drip(sock)


def test_one_that_waits_holds_up_no_other(queue: Path, commands: Commands) -> None:
    with listening(queue, commands):
        waiting = ask(queue, {"ask": "wait"})
        assert next(waiting) == {"waits": True}
        assert commands.waiting.acquire(timeout=LIMIT_S)
        assert answers_at(queue)
        commands.bells[0].ring()
        assert list(waiting) == [{"rung": True}]


def test_one_that_does_not_read_holds_up_no_other(queue: Path, commands: Commands) -> None:
    with listening(queue, commands), connected(queue) as sock:
        sock.sendall(b'{"ask": "flood"}\n')
        assert sock.recv(1)
        assert answers_at(queue)


def test_a_command_ends_when_its_asker_leaves(queue: Path, commands: Commands) -> None:
    with listening(queue, commands):
        with connected(queue) as sock:
            sock.sendall(b'{"ask": "wait"}\n')
            assert commands.waiting.acquire(timeout=LIMIT_S)
        assert commands.ended.acquire(timeout=LIMIT_S)


def test_the_seventeenth_is_sent_away_and_has_room_later(queue: Path, commands: Commands) -> None:
    with listening(queue, commands):
        with contextlib.ExitStack() as stack:
            for _ in range(16):
                sock = stack.enter_context(connected(queue))
                sock.sendall(b'{"ask": "wait"}\n')
                assert commands.waiting.acquire(timeout=LIMIT_S)
            with pytest.raises(AgentError, match="too many clients at once"):
                list(ask(queue, {"ask": "echo"}))
        for _ in range(16):
            assert commands.ended.acquire(timeout=LIMIT_S)
        wait_until(lambda: has_room(queue))


def test_a_client_for_whom_the_system_has_no_thread_is_told(
    queue: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with listening(queue, commands) as task:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(20):  # more than the limit of clients: each one must be forgotten
                with pytest.raises(AgentError, match="the system refuses the agent a thread"):
                    list(ask(queue, {"ask": "echo"}))
        wait_until(lambda: not task._clients)
        assert list(ask(queue, {"ask": "echo"}))


def has_room(queue: Path) -> bool:
    try:
        return bool(list(ask(queue, {"ask": "echo"})))
    except AgentError:
        return False


def test_a_fault_of_a_command_is_logged_and_told(
    queue: Path, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(queue, commands):
        with pytest.raises(AgentError, match="a fault of the agent"):
            list(ask(queue, {"ask": "crash"}))
        assert answers_at(queue)
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("command", ["wait", "crash_at_the_end"])
def test_the_end_of_the_daemon_ends_every_conversation(
    command: str, queue: Path, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(queue, commands):
        waiting = ask(queue, {"ask": command})
        next(waiting)
        assert commands.waiting.acquire(timeout=LIMIT_S)
    for thread in threading.enumerate():
        if thread.name == "control client":
            thread.join(LIMIT_S)
    assert caplog.records == []
    with pytest.raises(AgentError, match="ended before the end of its answer"):
        next(waiting)
    assert not socket_path(queue).exists()
    with pytest.raises(NoAgentError):
        next(ask(queue, {"ask": "echo"}))


def test_the_socket_of_a_killed_daemon_is_replaced(queue: Path, commands: Commands) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(queue)))
    with pytest.raises(NoAgentError):
        next(ask(queue, {"ask": "echo"}))
    with listening(queue, commands):
        assert answers_at(queue)


def test_a_socket_that_was_deleted_is_made_again(
    queue: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry_agent.daemon.control._STEP_S", 0.01)
    with listening(queue, commands):
        socket_path(queue).unlink()
        wait_until(lambda: answers_at(queue))


@pytest.mark.parametrize("other", ["/else/queue.db", 3, None, [1], {"a": 1}])
def test_another_queue_is_not_that_of_this_agent(
    other: object, queue: Path, commands: Commands
) -> None:
    with listening(queue, commands), connected(queue) as sock:
        sock.sendall(json.dumps({"ask": "echo", "queue": other}).encode() + b"\n")
        assert json.loads(sock.makefile().readline())["other_queue"]


def test_a_client_that_has_asked_and_closes_its_side_gets_the_whole_answer(
    queue: Path, commands: Commands
) -> None:
    """``socat`` and ``nc -N`` do this at the end of their input."""
    with listening(queue, commands) as control, connected(queue) as sock:
        sock.sendall(b'{"ask": "wait"}\n')
        sock.shutdown(socket.SHUT_WR)
        assert commands.waiting.acquire(timeout=LIMIT_S)
        wait_until(lambda: len(control._clients) == 1)  # the client of ``listening`` has left
        (client,) = control._clients
        client.ring()
        with sock.makefile() as lines:
            said = [json.loads(line) for line in lines]
    assert [*said[1], *said[2]] == ["protocol", "rung", "protocol", "end"]


def test_a_file_in_the_way_is_left_alone_and_told_once(
    queue: Path, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    path = socket_path(queue)
    path.write_text("somebody's work")
    listens_not = Control(queue, commands.all())
    with caplog.at_level(logging.WARNING):
        waits = [listens_not.step(0.0), listens_not.step(60.0)]
    assert all(wait_s and wait_s > 1 for wait_s in waits)
    listens_not.close()
    assert path.read_text() == "somebody's work"
    for make in (path.mkdir, lambda: path.symlink_to("/none"), lambda: path.write_text("a note")):
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        with pytest.raises(AgentError, match=r"\.sock is not a socket.*: remove it; an agent that"):
            next(ask(queue, {"ask": "echo"}))
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("length", [107, 108, 250])
def test_a_path_of_any_length_works(length: int, tmp_path: Path, commands: Commands) -> None:
    folder = tmp_path
    tail = len("/queue.db.sock")
    while (left := length - len(str(folder)) - tail - 1) > 100:
        folder /= "f" * 99
    if left > 0:
        folder /= "f" * left
    folder.mkdir(parents=True)
    queue = folder / "queue.db"
    assert len(str(socket_path(queue))) == max(length, len(str(tmp_path)) + tail)
    with listening(queue, commands):
        assert answers_at(queue)
    assert list(folder.iterdir()) == []
