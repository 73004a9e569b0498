"""The audit of ``receive``, applied to given fixes and accounts."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from telemetry_agent.daemon.status import account_json
from telemetry_agent.lab.endpoint.database import FixDatabase
from telemetry_agent.lab.native_request import NativeRequest
from telemetry_agent.model import StreamAccount

Name = tuple[str, int]
_PLACE = {"time": "2026-11-23T12:00:00.000Z", "lat": 48.1, "lon": 11.5}


def store(database: FixDatabase, received: Iterable[Name]) -> None:
    """Store these fixes in the endpoint's database."""
    fixes: dict[str, list[dict[str, Any]]] = {}
    for stream, seq in received:
        fixes.setdefault(stream, []).append({"seq": seq, **_PLACE})
    for stream, some in fixes.items():
        database.put(NativeRequest("van-07", stream, some, [], None))


def audit(accounts: Iterable[StreamAccount], received: Iterable[Name]) -> dict[str, Any]:
    """The audit of a device whose fixes were accepted and which reports these accounts."""
    report = {"streams": [account_json(account) for account in accounts]}
    with closing(FixDatabase(Path(":memory:"))) as database:
        store(database, received)
        database.put(NativeRequest("van-07", "0" * 16, [], [], report))
        nothing: dict[str, Any] = {"complete": True, "unaccounted": None, "streams": []}
        return next(iter(database.audits()), nothing)
