"""The endpoint's audit: what it can prove from its rows and the agents' accounts."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.lab.endpoint import AGENTS_PATH, Endpoint
from telemetry_agent.lab.endpoint.audit import account_of, as_json, judge, lines
from telemetry_agent.model import StreamAccount

STREAM = "9f0c2d6e11a7b354"


def time_of(seq: int) -> str:
    return f"2026-11-23T12:{seq // 60:02}:{seq % 60:02}.000Z"


def rows(seqs: set[int]) -> list[tuple[int, str]]:
    return [(seq, time_of(seq)) for seq in sorted(seqs)]


@given(
    recorded=st.sets(st.integers(1, 60), min_size=1),
    taken=st.sets(st.integers(1, 60)),
    not_coming=st.sets(st.integers(1, 60)),
    later=st.sets(st.integers(61, 80)),
)
def test_it_misses_what_was_taken_and_nothing_else(
    recorded: set[int], taken: set[int], not_coming: set[int], later: set[int]
) -> None:
    """The model is a plain set of names: some never come, and some rows are deleted here."""
    never = recorded & not_coming
    lost = (recorded - never) & taken
    counts = {"thinned": len(never)} if never else {}
    account = StreamAccount(STREAM, 60, len(recorded), counts)
    verdict = judge(account, rows((recorded - never - lost) | later))
    assert verdict.missing == len(lost)
    assert bool(verdict.gaps) == bool(lost)
    for seq in lost:
        if len(verdict.gaps) < 20:
            assert any(first <= seq <= last for first, last in verdict.gaps)
    audit = as_json("van-07", [verdict])
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
    ],
)
def test_what_is_not_an_account_is_ignored(said: object) -> None:
    assert account_of(said) is None


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
        with endpoint._store._db as db:
            db.execute("DELETE FROM fixes WHERE seq IN (2, 3)")
        (audit,) = endpoint.audits()
        assert not audit["complete"]
        assert audit["complete_until"] == time_of(1)
        assert audit["streams"][0]["gaps"] == [[2, 4]]
        assert lines(audit)[1:] == [
            f"  stream {STREAM}: 2 of 5 fixes are missing, in seq 2 to 4",
            never,
        ]
        send(endpoint.url, fixes, None)
        assert endpoint.audits("van-07")[0]["complete"]
        assert endpoint.audits("van-08") == []
        assert urllib.request.urlopen(endpoint.url.replace("/v1/fixes", AGENTS_PATH)).status == 200


def send(url: str, fixes: list[dict[str, Any]], agent: dict[str, Any] | None) -> None:
    body = {"format": "native/1", "device": "van-07", "stream": STREAM, "fixes": fixes}
    request = urllib.request.Request(url, json.dumps(body | {"agent": agent}).encode())
    request.add_header("Content-Type", "application/json")
    assert urllib.request.urlopen(request).status == 200
