import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from puppet import Puppet

from telemetry_agent.cli.status import lines
from telemetry_agent.clock import span
from telemetry_agent.daemon.status import SlidingSum, report
from telemetry_agent.disks import size
from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.model import Fix
from telemetry_agent.snapshot import (
    ConfigView,
    QueueView,
    ReceiverView,
    Snapshot,
    StorageView,
    as_json,
)
from telemetry_agent.upload.upload_status import UploadStatus

FIX = Fix(1_795_435_200_000, 48_117300000, 11_516667000, mode=3, sats=8, hdop_e2=90)


class Bench(Puppet):
    """A puppet and its status."""

    def record(self, fix: Fix = FIX) -> None:
        self.fix_comes(fix)

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(json.dumps(as_json(self.snapshot)))
        return told

    @property
    def text(self) -> str:
        return "\n".join(lines(self.snapshot))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with made.queue:
        yield made


def test_at_the_start_nothing_is_known(bench: Bench) -> None:
    told = bench.told
    assert told["running"]
    assert told["receiver"] == {
        "source": "/dev/gps",
        "state": "absent",
        "state_s": 0.0,
        "fixes": 0,
        "rate_hz": 0.0,
        "rejected": {},
        "not_recorded": {},
        "satellites": [],
    }
    assert told["upload"]["state"] == "ok"
    assert told["queue"]["pending"] == 0
    unknown = {"last_error", "last_delivery_s", "next_attempt_s", "oldest_pending"}
    assert not unknown & (told["upload"].keys() | told["queue"].keys())


def test_a_drive(bench: Bench) -> None:
    bench.receiver = ReceiverStatus("/dev/gps", "3d", bench.clock.now_s, 60, {"bad-checksum": 2})
    for second in range(60):
        bench.record(FIX._replace(time_ms=FIX.time_ms + 1000 * second))
        bench.clock.advance(1)
    bench.clock.advance(0.4)
    told = bench.told
    assert told["uptime_s"] == told["receiver"]["state_s"] == 60.4
    assert told["receiver"]["fix_age_s"] == 1.4
    assert told["receiver"]["time"] == "2026-11-23T12:00:59.000Z"
    assert told["receiver"]["rate_hz"] == pytest.approx(1, abs=0.05)
    assert told["queue"]["pending"] == told["queue"]["uncommitted"] == 60
    assert told["queue"]["oldest_pending"] == "2026-11-23T12:00:00.000Z"
    assert told["queue"]["oldest_pending_s"] == 59
    assert "recording: 3d fix, 8 satellites, hdop 0.9, 1.4 s ago" in bench.text
    assert "dropped 2 bad-checksum" in bench.text
    assert "60 pending, oldest from 2026-11-23T12:00:00.000Z; nothing lost" in bench.text


def test_an_outage(bench: Bench) -> None:
    now_s = bench.clock.now_s
    bench.upload = UploadStatus(
        state="unreachable",
        since_s=now_s,
        delivered=12345,
        last_delivery_s=now_s,
        last_error="connection refused",
        last_error_s=now_s + 700,
        next_attempt_s=now_s + 760,
    )
    bench.clock.advance(720)
    told = bench.told["upload"]
    assert (told["state_s"], told["last_error_s"], told["next_attempt_s"]) == (720, 20, 40)
    assert (
        "uploading: unreachable for 12 min: connection refused; next attempt in 40 s; "
        "12,345 delivered"
    ) in bench.text
    bench.clock.advance(3600)
    assert bench.told["upload"]["next_attempt_s"] == 0


def test_names_that_no_request_had_are_shown(bench: Bench) -> None:
    bench.upload = UploadStatus(delivered=3, requests=1, unknown_names=2)
    assert bench.told["upload"]["unknown_names"] == 2
    assert "; answers named 2 fixes that their requests did not hold; " in bench.text


def test_what_was_lost_is_told_with_its_reason(bench: Bench) -> None:
    for _ in range(4):
        bench.record()
    batch = bench.queue.lease(10)
    assert batch is not None
    bench.queue.ack(batch, rejected={1: "lat 91", 2: "lat 91", 3: "old"})
    bench.queue.discard([(batch.stream, 3)])
    queue = bench.told["queue"]
    assert (queue["dead_letters"], queue["lost"]) == ({"lat 91": 2}, {"discarded": 1})
    assert "2 dead letters; 1 lost" in bench.text
    assert "refused:   2: lat 91" in bench.text
    assert "lost:      1: discarded" in bench.text


def test_what_was_sent_in_a_day_is_told(bench: Bench) -> None:
    for delivered, sent in ((10, 1000), (30, 4000), (36, 4700)):
        bench.uploader_stepped(UploadStatus(delivered=delivered, sent_bytes=sent))
    told = bench.told["upload"]
    assert (told["delivered"], told["sent_bytes"], told["sent_bytes_24h"]) == (36, 4700, 4700)
    bench.clock.advance(25 * 3600)
    told = bench.told["upload"]
    assert (told["sent_bytes"], told["sent_bytes_24h"], told["rate_hz"]) == (4700, 0, 0)


# The report to the endpoint


def test_the_report_is_that_of_the_contract(bench: Bench) -> None:
    bench.receiver = ReceiverStatus("/dev/gps", "3d", 0.0, antenna="OK")
    bench.record()
    bench.clock.advance(3)
    report = bench.report
    assert report.pop("disk_free")
    assert report.pop("version")
    assert report == {
        "uptime": 3,
        "receiver": "3d",
        "upload": "ok",
        "antenna": "OK",
        "sats": 8,
        "pending": 1,
        "oldest_pending": "2026-11-23T12:00:00.000Z",
        "dead_letters": 0,
        "lost": {},
    }


def test_a_folder_that_is_gone_is_no_free_space(bench: Bench, tmp_path: Path) -> None:
    tmp_path.rename(tmp_path.with_name("gone"))
    assert bench.report["disk_free"] == 0
    assert bench.told["queue"]["disk_free_bytes"] == 0
    tmp_path.with_name("gone").rename(tmp_path)


def test_no_satellites_are_told_of_a_fix_that_is_over(bench: Bench) -> None:
    bench.receiver = ReceiverStatus("/dev/gps", "3d", 0.0)
    bench.record()
    bench.clock.advance(11)
    assert "sats" not in bench.report
    bench.record()
    bench.receiver = ReceiverStatus("/dev/gps", "no-fix", 0.0)
    assert "sats" not in bench.report


def test_words_change_with_states_and_antenna_and_with_nothing_else(bench: Bench) -> None:
    before = bench.agent.state_words()
    bench.record()
    bench.clock.advance(100)
    bench.upload = UploadStatus(delivered=7, sent_bytes=9)
    assert bench.agent.state_words() == before
    bench.receiver = ReceiverStatus("/dev/gps", "absent", 0.0, antenna="OPEN")
    opened = bench.agent.state_words()
    bench.upload = UploadStatus(state="portal")
    assert len({before, opened, bench.agent.state_words()}) == 3


# Meters


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 5)),
        max_size=60,
    )
)
def test_a_meter_counts_the_window_to_a_bucket(steps: list[tuple[float, int]]) -> None:
    now_s = 50.0
    meter = SlidingSum(60.0, now_s)
    events: list[tuple[float, int]] = []
    for wait_s, amount in steps:
        now_s += wait_s
        meter.add(now_s, amount)
        events.append((now_s, amount))
        surely = sum(n for at_s, n in events if at_s > now_s - 55)
        at_most = sum(n for at_s, n in events if at_s >= now_s - 60)
        assert surely <= meter.total(now_s) <= at_most
        assert meter.rate(now_s) >= 0
    assert meter.total(now_s + 60) == 0


@pytest.mark.parametrize("offset_s", [0.0, 0.3, 4.9])
def test_a_steady_rate_is_told_from_the_first_minute_on(offset_s: float) -> None:
    meter = SlidingSum(60.0, offset_s)
    for tick in range(3000):
        now_s = offset_s + tick / 10
        meter.add(now_s, 1)
        if tick > 100:
            assert meter.rate(now_s) == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (59.7, "1 min"),
        (300, "5 min"),
        (3599, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (352_800, "4 d 2 h"),
    ],
)
def test_spans_read_as_people_say_them(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (999_999, "1 MB"), (84.5e9, "84.5 GB")],
)
def test_sizes_read_as_people_say_them(count: float, said: str) -> None:
    assert size(count) == said


def test_the_protocol_lists_every_field_of_a_report() -> None:
    receiver = ReceiverView(state="3d", antenna="OK", sats=8, fix_age_s=0.1)
    queue = QueueView(oldest_pending="2026-11-23T12:00:00.000Z")
    whole = Snapshot(
        receiver=receiver, queue=queue, config=ConfigView(), storage=StorageView("forgets")
    )
    page = (Path(__file__).parents[2] / "docs/protocol.md").read_text("utf-8")
    section = page.split("## The agent about itself")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert set(listed) == {*report(whole), "streams"}
