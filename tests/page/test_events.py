import json
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.ackqueue.contents import Place
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.events import EventSource, Runs
from telemetry_agent.page.track_index import Wanted
from telemetry_agent.snapshot import Snapshot

START_MS = 1_795_435_200_000


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[AckQueue]:
    with AckQueue(tmp_path / "queue.db", limits=Limits(max_size_bytes=1 << 20)) as queue:
        yield queue


def event_source_of(queue: AckQueue) -> EventSource:
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
    event_source = event_source_of(queue)
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
    assert len({*streams}) == 1  # the stream may continue
    answer = json.loads(event_source.news())
    assert answer["stream"] not in streams
    last, packed = event_source.index.behind(0)
    shown = [point[:3] for point in struct.iter_unpack("<diiII", packed)]
    stored = [
        (row, round(record.fix.lat_e9 / 100), round(record.fix.lon_e9 / 100))
        for row, record in everything(queue)
    ]
    assert (last, shown) == (stored[-1][0], stored)
    assert json.loads(event_source.news())["stream"] == answer["stream"]


def test_what_is_carried_over_from_a_damaged_file_is_on_the_page_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    with AckQueue(path) as queue:
        for second in range(3000):
            queue.put(curve(second), "van-07")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damage" * 100)
    with AckQueue(path) as queue:
        event_source = event_source_of(queue)
        queue.put(curve(7200), "van-07")
        queue.commit()
        while not queue.stats().carrying_over:
            event_source.news()
            with suppress(StorageError):
                event_source.index.scan()
        event_source.news()
        while event_source.index.scan():
            continue
        carry_over(queue)
        for _ in range(3):
            event_source.news()
        event_source.index.scan()
        answer = json.loads(event_source.trips())
        while event_source.index.scan():
            continue
        _, packed, _ = event_source.index.shown(Wanted(tolerance_e7=1))
        stored = [row for row, _ in everything(queue)]
    assert len(stored) > 1000
    assert (answer["read"], answer["stored"]) == (1000, len(stored))
    assert [row for row, *_ in struct.iter_unpack("<diiII", packed)] == stored


def test_the_first_new_position_may_begin_a_segment(queue: AckQueue) -> None:
    for second in (0, 1):
        queue.put(curve(second), "van-07")
    queue.commit()
    event_source = event_source_of(queue)
    assert json.loads(event_source.news())["last"] == 2
    queue.put(curve(3600), "van-07")
    queue.commit()
    answer = json.loads(event_source.news())
    assert answer["after"] == 2
    assert [(point[0], point[4]) for point in answer["points"]] == [(3, 1)]


def test_an_event_stays_small_if_the_endpoint_refused_every_other_position(
    tmp_path: Path,
) -> None:
    queue = AckQueue(tmp_path / "roomy.db")
    for second in range(9_999):
        queue.put(curve(second), "van-07")
    queue.commit()
    while batch := queue.lease(1000):
        odd = {record.seq: "400: no" for record in batch.records if record.seq % 2}
        queue.ack(batch, rejected=odd)
    event_source = event_source_of(queue)
    places = json.loads(event_source.news())["places"]
    assert len(places) <= 4000
    assert {place for *_, place in places} == {"dead-letter"}
    assert [event_source.fix(row)["place"] for row in (1, 2)] == ["dead-letter", "delivered"]  # type: ignore[index]
    # Reading the places took long: the next event omits them, and a later one has the new ones.
    event_source._look_again_s = Clock().monotonic_s() + 3600
    queue.retry()
    assert "places" not in json.loads(event_source.news())
    event_source._look_again_s = 0
    assert {place for *_, place in json.loads(event_source.news())["places"]} == {"stored"}
    queue.close()


PLACE = st.sampled_from(["dead-letter", "stored", "in-flight", "delivered"])


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), PLACE)), st.integers(1, 20))
def test_too_many_runs_become_few_and_each_row_is_in_its_place_or_a_worse_one(
    answer: list[tuple[int, bool, Place]], limit: int
) -> None:
    order = ["dead-letter", "stored", "in-flight", "delivered"]
    runs, row = Runs(limit), 1
    rows: dict[int, Place] = {}
    for size, gap, place in answer:
        row += gap
        runs.add(row, row + size - 1, place)
        rows |= dict.fromkeys(range(row, row + size), place)
        row += size
    assert len(runs.found) <= limit
    assert all(one[1] < other[0] for one, other in pairwise(runs.found))
    for row, place in rows.items():
        (shown,) = [place for lo, hi, place in runs.found if lo <= row <= hi]
        assert order.index(shown) <= order.index(place)


def everything(queue: AckQueue) -> Iterator[tuple[int, Any]]:
    row, found = queue.after(0)
    while found:
        yield from found
        row, found = queue.after(row)


def test_a_trip_goes_on_now_only_where_its_last_position_is_of_now(queue: AckQueue) -> None:
    """Not while the agent reads the track, nor if the device was switched off during the trip."""
    event_source = event_source_of(queue)
    now_ms = Clock().wall_ms()

    def trips(age_s: int) -> list[bool]:
        for second in range(1200):
            at_ms = now_ms + 1000 * (second - 1200 - age_s)
            queue.put(curve(second)._replace(time_ms=at_ms), "van-07")
        queue.commit()
        assert event_source.index.scan()
        found = [trips_told()]
        while event_source.index.scan():
            continue
        return [*found, trips_told()]

    def trips_told() -> bool:
        return "open" in json.loads(event_source.trips())["trips"][-1]

    assert trips(3600) == [False, False]
    assert trips(0) == [False, True]
