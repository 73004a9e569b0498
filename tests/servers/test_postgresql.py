"""The endpoint of docs/endpoint.md, unchanged, on a real PostgreSQL."""

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import psycopg
import pytest
from documents import blocks
from peers import postgresql
from ports import free_port
from processes import running
from rig import record_backlog, started, write_config

SQL, AUDIT = blocks("endpoint.md", "sql")
CODE, *_ = blocks("endpoint.md", "python")
TOKEN = "a-long-random-token"


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as connection:
        with psycopg.connect(connection) as made:
            made.execute(SQL.encode())
        yield connection


@contextlib.contextmanager
def endpoint(folder: Path, database: str) -> Iterator[str]:
    """Run the code of the documentation as a process; yield its URL."""
    program, port = folder / "endpoint.py", free_port()
    program.write_text(CODE)
    env = {"DATABASE": database, "PORT": str(port)}
    with running(sys.executable, str(program), env=env, cwd=folder) as server:
        server.wait_for_line(f"listening on port {port}")
        yield f"http://127.0.0.1:{port}/"


def post(url: str, said: Any, token: str = TOKEN) -> tuple[int, dict[str, Any], str | None]:
    """Return status, answer and ``Retry-After``."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, data=json.dumps(said).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read()), None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers["Retry-After"]


def test_the_audit_finds_what_was_taken(database: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    record_backlog(tmp_path, 60)
    with endpoint(tmp_path, database) as url:
        config = write_config(
            tmp_path,
            "/dev/none",
            url,
            upload={"token_file": str(token)},
            sampling={"heartbeat": "1s"},
        )
        with started(config) as agent, psycopg.connect(database, autocommit=True) as audit:
            rows: list[Any] = []
            while [(row[2], row[-1]) for row in rows] != [(60, 0)]:
                rows = audit.execute(AUDIT.encode()).fetchall()
            newest = rows[0][4].astimezone(UTC).isoformat()
            audit.execute("DELETE FROM fixes WHERE seq BETWEEN 11 AND 13")
            rows = audit.execute(AUDIT.encode()).fetchall()
            assert [missing for *_, missing in rows] == [3]
            assert newest.startswith("2026-11-23T12:00:59")
            assert agent.end() == 0


def test_the_audit_keeps_what_was_said_most_whoever_says_something_else(
    database: str, tmp_path: Path
) -> None:
    stream, lost, new = "9f0c2d6e11a7b354", "a" * 16, "b" * 16
    fixes = [
        {"seq": seq, "time": f"2026-11-23T12:00:0{seq}.000Z", "lat": 48.1, "lon": 11.5}
        for seq in range(1, 6)
    ]
    said = {"format": "native/1", "device": "van-07", "stream": stream, "fixes": fixes}
    full = {"stream": stream, "through": 6, "recorded": 6, "not_coming": {"thinned": 1}}
    late = {"stream": stream, "through": 2, "recorded": 2}
    refused = full | {"not_coming": {"refused": 2, "thinned": 1}}
    gone = {"stream": lost, "through": 2, "recorded": 2, "finished": True}
    with endpoint(tmp_path, database) as url, psycopg.connect(database, autocommit=True) as audit:
        audit.execute("INSERT INTO devices VALUES ('van-08', 'another-token')")
        for streams in ([late], [full, gone], [refused], [late]):
            assert post(url, said | {"agent": {"streams": streams}})[0] == 200
        other = {"device": "van-08", "stream": new, "agent": {"streams": [refused]}}
        assert post(url, said | other, token="another-token")[0] == 200
        audit.execute("DELETE FROM fixes WHERE stream = %s AND seq = 3", (stream,))
        rows = audit.execute(AUDIT.encode()).fetchall()
    found = {(device, of): (through, missing) for device, of, through, *_, missing in rows}
    assert found == {
        ("van-07", stream): (6, 1),
        ("van-07", lost): (2, 2),
        ("van-08", stream): (6, -1),
        ("van-08", new): (None, None),
    }


def test_what_it_answers(database: str, tmp_path: Path) -> None:
    assert CODE.count("\n") < 90
    fix = {"seq": 1, "time": "2026-11-23T12:35:19.000Z", "lat": 48.1, "lon": 11.5}
    said = {"format": "native/1", "device": "van-07", "stream": "9f0c2d6e11a7b354", "fixes": [fix]}
    with endpoint(tmp_path, database) as url:
        assert post(url, said) == (200, {"received": 1, "stored": 1}, None)
        assert post(url, said) == (200, {"received": 1, "stored": 0}, None)
        assert post(url, {**said, "fixes": []}) == (200, {"received": 0, "stored": 0}, None)
        assert post(url, said, token="wrong")[0] == 401
        assert post(url, {**said, "device": "van-08"})[0] == 401
        assert post(url, {**said, "fixes": [fix, {**fix, "seq": 2, "lat": "x"}]})[0] == 422
        assert post(url, [])[0] == 400
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(url)
    with endpoint(tmp_path, "host=127.0.0.1 port=9 dbname=none connect_timeout=2") as url:
        assert post(url, said) == (503, {"error": "later"}, "10")
