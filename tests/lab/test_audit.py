"""The audit of the endpoint: what its rows and the agents' accounts prove."""

import json
import sqlite3
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_agent

from telemetry_agent.errors import StorageError
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.endpoint.audit import account_of, lines
from telemetry_agent.lab.endpoint.database import FixDatabase
from telemetry_agent.lab.native_request import NativeRequest

STREAM = "9f0c2d6e11a7b354"


def time_of(seq: int) -> str:
    return f"2026-11-23T12:{seq // 60:02}:{seq % 60:02}.000Z"


@given(
    recorded=st.sets(st.integers(1, 60), min_size=1),
    taken=st.sets(st.integers(1, 60)),
    not_coming=st.sets(st.integers(1, 60)),
    later=st.sets(st.integers(61, 80)),
)
def test_it_misses_what_was_taken_and_nothing_else(
    recorded: set[int], taken: set[int], not_coming: set[int], later: set[int]
) -> None:
    """The model is a set of names: some fixes never arrive, and some rows are deleted."""
    never = recorded & not_coming
    lost = (recorded - never) & taken
    counts = {"thinned": len(never)} if never else {}
    received = Received()
    received.fixes("a", *((recorded - never - lost) | later))
    received.report(account("a", 60, len(recorded), not_coming=counts))
    (audit,) = received.database.audits()
    received.database.close()
    assert audit["streams"][0]["missing"] == len(lost)
    named = audit["streams"][0]["gaps"]
    assert bool(named) == bool(lost)
    assert len(named) <= 20
    for seq in lost:
        assert any(first <= seq <= last for first, last in named)
    assert audit["complete"] == (not lost)
    if lost and audit["complete_until"] is not None:
        assert audit["complete_until"] < time_of(min(lost))


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"stream": 7, "through": 1, "recorded": 1},
        {"stream": STREAM, "through": -1, "recorded": 1},
        {"stream": STREAM, "through": True, "recorded": 1},
        {"stream": STREAM, "through": 1, "recorded": 1, "not_coming": [1]},
        {"stream": STREAM, "through": 1, "recorded": 1, "not_coming": {"thinned": "some"}},
        {"stream": STREAM, "through": 1, "recorded": 1, "damaged_in": [1, None]},
        {"stream": "", "through": 1, "recorded": 1},
        {"stream": "\udcff" * 16, "through": 1, "recorded": 1},
        {"stream": STREAM, "through": 1, "recorded": 10**30},
        {"stream": STREAM, "through": 10**30, "recorded": 1},
        {"stream": STREAM, "through": 1, "recorded": 1, "not_coming": {"thinned": -1}},
        {"stream": STREAM, "through": 1, "recorded": 2},
        {"stream": STREAM, "through": 1, "recorded": 1, "not_coming": {"thinned": 2}},
        {"stream": STREAM, "through": 1, "recorded": 1, "not_coming": {"\x1b[2J": 1}},
    ],
)
def test_what_is_not_an_account_is_ignored(said: object) -> None:
    assert account_of(said) is None


@pytest.mark.parametrize("said", [[1], [1, 2, 3], "12"])
def test_a_range_that_has_no_two_ends_is_ignored(said: object) -> None:
    account = account_of({"stream": STREAM, "through": 1, "recorded": 1, "damaged_in": said})
    assert account is not None
    assert account.damaged_in is None


def test_the_endpoint_names_what_was_deleted_from_it(tmp_path: Path) -> None:
    fixes = [
        {"seq": seq, "time": time_of(seq), "lat": 48.1, "lon": 11.5} for seq in (1, 2, 3, 5, 6)
    ]
    account = {"stream": STREAM, "through": 6, "recorded": 6, "not_coming": {"thinned": 1}}
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        send(endpoint.url, fixes, {"version": "1", "streams": [account, "nonsense"]})
        url = endpoint.url.replace("/v1/fixes", "/v1/audit")
        (audit,) = json.load(urllib.request.urlopen(url))
        assert (audit["device"], audit["complete"]) == ("van-07", True)
        assert audit["complete_until"] == time_of(6)
        never = f"  stream {STREAM}: never coming: 1 thinned"
        assert lines(audit) == [f"van-07: complete until {time_of(6)}", never]
        with endpoint.store._db as db:
            db.execute("DELETE FROM fixes WHERE seq IN (2, 3)")
        (audit,) = endpoint.store.audits()
        assert not audit["complete"]
        assert audit["complete_until"] == time_of(1)
        assert audit["streams"][0]["gaps"] == [[2, 4]]
        assert lines(audit)[1:] == [
            f"  stream {STREAM}: 2 of 5 fixes are missing, in seq 2 to 4",
            never,
        ]
        send(endpoint.url, fixes, None)
        assert endpoint.store.audits("van-07")[0]["complete"]
        assert endpoint.store.audits("van-08") == []
        assert urllib.request.urlopen(endpoint.url.replace("/v1/fixes", "/v1/agents")).status == 200


def account(stream: str, through: int, recorded: int, **more: Any) -> dict[str, Any]:
    return {"stream": stream * 16, "through": through, "recorded": recorded, **more}


class Received:
    """The database of an endpoint."""

    def __init__(self) -> None:
        self.database = FixDatabase(Path(":memory:"))

    def report(self, *accounts: dict[str, Any], device: str = "van-07") -> None:
        agent = {"streams": list(accounts)}
        self.database.put(NativeRequest(device, STREAM, [], [], agent))

    def fixes(self, stream: str, *seqs: int, after: int = 0) -> None:
        """Store fixes whose time in seconds is their seq plus ``after``."""
        fixes = [
            {"seq": seq, "time": time_of(after + seq), "lat": 48.1, "lon": 11.5} for seq in seqs
        ]
        self.database.put(NativeRequest("van-07", stream * 16, fixes, [], None))

    def said(self, device: str = "van-07") -> tuple[bool, str | None]:
        (audit,) = self.database.audits(device)
        return audit["complete"], audit["complete_until"]


@pytest.fixture
def received() -> Iterator[Received]:
    received = Received()
    yield received
    received.database.close()


def test_more_rows_than_expected_are_not_less_than_none_missing(received: Received) -> None:
    received.fixes("a", 1, 2)
    received.report(account("a", 2, 2, not_coming={"refused": 1}))
    (audit,) = received.database.audits()
    assert (audit["complete"], audit["streams"][0]["missing"]) == (True, 0)


def test_what_a_stream_still_has_to_deliver_bounds_the_time_of_all(received: Received) -> None:
    received.fixes("a", *range(1, 21))
    received.fixes("b", *range(1, 6), after=100)
    live = account("b", 5, 5)
    received.report(account("a", 20, 20), live)  # an outage: a has a backlog, b is live
    assert received.said() == (True, time_of(20))
    received.report(account("a", 0, 0), live)
    assert received.said() == (True, time_of(20))  # this report was late
    received.report(account("a", 20, 20, finished=True), live)
    assert received.said() == (True, time_of(105))
    received.report(account("c", 0, 0))  # restarted, nothing delivered yet
    assert received.said() == (True, time_of(105))
    received.report(account("a", 21, 21, finished=True))  # its last fix was lost here
    assert received.said() == (False, time_of(20))


def test_nothing_is_complete_before_the_first_fix_of_the_oldest_stream(received: Received) -> None:
    received.fixes("b", *range(1, 6))
    received.report(account("a", 0, 0), account("b", 5, 5))
    assert received.said() == (True, None)
    assert lines(received.database.audits()[0]) == ["van-07: complete until no fix"]


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (account("a", 20, 20, finished=True), account("a", 20, 20)),
        (account("a", 20, 20, finished=True), account("a", 9, 9)),
        (account("a", 20, 20), account("a", 20, 20, not_coming={"refused": 1})),
    ],
)
def test_a_report_that_arrives_late_takes_nothing_back(
    received: Received, newer: dict[str, Any], older: dict[str, Any]
) -> None:
    received.fixes("a", *range(1, 20))
    for said in (older, newer, older, newer, older):
        received.report(said)
    (audit,) = received.database.audits()
    assert (audit["streams"][0]["through"], audit["streams"][0]["missing"]) == (20, 1)


def test_a_device_cannot_account_for_another(received: Received) -> None:
    received.fixes("a", *range(1, 6))
    received.report(account("a", 9, 9))
    received.report(account("a", 9, 9, not_coming={"refused": 9}), device="van-08")
    assert received.said() == (False, time_of(5))
    assert received.said("van-08") == (True, time_of(5))


def test_two_devices_of_one_name_are_complete_until_the_first_of_them(received: Received) -> None:
    received.fixes("a", *range(1, 6))
    received.fixes("b", *range(1, 51))
    received.report(account("a", 5, 5))
    received.report(account("b", 50, 50))
    assert received.said() == (True, time_of(5))


def test_fixes_of_which_there_is_no_account_are_named(received: Received) -> None:
    received.fixes("a", *range(1, 6))
    (audit,) = received.database.audits()
    assert not audit["complete"]
    assert lines(audit) == [f"van-07: no account of 5 fixes until {time_of(5)}"]
    received.fixes("b", *range(1, 6), after=10)
    received.report(account("b", 5, 5))
    (audit,) = received.database.audits()
    assert audit["complete"]
    assert lines(audit) == [
        f"van-07: complete until {time_of(15)}; no account of 5 fixes until {time_of(5)}"
    ]


@pytest.mark.parametrize("recorded", [50_000, 90_000])
def test_an_audit_of_many_fixes_takes_little_memory(received: Received, recorded: int) -> None:
    """This also applies to a thinned stream, which has as many gaps as fixes."""
    received.fixes("a", *range(1, 100_000, 2))
    received.report(account("a", 100_000, recorded))
    tracemalloc.start()
    try:
        (audit,) = received.database.audits()
        assert received.database.some_gaps("van-07") or recorded == 50_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert audit["streams"][0]["missing"] == recorded - 50_000
    assert peak_bytes < 1_000_000


def test_a_loss_among_many_legal_gaps_is_asked_for(tmp_path: Path) -> None:
    seqs = sorted({*range(1, 200, 2), 200_000} - {151})
    fixes = [{"seq": seq, "time": time_of(1), "lat": 48.1, "lon": 11.5} for seq in seqs]
    said = {"stream": STREAM, "through": 200_000, "recorded": 101}
    wanted = {151, 199_999}
    with Endpoint("127.0.0.1:0", tmp_path / "received.db", asks_again=True) as endpoint:
        send(endpoint.url, fixes, None)
        for _ in range(1000):  # each answer names some of the gaps
            for asked in send(endpoint.url, [], {"streams": [said]})["resend"]:
                assert asked["to"] - asked["from"] < 10_000
                wanted -= set(range(asked["from"], asked["to"] + 1))
            if not wanted:
                return
    raise AssertionError(f"never asked for {wanted}")


def test_a_database_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "received.db"
    with Endpoint("127.0.0.1:0", path) as endpoint:
        endpoint.store._db.execute("DROP TABLE fixes")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(endpoint.url.replace("/v1/fixes", "/v1/audit"))
        with pytest.raises(StorageError, match=r"cannot read .*received\.db: no such table"):
            endpoint.store.audits()


def test_the_command_changes_nothing_and_waits_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "received.db"
    fixes = [{"seq": 1, "time": time_of(1), "lat": 48.1, "lon": 11.5}]
    said = {"streams": [{"stream": STREAM, "through": 1, "recorded": 1}]}
    with Endpoint("127.0.0.1:0", path) as endpoint:
        send(endpoint.url, fixes, said)
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert audit_of(path) == (0, f"van-07: complete until {time_of(1)}\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert audit_of(path)[0] == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_database_that_knows_of_nothing_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "received.db"
    with Endpoint("127.0.0.1:0", path):
        pass
    assert audit_of(path) == (1, "no agent has sent an account of its streams yet\n")


def audit_of(path: Path) -> tuple[int, str]:
    done = run_agent("receive", "--audit", "--db", str(path))
    return done.returncode, done.stdout


def send(url: str, fixes: list[dict[str, Any]], agent: dict[str, Any] | None) -> Any:
    body = {"format": "native/1", "device": "van-07", "stream": STREAM, "fixes": fixes}
    request = urllib.request.Request(url, json.dumps(body | {"agent": agent}).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
        return json.load(answer)
