"""Commands with an agent of another version: none of its answers causes a traceback."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from telemetry_agent import cli
from telemetry_agent.cli.status import lines
from telemetry_agent.daemon import client
from telemetry_agent.model import Satellite
from telemetry_agent.snapshot import (
    PROTOCOL,
    ConfigView,
    PageView,
    QueueView,
    ReceiverView,
    Snapshot,
    StorageView,
    UploadView,
    as_json,
    read,
)

OTHER = {"protocol": PROTOCOL + 7}
_FIX = {"time": "2026-11-23T12:35:19.000Z", "stream": "a" * 16, "seq": 1}
ANSWERS: dict[str, dict[str, Any]] = {
    "status": as_json(
        Snapshot(
            receiver=ReceiverView(
                state="3d",
                state_s=1.5,
                rate_hz=1.0,
                rejected={"garbage": 1},
                satellites=(Satellite("GPS", 1),),
                fix_age_s=1.0,
                quality="rtk",
                sats=8,
                hdop=0.9,
                message="m",
                remedy="r",
                notice="n",
            ),
            upload=UploadView(
                state="unreachable",
                unknown_names=1,
                rate_hz=1.0,
                last_delivery_s=2.0,
                complete_until="t",
                last_error="e",
                last_error_s=1.0,
                next_attempt_s=2.0,
            ),
            queue=QueueView(
                dead_letters={"400": 1}, lost={"thinned": 4}, oldest_pending="t", file_bytes=7
            ),
            page=PageView("held", "x"),
            config=ConfigView("wrong", "x"),
            storage=StorageView("runtime", "x", "y"),
        )
    ),
    "queue stats": {"ready": 1, "dead_letters": {"400": 1}, "lost": {}, "full": False}
    | {"oldest_pending_ms": 1_795_435_200_000},
    "queue list": {**_FIX, "state": "ready", "reason": "r"},
    "queue verify": {"rows": 2, "damaged": 0, "missing": 0, "damaged_marks": 0, "sound": True}
    | {"structure": "ok", "set_aside": [{"file": "f", "bytes": 3, "state": "s"}]}
    | {"lost": [{"count": 1, "after": _FIX, "before": None}]},
    "queue retry": {"retried": 1},
    "queue discard": {"discarded": 1},
    "queue resend": {"resent": 1},
    "export": {"text": "x", "stored": 1, "read": 1, "fixes": 1},
    "drain": {"pending": 0, "delivered": 1, "state": "ok"},
    "tap": {"state": "3d", "source": "s", "raw": "$x\r\n", "dropped_bytes": 4},
}
COMMANDS = {
    "status": ["status"],
    "queue stats": ["queue", "stats"],
    "queue list": ["queue", "list"],
    "queue verify": ["queue", "verify"],
    "queue retry": ["queue", "retry", "--all"],
    "queue discard": ["queue", "discard", "--all", "--yes"],
    "queue resend": ["queue", "resend", "--since", "1h"],
    "export": ["export", "--format", "csv"],
    "drain": ["drain"],
    "tap": ["tap", "--for", "1s"],
}
WRONG = ["x", -1, 1.5, True, None, [], ["x"], {}, {"x": {"y": 1}}, float("inf"), float("nan")]
WRONG += [10**400]


def places(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values of a tree."""
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def changed(tree: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return a copy with another value at ``place``; ``...`` removes it."""
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    *above, last = place
    inner = copy
    for key in above:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    return copy


class ForeignAgent:
    """An agent that gives everyone the same answer."""

    def __init__(self, path: Path) -> None:
        self.answer: dict[str, Any] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as lines:
                lines.readline()
                for line in ({**OTHER, **self.answer}, {**OTHER, "end": True}):
                    if self.answer or "end" in line:
                        lines.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForeignAgent]:
    config = '[queue]\npath = "queue.db"\n[upload]\nurl = "http://127.0.0.1:9/"\n'
    (tmp_path / "config.toml").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "none"))
    monkeypatch.setattr(client, "answered", set())
    made = ForeignAgent(Path("queue.db.sock"))
    yield made
    made.close()


def run(*args: str) -> int:
    """Return the exit status of a command; any other exception fails the test."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*args, "--config", "config.toml"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("question", COMMANDS)
def test_no_answer_ends_a_command_in_a_traceback(question: str, agent: ForeignAgent) -> None:
    command = COMMANDS[question]
    agent.answer = ANSWERS[question]
    assert run(*command) == 0
    agent.answer = {}
    assert run(*command) in {0, 1}
    if question == "status":
        return
    for place in places(ANSWERS[question]):
        for value in [*WRONG, ...]:
            agent.answer = changed(ANSWERS[question], place, value)
            assert run(*command) in {0, 1, 74}, (place, value)


@pytest.mark.parametrize("value", [*WRONG, ...], ids=str)
def test_every_other_status_can_be_shown(value: object) -> None:
    for place in places(ANSWERS["status"]):
        status = json.loads(json.dumps(changed(ANSWERS["status"], place, value)))
        assert list(lines(read(Snapshot, status))), place


def test_it_prints_what_it_understands_and_says_so(
    agent: ForeignAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answer = {"ready": 17, "full": True, "oldest_pending_ms": "noon"}
    assert run("queue", "stats") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["ready              17", "full               yes"]
    note, fault = err.splitlines()
    assert f"this command understands protocol {PROTOCOL}, the agent speaks {PROTOCOL + 7}" in note
    assert "this command does not understand the agent's answer: TypeError(" in fault
    assert fault.endswith(": restart the service, so that both have one version")


def test_without_an_answer_a_fault_of_ours_stays_one(
    agent: ForeignAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_rest(*_: object) -> object:
        raise TypeError("a fault")

    monkeypatch.setattr(client, "ask", at_rest)
    with pytest.raises(TypeError, match="a fault"):
        cli.main(["queue", "list", "--config", "config.toml"])
