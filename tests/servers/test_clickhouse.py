"""A real ClickHouse 18.16, and a current engine for features that 18.16 lacks.

The current engine (chdb) runs inside the test, behind an HTTP server of the test, with the table of
the documentation. It reads a decimal number to one unit in the last place of a double, so numbers
are compared to the last digit that the agent sends.
"""

import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import blocks
from drives import drive_to
from old_clickhouse import ORDER, TABLE, columns, without_token
from peers import ask, clickhouse
from standins import Asked, Said, Server
from uploading import Uploading

from telemetry_agent.upload.http.credentials import Credentials

ACCOUNTS, AUDIT = blocks("fleet.md", "sql")
READ = "SELECT * FROM gps.fixes FINAL ORDER BY time FORMAT JSONEachRow"
ABSENT: tuple[Any, ...] = (None, "", [])
INTO = "/?query=INSERT%20INTO%20gps.fixes%20FORMAT%20JSONEachRow"


@pytest.fixture
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ClickHouse 18.16 with the documented columns, in types that it knows."""
    with clickhouse(tmp_path_factory.mktemp("clickhouse")) as url:
        ask(url, b"CREATE DATABASE gps")
        engine = f"ReplacingMergeTree {ORDER}"
        ask(url, f"CREATE TABLE gps.fixes {columns()} ENGINE = {engine}".encode())
        yield url


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The engine: one per process, 150 MB, loaded only where these tests run."""
    from chdb.session import Session  # noqa: PLC0415

    return Session(str(tmp_path_factory.mktemp("engine")))  # type: ignore[no-untyped-call]


@pytest.fixture
def engine(session: Any) -> "Engine":
    return Engine(session)


class Engine:
    """A current ClickHouse in this process, behind an imitation of its HTTP interface."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.tokens: list[str] = []
        session.query("DROP DATABASE IF EXISTS gps")
        for statement in TABLE.split(";")[:2]:  # the engine has no users
            session.query(statement)

    def __call__(self, asked: Asked) -> Said:
        settings = dict(asked.query)
        query = settings.pop("query")
        self.tokens.append(settings["insert_deduplication_token"])
        said = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        body = asked.body
        if asked.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        query = query.replace(" FORMAT", f" SETTINGS {said} FORMAT")
        try:
            self._session.query(f"{query} {body.decode()}")
        except RuntimeError as error:
            code = re.match(r"Code: (\d+)", str(error))
            assert code
            headers = {"X-ClickHouse-Exception-Code": code[1]}
            return Said(500, str(error).encode(), headers)
        return Said(200)

    def ask(self, query: str) -> str:
        return str(self._session.query(query, "JSONEachRow"))


def rows(said: str) -> list[dict[str, Any]]:
    """Rows in the queue's terms: a value that is absent there is NULL or empty here."""
    lines = [json.loads(line) for line in said.splitlines()]
    return [{k: _rounded(v) for k, v in line.items() if v not in ABSENT} for line in lines]


def _rounded(value: Any) -> Any:
    return round(value, 9) if isinstance(value, float) else value


def test_its_own_codes_tell_a_wrong_set_up_from_a_wrong_value(old: str, tmp_path: Path) -> None:
    ask(old, b"CREATE TABLE gps.narrow (seq UInt8) ENGINE = Memory")
    ask(old, b"CREATE TABLE gps.typed AS gps.fixes ENGINE = Memory")
    password = tmp_path / "password"
    password.write_text("wrong")
    access = Credentials(username="agent", password=password)
    with (
        Server(lambda asked: without_token(old, asked)) as relay,
        contextlib.closing(
            Uploading(tmp_path, f"{relay.url}/?database=gps", "clickhouse", access)
        ) as u,
    ):
        assert u.held_at(f"{relay.url}/?database=gps").startswith("401: Code: 193")
        password.write_text("insert-only")
        assert "Code: 81" in u.held_at(f"{relay.url}/?database=nope")
        into = "INSERT%20INTO%20{}%20FORMAT%20JSONEachRow"
        assert "Code: 60" in u.held_at(f"{relay.url}/?query={into.format('gps.nope')}")
        assert "Code: 117" in u.held_at(f"{relay.url}/?query={into.format('gps.narrow')}")
        assert u.counts == (40, 0, 0, 0)
        u.aim_at(f"{relay.url}/?database=gps")
        assert u.work() is None
        assert u.counts == (0, 0, 40, 0)


def test_the_table_of_the_documentation_takes_a_drive_once(
    engine: Engine, tmp_path: Path, backlog: Path
) -> None:
    with Server(engine) as server:
        sent = drive_to(server.url + INTO, tmp_path, backlog, cut_after=8_000, format="clickhouse")
    said = [{**fix, "time": fix["time"].replace("T", " ").removesuffix("Z")} for fix in sent]
    assert rows(engine.ask(READ)) == said


def test_a_batch_that_comes_again_is_one_insert(engine: Engine, tmp_path: Path) -> None:
    lost: list[Asked] = []

    def answer(asked: Asked) -> Said | None:
        said = engine(asked)
        if not lost:
            lost.append(asked)
            return None
        return said

    with (
        Server(answer) as server,
        contextlib.closing(Uploading(tmp_path, server.url + INTO, "clickhouse")) as u,
    ):
        u.put(16)  # one first batch
        u.clock.advance(u.work() or 0)
        assert u.work() is None
        assert u.counts == (0, 0, 16, 0)
    assert engine.tokens[0] == engine.tokens[1]
    assert json.loads(engine.ask("SELECT count() AS n FROM gps.fixes"))["n"] == 16  # without FINAL


def test_the_statements_for_the_user_are_right(engine: Engine) -> None:
    _, _, create_user, grant, _ = TABLE.split(";")
    for statement in (create_user, grant):
        assert "Query" in engine.ask(f"EXPLAIN AST {statement}")


def test_the_audit_of_the_documentation_finds_what_was_taken(engine: Engine) -> None:
    query = engine._session.query
    query(ACCOUNTS)
    for said in (
        "('van-07', 'one', (60, 54, 0)), ('van-08', 'gone', (5, 5, 1))",
        "('van-07', 'one', (50, 45, 0)), ('van-07', 'two', (9, 9, 1))",  # the first came too late
        "('van-07', 'one', (60, 54, 0))",
    ):
        query(f"INSERT INTO gps.accounts VALUES {said}")
    columns = "(device, stream, seq, time)"
    for stream, rows in (("one", 70), ("one", 20), ("two", 7), ("new", 3)):  # some rows come twice
        query(
            f"INSERT INTO gps.fixes {columns} SELECT 'van-07', '{stream}', number + 1, "
            f"toDateTime64('2026-11-23 12:00:00', 3, 'UTC') + number FROM numbers({rows}) "
            f"WHERE '{stream}' != 'one' OR number % 10 != 9"
        )
    found = [json.loads(line) for line in engine.ask(AUDIT).splitlines()]
    told = {
        (row["device"], row["stream"]): (
            int(row["through"]),
            row["missing"] and int(row["missing"]),
        )
        for row in found
    }
    assert told == {
        ("van-07", "one"): (60, 0),
        ("van-07", "two"): (9, 2),
        ("van-07", "new"): (0, None),
        ("van-08", "gone"): (5, 5),
    }
    newest = {row["stream"]: row["newest"][11:19] for row in found}
    assert (newest["one"], newest["two"]) == ("12:00:58", "12:00:06")
