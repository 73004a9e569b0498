import base64
import contextlib
import gzip
import http.client
import json
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from processes import ROOT, run_agent, running
from processes import agent as agent_command
from vectors import exchanges

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError, StorageError, UsageError
from telemetry_agent.lab.endpoint import Endpoint, Fault

LIMIT_S = 60.0
STREAM = "9f0c2d0123456789"
FIX: dict[str, Any] = {
    "seq": 1,
    "time": "2026-11-23T12:35:19.000Z",
    "lat": 48.1173,
    "lon": 11.516667,
    "alt": 545.4,
    "geoid_sep": 47,
    "speed": 11.524,
    "course": 84.4,
    "mode": 3,
    "quality": "gps",
    "hdop": 0.9,
    "vdop": 1.1,
    "pdop": 1.4,
    "sats": 8,
    "err_h": 2.5,
    "err_v": 4,
    "odo": 1234.5,
    "flags": ["date"],
    "extra": {"driver": "eva"},
    "of_a_later_version": None,
}


def batch(*seqs: int, **changes: Any) -> dict[str, Any]:
    fixes = [FIX | {"seq": seq} for seq in seqs]
    return {"format": "native/1", "device": "van-07", "stream": STREAM, "fixes": fixes} | changes


class Agent:
    """One keep-alive connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        url = urlsplit(endpoint.url)
        assert url.hostname
        self.path = url.path
        self.http = http.client.HTTPConnection(url.hostname, url.port, timeout=LIMIT_S)

    def post(self, body: bytes, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", self.path, body, headers)

    def send(self, value: object) -> tuple[int, Any]:
        return self.post(json.dumps(value).encode())

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        self.http.request(method, path, body, headers or {})
        answer = self.http.getresponse()
        content = answer.read()
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(content) if content else None

    def close(self) -> None:
        self.http.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        yield endpoint


@pytest.fixture
def agent(endpoint: Endpoint) -> Iterator[Agent]:
    agent = Agent(endpoint)
    yield agent
    agent.close()


# ---- each fix is stored once


def names(endpoint: Endpoint) -> list[tuple[str, int]]:
    return [(stream, seq) for stream, seq, _ in endpoint.received()]


def test_a_batch_that_comes_twice_is_stored_once(endpoint: Endpoint, agent: Agent) -> None:
    assert agent.send(batch(1, 2)) == (200, {"received": 2, "stored": 2, "known": 0})
    assert agent.send(batch(1, 2)) == (200, {"received": 2, "stored": 0, "known": 2})
    assert names(endpoint) == [(STREAM, 1), (STREAM, 2)]


def test_of_a_half_new_batch_the_new_half_is_stored(endpoint: Endpoint, agent: Agent) -> None:
    agent.send(batch(1, 2))
    assert agent.send(batch(2, 3, 3)) == (200, {"received": 3, "stored": 1, "known": 2})
    assert endpoint.count() == 3
    assert endpoint.counters == {"stored": 3, "known": 2, "rejected": 0}


def test_streams_and_devices_do_not_mix(endpoint: Endpoint, agent: Agent) -> None:
    other = "0" * 16
    agent.send(batch(1))
    assert agent.send(batch(1, stream=other, device="van-08")) == (
        200,
        {"received": 1, "stored": 1, "known": 0},
    )
    assert names(endpoint) == [(other, 1), (STREAM, 1)]


def test_what_was_acknowledged_is_on_the_disk_as_it_came(tmp_path: Path, agent: Agent) -> None:
    agent.send(batch(7))
    with sqlite3.connect(tmp_path / "received.db") as db:
        rows = db.execute("SELECT device, time, lat, lon, fix FROM fixes").fetchall()
    assert len(rows) == 1
    assert rows[0][:4] == ("van-07", "2026-11-23T12:35:19.000Z", 48.1173, 11.516667)
    assert json.loads(rows[0][4]) == FIX | {"seq": 7}


def test_a_restart_knows_what_was_stored(tmp_path: Path) -> None:
    for answer in (
        {"received": 1, "stored": 1, "known": 0},
        {"received": 1, "stored": 0, "known": 1},
    ):
        with Endpoint("127.0.0.1:0", tmp_path / "again.db") as endpoint:
            agent = Agent(endpoint)
            assert agent.send(batch(1)) == (200, answer)
            agent.close()


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    AckQueue(path).close()
    content = path.read_bytes()
    with pytest.raises(StorageError, match="of another program: choose another --db"):
        Endpoint("127.0.0.1:0", path)
    assert path.read_bytes() == content


def test_agents_that_send_the_same_at_once_store_it_once(endpoint: Endpoint) -> None:
    def send(first: int) -> tuple[int, int]:
        agent = Agent(endpoint)
        stored = known = 0
        for seq in range(first, first + 20):
            status, answer = agent.send(batch(seq, seq + 1))
            assert status == 200
            stored += answer["stored"]
            known += answer["known"]
        agent.close()
        return stored, known

    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(send, [1, 1, 1, 1, 5, 5, 9, 9]))
    assert names(endpoint) == [(STREAM, seq) for seq in range(1, 30)]
    assert sum(stored for stored, _ in sums) == 29
    assert sum(known for _, known in sums) == 8 * 40 - 29


def test_a_connection_serves_many_requests_and_none_waits_for_nagle(agent: Agent) -> None:
    agent.send(batch(1))
    wire = agent.http.sock
    clock, took_s = Clock(), []
    for _ in range(20):
        started_s = clock.monotonic_s()
        agent.send(batch(1))
        took_s.append(clock.monotonic_s() - started_s)
    assert agent.http.sock is wire
    assert min(took_s) < 0.040  # the delay by Nagle's algorithm and a delayed ACK


def test_what_the_agent_says_of_itself_is_kept_the_last_of_each_device(
    endpoint: Endpoint, agent: Agent
) -> None:
    assert endpoint.store.agents() == []
    agent.send(batch(agent={"receiver": "no-fix"}))
    agent.send(batch(1, agent={"receiver": "3d", "pending": 0}))
    agent.send(batch(2))
    agent.send(batch(device="van-08", agent={"receiver": "absent"}))
    listed = agent.ask("GET", "/v1/agents")
    assert listed[0] == 200
    assert listed[1] == endpoint.store.agents()
    assert [(told["device"], told["agent"]) for told in endpoint.store.agents()] == [
        ("van-07", {"receiver": "3d", "pending": 0}),
        ("van-08", {"receiver": "absent"}),
    ]
    assert all(told["heard"].endswith("Z") for told in endpoint.store.agents())
    assert endpoint.count() == 2


# ---- refused requests


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lat": 91}, "lat 91: -90 to 90"),
        ({"lat": "48"}, 'lat "48": -90 to 90'),
        ({"lat": True}, "lat true: -90 to 90"),
        ({"lon": -180.1}, "lon -180.1: -180 to 180"),
        ({"lon": None}, "lon null: -180 to 180"),
        ({"time": "2026-11-23T12:35:19Z"}, "time "),
        ({"time": "2026-13-23T12:35:19.000Z"}, "time "),
        ({"time": 1795437319}, "time "),
        ({"course": 360}, "course 360: 0 or more, less than 360"),
        ({"speed": -0.1}, "speed -0.1: not negative"),
        ({"alt": 1e999}, ""),
        ({"mode": 1}, "mode 1: 2 or 3"),
        ({"quality": "good"}, 'quality "good"'),
        ({"hdop": 99.99}, "hdop 99.99: 0.01 to 89.99"),
        ({"sats": 7.5}, "sats 7.5: a count"),
        ({"flags": ["odd"]}, 'flags ["odd"]'),
        ({"flags": "jump"}, 'flags "jump"'),
        ({"flags": {}}, "flags {}"),
        ({"extra": []}, "extra []: an object"),
    ],
)
def test_a_bad_fix_is_named_and_the_others_are_stored(
    changes: dict[str, Any], reason: str, endpoint: Endpoint, agent: Agent
) -> None:
    body = batch(1, 2, 3)
    body["fixes"][1].update(changes)
    text = json.dumps(body).replace("Infinity", "1e999")
    status, answer = agent.post(text.encode())
    assert (status, answer["stored"], answer["known"]) == (200, 2, 0)
    assert [fix["seq"] for fix in answer["rejected"]] == [2]
    assert answer["rejected"][0]["reason"].startswith(reason)
    assert names(endpoint) == [(STREAM, 1), (STREAM, 3)]


def test_a_number_larger_than_any_is_not_stored_as_infinity(agent: Agent) -> None:
    body = json.dumps(batch(1, agent={"of_a_later_version": 7})).replace("7}", "1e999}")
    assert agent.post(body.encode())[0] == 200
    assert agent.ask("GET", "/v1/agents")[1][0]["agent"] == {"of_a_later_version": None}


@pytest.mark.parametrize("name", ["time", "lat", "lon"])
def test_a_fix_needs_time_and_place(name: str, agent: Agent) -> None:
    body = batch(1)
    del body["fixes"][0][name]
    assert agent.send(body)[1]["rejected"] == [{"seq": 1, "reason": f"{name} is missing"}]


def test_time_and_place_are_enough(agent: Agent) -> None:
    fix = {name: FIX[name] for name in ("seq", "time", "lat", "lon")}
    assert agent.send(batch(fixes=[fix])) == (200, {"received": 1, "stored": 1, "known": 0})


def test_no_fixes_are_a_batch_too(agent: Agent) -> None:
    assert agent.send(batch()) == (200, {"received": 0, "stored": 0, "known": 0})


NOT_NATIVE = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe\xfd", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"format":NaN}', "NaN is not JSON"),
    (b"[]", "an object"),
    *[
        (json.dumps(body).encode(), text)
        for body, text in [
            (batch(1, format="native/2"), "format"),
            (batch(1, device=""), "device"),
            (batch(1, device="\ud800"), "device"),
            (batch(1, device=7), "device"),
            (batch(1, stream="9F0C2D0123456789"), "stream"),
            (batch(1, stream="9f0c"), "stream"),
            (batch(1, stream=7), "stream"),
            (batch(fixes={}), "fixes"),
            (batch(fixes=[7]), "fixes"),
            (batch(1, 0), "fixes"),
            (batch(1, 2**63), "fixes"),
            (batch(fixes=[FIX | {"seq": "1"}]), "fixes"),
            (batch(fixes=[FIX | {"seq": True}]), "fixes"),
            (batch(1, agent=[]), "agent"),
        ]
    ],
]


@pytest.mark.parametrize(("body", "text"), NOT_NATIVE)
def test_what_is_not_the_native_format_is_refused_whole(
    body: bytes, text: str, endpoint: Endpoint, agent: Agent
) -> None:
    status, answer = agent.post(body)
    assert status == 400
    assert text in answer["error"]
    assert endpoint.count() == 0
    assert agent.send(batch(1))[0] == 200


def test_other_methods_and_paths(agent: Agent) -> None:
    for method in ("GET", "PUT", "HEAD", "BREW"):
        assert agent.ask(method, agent.path)[0] == 405
    for path in ("/v1/agents", "/v1/audit", "/openapi.json"):
        assert agent.ask("POST", path, json.dumps(batch(1)).encode())[0] == 405
    assert agent.ask("POST", "/elsewhere", json.dumps(batch(1)).encode())[0] == 200
    assert agent.ask("POST", agent.path + "?token=1", json.dumps(batch(1)).encode())[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "gzip "])
def test_gzip_is_taken(encoding: str, endpoint: Endpoint, agent: Agent) -> None:
    body = gzip.compress(json.dumps(batch(*range(1, 1001))).encode())
    assert agent.post(body, **{"Content-Encoding": encoding}) == (
        200,
        {"received": 1000, "stored": 1000, "known": 0},
    )


def test_a_gzip_bomb_is_not_unpacked(agent: Agent) -> None:
    bomb = gzip.compress(bytes(500 << 20), 1)
    status, answer = agent.post(bomb, **{"Content-Encoding": "gzip"})
    assert (status, answer) == (413, {"error": f"more than {8 << 20} bytes when unpacked"})
    assert agent.send(batch(1))[0] == 200


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b])
def test_damaged_gzip_is_refused(damage: Any, agent: Agent) -> None:
    body = damage(gzip.compress(json.dumps(batch(1)).encode()))
    status, answer = agent.post(body, **{"Content-Encoding": "gzip"})
    assert (status, answer["error"][:8]) == (400, "not gzip")


def test_other_encodings_are_refused(agent: Agent) -> None:
    assert agent.post(b"x", **{"Content-Encoding": "br"})[0] == 415


def test_a_body_that_is_too_large_is_heard_out_and_refused(agent: Agent) -> None:
    status, answer = agent.post(bytes(9 << 20))
    assert (status, answer) == (413, {"error": f"more than {8 << 20} bytes"})


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Content-Length: 1x\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: 99999999999999999999999\r\n", 400),
    ],
)
def test_a_request_must_say_its_length(head: str, status: int, endpoint: Endpoint) -> None:
    answer = raw(endpoint, f"POST /v1/fixes HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b'{"error": "' in answer


def test_blanks_round_a_value_are_not_part_of_it(endpoint: Endpoint) -> None:
    body = json.dumps(batch(1)).encode()
    head = b"POST /v1/fixes HTTP/1.1\r\nContent-Length: \t%d \t\r\n\r\n" % len(body)
    assert raw(endpoint, head + body).startswith(b"HTTP/1.1 200 ")


def test_a_request_line_without_end_is_refused_with_a_reason(endpoint: Endpoint) -> None:
    answer = raw(endpoint, b"POST /" + b"a" * 65_536)
    reason = HTTPStatus.REQUEST_URI_TOO_LONG.phrase  # differs in Python 3.13
    assert answer.endswith(b'{"error": "%s"}' % reason.encode())


def test_a_body_where_none_is_read_is_not_the_next_request(endpoint: Endpoint) -> None:
    inner = json.dumps(batch(1)).encode()
    post = b"POST /v1/fixes HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(inner), inner)
    head = f"GET /v1/agents HTTP/1.1\r\nContent-Length: {len(post)}\r\n\r\n".encode()
    assert raw(endpoint, head + post).count(b"HTTP/1.1 200") == 1
    assert endpoint.count() == 0


def test_what_is_not_http_is_no_trouble(endpoint: Endpoint, agent: Agent) -> None:
    answer = raw(endpoint, b"\x16\x03\x01 hello you there\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": "' in answer
    assert raw(endpoint, b"POST /v1/fixes HTTP/1.1\r\nContent-Length: 10\r\n\r\n123") == b""
    assert agent.send(batch(1))[0] == 200


def raw(endpoint: Endpoint, request: bytes) -> bytes:
    """Send, shut down the sending side, and read to the end."""
    url = urlsplit(endpoint.url)
    with socket.create_connection((url.hostname, url.port), LIMIT_S) as wire:
        wire.sendall(request)
        wire.shutdown(socket.SHUT_WR)
        answer = b""
        while data := wire.recv(65536):
            answer += data
        return answer


# ---- faults


def faulty(tmp_path: Path, *patterns: str, draws: list[float] | None = None) -> Endpoint:
    faults = [Fault.parse(pattern) for pattern in patterns]
    values = iter(draws or [])
    return Endpoint("127.0.0.1:0", tmp_path / "f.db", faults, lambda: next(values, 0.0))


def test_a_status_the_first_times(tmp_path: Path) -> None:
    with faulty(tmp_path, "503x2") as endpoint:
        agent = Agent(endpoint)
        answers = [agent.send(batch(1))[0] for _ in range(4)]
        assert answers == [503, 503, 200, 200]
        assert (endpoint.count(), endpoint.counters["failed"]) == (1, 2)
        agent.close()


def test_a_status_by_chance_and_the_first_that_applies(tmp_path: Path) -> None:
    with faulty(tmp_path, "429:0.3", "500:0.5", draws=[0.3, 0.5, 0.29, 0.9, 0.4]) as endpoint:
        agent = Agent(endpoint)
        assert [agent.send(batch(1))[0] for _ in range(3)] == [200, 429, 500]
        agent.close()


def test_drop_stores_and_does_not_answer(tmp_path: Path) -> None:
    with faulty(tmp_path, "dropx1") as endpoint:
        agent = Agent(endpoint)
        with pytest.raises(http.client.RemoteDisconnected):
            agent.send(batch(1))
        agent.close()
        assert endpoint.count() == 1
        assert agent.send(batch(1)) == (200, {"received": 1, "stored": 0, "known": 1})
        agent.close()


def test_hang_neither_stores_nor_answers_and_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with faulty(tmp_path, "hang") as endpoint:
        agent = Agent(endpoint)
        agent.http.timeout = 0.1
        with pytest.raises(TimeoutError):
            agent.send(batch(1))
        assert endpoint.count() == 0
    agent.close()


@pytest.mark.parametrize(
    "pattern", ["", "200", "600", "503:", "503:1.5", "503:-1", "503:30%", "503x", "hang:x", "lose"]
)
def test_a_fault_that_cannot_be_read(pattern: str) -> None:
    with pytest.raises(UsageError, match="--fail"):
        Fault.parse(pattern)


def test_faults_are_read() -> None:
    assert Fault.parse("503") == Fault("503", 1.0)
    assert Fault.parse("drop:.25") == Fault("drop", 0.25)
    assert Fault.parse("hang:1") == Fault("hang", 1.0)
    assert Fault.parse("400x5") == Fault("400", 1.0, 5)


# ---- the network


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended(
    endpoint: Endpoint, agent: Agent
) -> None:
    url = endpoint.url
    agent.send(batch(1))
    for _ in range(3):
        endpoint.disconnect()
        endpoint.disconnect()
        assert not endpoint.reachable
        assert agent.http.sock.recv(1) == b""
        agent.close()
        with pytest.raises(ConnectionRefusedError):
            agent.send(batch(2))
        agent.close()
        assert endpoint.count() == 1
        endpoint.reconnect()
        endpoint.reconnect()
        assert (endpoint.reachable, endpoint.url) == (True, url)
        assert agent.send(batch(1)) == (200, {"received": 1, "stored": 0, "known": 1})


def test_while_it_is_cut_nobody_else_gets_the_port(endpoint: Endpoint, tmp_path: Path) -> None:
    port = urlsplit(endpoint.url).port
    endpoint.disconnect()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_it_ends_while_cut(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "x.db") as endpoint:
        endpoint.disconnect()


def test_ipv6(tmp_path: Path) -> None:
    endpoint = Endpoint("[::1]:0", tmp_path / "x.db")
    try:
        endpoint.__enter__()
    except AgentError as error:
        pytest.skip(str(error))
    assert endpoint.url.startswith("http://[::1]:")
    agent = Agent(endpoint)
    assert agent.send(batch(1))[0] == 200
    agent.close()
    endpoint.__exit__()


# ---- failures at start


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "localhost:", "localhost:http", "x:65536"])
def test_an_address_that_is_none(listen: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be HOST:PORT"):
        Endpoint(listen, tmp_path / "x.db")


def test_a_port_in_use(endpoint: Endpoint, tmp_path: Path) -> None:
    port = urlsplit(endpoint.url).port
    second = Endpoint(f"127.0.0.1:{port}", tmp_path / "y.db")
    with pytest.raises(AgentError, match=f"port {port} is in use: choose another"):
        second.__enter__()
    second.__exit__()


def test_a_host_that_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"cannot listen on 192\.0\.2\.1"):
        Endpoint("192.0.2.1:0", tmp_path / "y.db").__enter__()


def test_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    for path in (tmp_path, tmp_path / "none" / "x.db", tmp_path / "text"):
        with pytest.raises(StorageError, match=f"cannot write {path}"):
            Endpoint("127.0.0.1:0", path)


def test_a_full_disk_is_answered_with_later(endpoint: Endpoint, agent: Agent) -> None:
    endpoint.store._db.execute("PRAGMA max_page_count = 1")
    body = batch(*range(1, 1000))
    status, answer = agent.send(body)
    assert (status, answer) == (503, {"error": "cannot store: database or disk is full"})
    endpoint.store._db.execute("PRAGMA max_page_count = 100000")
    assert agent.send(body) == (200, {"received": 999, "stored": 999, "known": 0})


@pytest.mark.parametrize("end", ["", "-wal"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_acknowledged_into_a_file_that_nobody_finds(
    end: str, *, is_replaced: bool, tmp_path: Path, endpoint: Endpoint, agent: Agent
) -> None:
    assert agent.send(batch(1))[0] == 200
    file = tmp_path / f"received.db{end}"
    backup = tmp_path / "backup"
    backup.write_bytes(file.read_bytes())
    if is_replaced:
        backup.replace(file)
    else:
        file.unlink()
    said = f"{file} was moved, deleted or replaced: start `receive` again"
    assert agent.send(batch(2)) == (503, {"error": said})
    assert agent.ask("GET", "/v1/audit") == (503, {"error": said})


# ---- the command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command(number: signal.Signals, tmp_path: Path) -> None:
    db = str(tmp_path / "r.db")
    faults = ("--fail", "503x1", "--fail", "429x1")
    with agent_command("receive", "--listen", "127.0.0.1:0", "--db", db, *faults) as command:
        url = urlsplit(command.wait_for_line("^http://.*$")[0])
        client = http.client.HTTPConnection(str(url.hostname), url.port, timeout=LIMIT_S)
        statuses = []
        for _ in range(4):
            client.request("POST", url.path, json.dumps(batch(1, 2)))
            answer = client.getresponse()
            answer.read()
            statuses.append(answer.status)
        assert statuses == [503, 429, 200, 200]
        assert command.end(by=number) == 0
        assert len(command.out) == 1
        assert command.err == [
            f"2 fixes in {db}: 2 new, 2 came again, 0 rejected; 2 requests failed by faults"
        ]
        client.close()


def test_the_command_reports_that_it_cannot_take_more_connections(tmp_path: Path) -> None:
    db = str(tmp_path / "r.db")
    with agent_command("receive", "--listen", "127.0.0.1:0", "--db", db) as command:
        url = urlsplit(command.wait_for_line("^http://.*$")[0])
        soft, hard = resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
        resource.prlimit(command.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.ExitStack() as wires:
            for _ in range(100):
                wires.enter_context(socket.create_connection((url.hostname, url.port), LIMIT_S))
            command.wait_for_line("no more connections can be accepted: Too many")
        client = http.client.HTTPConnection(str(url.hostname), url.port, timeout=LIMIT_S)
        client.request("POST", url.path, json.dumps(batch(1)))
        assert client.getresponse().status == 200
        client.close()
        assert command.end() == 0


def test_the_command_reports_that_the_system_refuses_threads(tmp_path: Path) -> None:
    none_left, db = tmp_path / "none-left", str(tmp_path / "r.db")
    script = str(ROOT / "tests/daemon/no_thread_left.py")
    args = (sys.executable, script, "receive", "--listen", "127.0.0.1:0", "--db", db)
    env = {"NO_THREAD_LEFT": str(none_left)}
    with running(*args, env=env) as command:
        url = urlsplit(command.wait_for_line("^http://.*$")[0])
        client = http.client.HTTPConnection(str(url.hostname), url.port, timeout=LIMIT_S)
        none_left.touch()
        with pytest.raises(ConnectionError):  # noqa: PT012 - it closes before the request or after
            client.request("POST", url.path, json.dumps(batch(1)))
            client.getresponse()
        command.wait_for_line("no more connections can be accepted: can't start new thread")
        none_left.unlink()
        client.close()
        client.request("POST", url.path, json.dumps(batch(1)))
        assert client.getresponse().status == 200
        client.close()
        assert command.end() == 0
        assert "Traceback" not in command.text()
    none_left.touch()
    with running(*args, env=env) as command:
        assert command.wait() == 71
        assert [line.partition(": memory")[0] for line in command.err] == [
            "telemetry-agent: the system refuses a thread for this command"
        ]


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["--db", "/nowhere/x.db"], 74, "cannot write /nowhere/x.db"),
        (["--fail", "often"], 2, "--fail often"),
        (["--listen", "here"], 2, "--listen here"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    args: list[str], status: int, text: str, tmp_path: Path
) -> None:
    db = str(tmp_path / "r.db")
    ended = run_agent("receive", "--listen", "127.0.0.1:0", "--db", db, *args)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (status, "", 1)
    assert text in ended.stderr


# ---- the document


def test_it_answers_as_the_document_says(endpoint: Endpoint) -> None:
    url = urlsplit(endpoint.url)
    assert url.hostname
    for vector in exchanges():
        body = vector.body.encode()
        if "Content-Encoding" in vector.headers:
            body = base64.b64decode(body)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=LIMIT_S)
        connection.request("POST", url.path, body, vector.headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == (vector.status, vector.answer)
        connection.close()
