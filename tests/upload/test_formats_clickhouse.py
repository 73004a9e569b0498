"""ClickHouse: rows, the settings in the query, and its error codes."""

import json
from urllib.parse import parse_qs

import pytest
from upload.upload_parts import FULL, STREAM, encoded, outcome
from uploading import FIX

from telemetry_agent.model import Deferred, Delivered, Held, Refused


def test_clickhouse() -> None:
    payload = encoded("clickhouse", FULL)
    query = {name: value for name, (value,) in parse_qs(payload.query).items()}
    token = query.pop("insert_deduplication_token")
    assert query == {
        "query": "INSERT INTO fixes FORMAT JSONEachRow",
        "date_time_input_format": "best_effort",
        "input_format_skip_unknown_fields": "0",
    }
    (row,) = payload.body.decode().splitlines()
    assert json.loads(row) == {
        "device": "van-07",
        "stream": STREAM,
        "seq": 17,
        "time": "2025-11-29T14:21:59.250Z",
        "lat": 48.1173,
        "lon": -11.516667123,
        "alt": 545.4,
        "geoid_sep": 46.9,
        "speed": 11.524,
        "course": 359.7,
        "mode": 3,
        "quality": "gps",
        "hdop": 0.9,
        "vdop": 1.3,
        "pdop": 1.58,
        "sats": 8,
        "err_h": 2.6,
        "err_v": 4.1,
        "odo": 1234,
        "flags": ["jump"],
    }
    assert token in encoded("clickhouse", FULL, compression="gzip").query
    assert token not in encoded("clickhouse", FULL, FIX).query


def test_clickhouse_leaves_what_the_url_says() -> None:
    url = "http://x/?query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow&input_format_skip_unknown_fields=1"
    query = parse_qs(encoded("clickhouse", FIX, url=url).query)
    assert query.keys() == {"date_time_input_format", "insert_deduplication_token"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (200, None, Delivered),
        (404, 60, Held),
        (500, 117, Held),
        (401, 193, Held),
        (403, 516, Held),
        (500, 497, Held),
        (400, 27, Refused),
        (500, 41, Refused),
        (500, 252, Deferred),  # too many parts
        (500, 242, Deferred),  # the replica is read-only
        (500, 241, Deferred),  # out of memory
        (404, 999, Deferred),  # Keeper
    ],
)
@pytest.mark.parametrize("where", ["header", "body"])
def test_clickhouse_codes_decide_whatever_the_status_is(
    status: int, code: int | None, kind: type, where: str
) -> None:
    said = f"Code: {code}. DB::Exception: words".encode() if code and where == "body" else b""
    headers = {"x-clickhouse-exception-code": str(code)} if code and where == "header" else {}
    assert isinstance(outcome("clickhouse", status, said, headers), kind)
