import json
import math
import struct
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.events import EventSource
from telemetry_agent.snapshot import Snapshot

START_MS = 1_795_435_200_000


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[AckQueue]:
    with AckQueue(tmp_path / "queue.db", limits=Limits(max_size_bytes=1 << 20)) as queue:
        yield queue


def newsroom_of(queue: AckQueue) -> EventSource:
    def snapshot() -> Snapshot:
        return Snapshot(pid=1)

    def ask(*_: object) -> Iterator[dict[str, Any]]:
        yield {}

    return EventSource(
        AgentView(queue, snapshot, lambda: None, dict, Gaps(300), ask)  # type: ignore[arg-type]  # not asked
    )


def curve(second: int) -> Fix:
    lat = 48_000_000_000 + round(1e8 * math.sin(second / 300))
    return Fix(START_MS + 1000 * second, lat, 11_000_000_000 + 100_000 * second)


def test_the_trail_is_read_again_when_thinning_has_come_to_rest(queue: AckQueue) -> None:
    event_source = newsroom_of(queue)
    streams = []
    seconds = count()
    while not queue.stats().lost.get("thinned"):
        for second in islice(seconds, 100):
            queue.put(curve(second), "van-07")
        queue.commit()
        streams.append(json.loads(event_source.news())["stream"])
        while queue.make_room():
            pass
    streams.append(json.loads(event_source.news())["stream"])
    assert len({*streams}) == 1  # it may go on
    told = json.loads(event_source.news())
    assert told["stream"] not in streams
    last, packed = event_source.packed(0)
    shown = [point[:3] for point in struct.iter_unpack("<diiII", packed)]
    stored = [
        (row, round(record.fix.lat_e9 / 100), round(record.fix.lon_e9 / 100))
        for row, record in everything(queue)
    ]
    assert (last, shown) == (stored[-1][0], stored)
    assert json.loads(event_source.news())["stream"] == told["stream"]


def everything(queue: AckQueue) -> Iterator[tuple[int, Any]]:
    row, found = queue.after(0)
    while found:
        yield from found
        row, found = queue.after(row)


def test_a_trip_goes_on_now_only_where_its_last_position_is_of_now(queue: AckQueue) -> None:
    """Not while the track is read, and not where the device was switched off on its way."""
    event_source = newsroom_of(queue)
    now_ms = Clock().wall_ms()

    def trips(age_s: int) -> list[bool]:
        for second in range(1200):
            at_ms = now_ms + 1000 * (second - 1200 - age_s)
            queue.put(curve(second)._replace(time_ms=at_ms), "van-07")
        queue.commit()
        assert event_source.scan()
        found = [trips_told()]
        while event_source.scan():
            continue
        return [*found, trips_told()]

    def trips_told() -> bool:
        return "open" in json.loads(event_source.trips())["trips"][-1]

    assert trips(3600) == [False, False]
    assert trips(0) == [False, True]
