"""Queue commands and ``drain``, with a real queue and statuses from the test."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock
from puppet import Puppet

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.config.settings import Settings, UploadSettings
from telemetry_agent.daemon import control
from telemetry_agent.daemon.commands import TrackRules, queue_commands
from telemetry_agent.daemon.delivery import Delivery
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import AgentError, UnavailableError, UsageError
from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.upload_status import UploadStatus

FIX = Fix(1_795_435_200_000, 48_117300000, 11_516667000)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[AckQueue]:
    """Ten fixes, 1 s apart; 4 and 5 are refused, 6 to 10 wait."""
    with AckQueue(tmp_path / "queue.db", clock=FakeClock()) as queue:
        for second in range(5):
            queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * second), "van-07")
        batch = queue.lease(5)
        assert batch is not None
        queue.ack(batch, rejected={4: "bad", 5: "worse"})
        for second in range(5, 10):
            queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * second), "van-07")
        queue.commit()
        yield queue


def told(queue: AckQueue, what: str, **asked: Any) -> list[dict[str, Any]]:
    return list(queue_commands(queue)[what]({"ask": what, **asked}, Bell()))


def seqs(queue: AckQueue, **asked: Any) -> list[int]:
    return [fix["seq"] for fix in told(queue, "queue list", **asked)]


def test_only_looking_at_counts_is_for_everybody(queue: AckQueue) -> None:
    assert control.PUBLIC & queue_commands(queue).keys() == {"queue stats"}


def test_the_newest_are_told_whole(queue: AckQueue) -> None:
    newest = told(queue, "queue newest", limit=2)
    assert [fix["seq"] for fix in newest] == [10, 9]
    assert newest[0]["lat"] == 48.1173
    for limit in (None, -1, 10_000):
        with pytest.raises(UsageError, match="limit"):
            told(queue, "queue newest", limit=limit)


def test_list_tells_name_time_state_and_reason(queue: AckQueue) -> None:
    assert told(queue, "queue list", state="ack_failed", limit=1) == [
        {
            "stream": queue.stream,
            "seq": 4,
            "device": "van-07",
            "time": "2026-11-23T12:00:03.000Z",
            "state": "ack_failed",
            "reason": "bad",
        }
    ]
    assert "reason" not in told(queue, "queue list")[0]
    assert seqs(queue) == list(range(1, 11))
    assert seqs(queue, state="acked") == [1, 2, 3]
    assert seqs(queue, state="ready", limit=3) == [6, 7, 8]


def test_retry_and_discard_touch_what_is_named(queue: AckQueue) -> None:
    name = [queue.stream, 4]
    assert told(queue, "queue retry", names=[name, [queue.stream, 1]]) == [{"retried": 1}]
    assert seqs(queue, state="ready") == [4, 6, 7, 8, 9, 10]
    assert told(queue, "queue discard", all=True) == [{"discarded": 1}]
    assert queue.stats().lost == {"discarded": 1}


def test_retry_takes_what_has_the_reason(queue: AckQueue) -> None:
    assert told(queue, "queue retry", reason="wors") == [{"retried": 1}]
    assert told(queue, "queue retry", reason="no such") == [{"retried": 0}]
    assert seqs(queue, state="ready") == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ({"since_ms": FIX.time_ms}, [1, 2, 3]),
        ({"since_ms": FIX.time_ms + 1000, "until_ms": FIX.time_ms + 2000}, [2]),
        ({"since_age_s": 8}, [2, 3]),
        ({"until_age_s": 7.5}, [1, 2]),
        ({}, [1, 2, 3]),
    ],
)
def test_resend_takes_times_and_ages(
    asked: dict[str, Any], again: list[int], queue: AckQueue
) -> None:
    assert told(queue, "queue resend", **asked) == [{"resent": len(again)}]
    assert seqs(queue, state="ready") == [*again, 6, 7, 8, 9, 10]


def test_resend_takes_names(queue: AckQueue) -> None:
    names = {"stream": queue.stream, "from": 2, "to": 7}
    assert told(queue, "queue resend", **names) == [{"resent": 2}]
    assert seqs(queue, state="ready") == [2, 3, 6, 7, 8, 9, 10]


def test_an_age_needs_a_fix_to_count_from(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "other.db") as empty, pytest.raises(AgentError, match="give a time"):
        told(empty, "queue resend", since_age_s=5)


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("queue list", {"state": "lost"}),
        ("queue list", {"limit": -1}),
        ("queue list", {"limit": "all"}),
        ("queue retry", {}),
        ("queue retry", {"names": "all"}),
        ("queue discard", {"all": "yes"}),
        ("queue discard", {"names": [["0" * 16]]}),
        ("queue resend", {"since_ms": "yesterday"}),
        ("queue resend", {"until_age_s": [1]}),
        ("queue resend", {"since_age_s": 1_700_000_000}),
        ("queue resend", {"stream": "9f0c", "from": 1, "to": 2}),
        ("queue resend", {"stream": "9f0c2d6e11a7b354", "from": 1}),
        ("queue resend", {"stream": "9f0c2d6e11a7b354", "from": 2, "to": 1}),
        ("export", {}),
        ("export", {"format": "shp"}),
        ("export", {"format": "gpx", "trip": 0}),
        ("export", {"format": ["gpx"]}),
        ("export", {"format": "gpx", "since_ms": "yesterday"}),
        ("export", {"format": "gpx", "until_age_s": -math.inf}),
        ("queue list", {"state": ["acked"]}),
        ("queue list", {"state": {}}),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(
    what: str, asked: dict[str, Any], queue: AckQueue
) -> None:
    before = queue.stats()
    with pytest.raises(UsageError):
        told(queue, what, **asked)
    assert queue.stats() == before


# Export


def exported(queue: AckQueue, **asked: Any) -> list[dict[str, Any]]:
    """The NDJSON lines, parsed."""
    text = "".join(answer["text"] for answer in told(queue, "export", format="ndjson", **asked))
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, range(1, 11)),
        ({"since_ms": FIX.time_ms + 3000, "until_ms": FIX.time_ms + 5000}, [4, 5]),
        ({"since_age_s": 2}, [8, 9, 10]),
        ({"until_age_s": 7.5}, [1, 2]),
        ({"since_ms": FIX.time_ms + 10_000}, []),
    ],
)
def test_export_takes_the_fixes_of_a_time_in_any_state(
    asked: dict[str, Any], chosen: Any, queue: AckQueue
) -> None:
    states = ["acked"] * 3 + ["ack_failed"] * 2 + ["ready"] * 5
    assert [(fix["seq"], fix["state"]) for fix in exported(queue, **asked)] == [
        (seq, states[seq - 1]) for seq in chosen
    ]


def test_export_counts_what_it_read(queue: AckQueue) -> None:
    (*_, last) = told(queue, "export", format="gpx", until_age_s=7.5)
    assert (last["fixes"], last["read"], last["stored"]) == (2, 10, 10)


def test_an_export_breaks_the_track_where_sampling_does_not_explain_a_gap(queue: AckQueue) -> None:
    queue.put(FIX._replace(time_ms=FIX.time_ms + 40_000, speed_mm_s=9_000), "van-07")
    queue.commit()

    for gaps, segments in ((Gaps(), 1), (Gaps(moving_s=20), 2)):
        commands = queue_commands(queue, partial(TrackRules, gaps))
        answers = commands["export"]({"format": "gpx"}, Bell())
        assert "".join(answer["text"] for answer in answers).count("<trkseg>") == segments


def test_an_export_goes_on_through_a_purge(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "long.db", keep_delivered_s=10, clock=FakeClock()) as queue:
        for second in range(5000):
            queue.put(FIX._replace(time_ms=FIX.time_ms + 1000 * second), "van-07")
        while batch := queue.lease(5000):
            queue.ack(batch)
        answers = queue_commands(queue)["export"]({"format": "ndjson"}, Bell())
        text = next(answers)["text"]
        while queue.purge_delivered():
            pass
        text += "".join(answer["text"] for answer in answers)
    seqs = [json.loads(line)["seq"] for line in text.splitlines()]
    assert seqs == [*range(1, 1001), *range(4990, 5001)]


# Drain


class Script(Bell):
    """A bell whose wait runs the next action of an uploader."""

    def __init__(self, queue: AckQueue, *deeds: Any) -> None:
        super().__init__()
        self.queue = queue
        self.clock = FakeClock()
        settings = Settings(device="van-07", upload=UploadSettings(url="http://127.0.0.1:9/"))
        self.delivery = Delivery(settings, queue, Supervisor(self.clock), self.clock, set())
        self.delivery._uploader.task.hurry = self.hurry  # type: ignore[method-assign]
        self.status = UploadStatus()
        self.hurried = 0
        self.rung = False
        self._deeds = list(deeds)

    @property
    def status(self) -> UploadStatus:
        return self.delivery._keeper.status

    @status.setter
    def status(self, status: UploadStatus) -> None:
        self.delivery._keeper.status = status

    def hurry(self) -> None:
        self.hurried += 1
        self.ring()  # an uploader can be this fast

    def ring(self) -> None:
        self.rung = True

    def clear(self) -> bool:
        was, self.rung = self.rung, False
        return was

    def wait(
        self, timeout_s: float | None, watched: Iterable[tuple[int, int]] = ()
    ) -> dict[int, int]:
        if not self.rung:
            self.status = replace(self.status, hurries=self.hurried)
            self._deeds.pop(0)(self)
        return {}

    def run(self) -> Iterator[dict[str, Any]]:
        return self.delivery.drain({}, self)


def deliver(count: int) -> Any:
    def deed(script: Script) -> None:
        batch = script.queue.lease(count, live_first=False)
        assert batch is not None
        script.queue.ack(batch)
        delivered = script.status.delivered + len(batch.records)
        script.status = replace(script.status, delivered=delivered, state="ok", next_attempt_s=None)

    return deed


def fail(state: Any = "unreachable", wait_s: float = 1.0) -> Any:
    def deed(script: Script) -> None:
        script.status = replace(
            script.status,
            state=state,
            waits=script.status.waits + 1,
            last_error="no way",
            next_attempt_s=script.clock.now_s + wait_s,
        )

    return deed


def record(script: Script) -> None:
    script.queue.put(FIX, "van-07")


def test_drain_ends_when_all_that_was_there_is_sent(queue: AckQueue) -> None:
    script = Script(queue, deliver(3), record, deliver(2))
    assert [(a["pending"], a["delivered"]) for a in script.run()] == [
        (5, 0),
        (5, 0),
        (2, 3),
        (2, 3),
        (0, 5),
    ]
    assert script.hurried == 1
    assert queue.stats().uncommitted + queue.stats().ready == 1


def test_drain_counts_what_is_delivered_while_it_drains(queue: AckQueue) -> None:
    script = Script(queue, deliver(5))
    script.status = replace(script.status, delivered=100)
    assert [a["delivered"] for a in script.run()] == [0, 0, 5]


def test_drain_does_not_say_that_nothing_is_left_while_a_damaged_file_is_carried_over(
    queue: AckQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = queue.stats()
    monkeypatch.setattr(queue, "stats", lambda: replace(stats, carrying_over=True))
    with pytest.raises(AgentError, match="still being carried over") as raised:
        list(Script(queue, deliver(5)).run())
    assert raised.value.exit_status == 1


def test_drain_of_an_empty_queue_ends_at_once(tmp_path: Path) -> None:
    with AckQueue(tmp_path / "other.db") as empty:
        assert [a["pending"] for a in Script(empty).run()] == [0]


def test_drain_goes_on_through_failures_that_end(queue: AckQueue) -> None:
    fails = [fail(), fail()]
    script = Script(queue, *fails, deliver(1), *fails, deliver(1), *fails, deliver(3))
    assert [a["pending"] for a in script.run()][-1] == 0


def test_drain_gives_up_after_three_attempts(queue: AckQueue) -> None:
    script = Script(queue, fail(), fail(), fail())
    with pytest.raises(UnavailableError, match="5 fixes wait: no way"):
        list(script.run())


def test_drain_does_not_wait_for_more_than_a_minute(queue: AckQueue) -> None:
    with pytest.raises(UnavailableError):
        list(Script(queue, fail(wait_s=61)).run())
    asked_for = Script(queue, lambda _script: None)
    fail("waiting", 3600)(asked_for)  # before any ``drain``
    with pytest.raises(UnavailableError):
        list(asked_for.run())


def test_drain_forgets_the_wait_that_it_cuts_short(queue: AckQueue) -> None:
    script = Script(queue, deliver(5))
    fail(wait_s=300)(script)
    assert [a["pending"] for a in script.run()] == [5, 5, 0]


def test_drain_of_a_held_queue_says_why(queue: AckQueue) -> None:
    with pytest.raises(AgentError, match="held, 5 fixes wait: no way") as raised:
        list(Script(queue, fail("held", 0.1)).run())
    assert raised.value.exit_status == 1


# Tap


def test_a_tap_that_reads_too_slowly_misses_the_oldest_and_is_told(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    recording, heard = puppet.agent.recording, puppet.agent.recording._pass_to_taps
    with puppet.queue:
        answers = recording.tap({}, Bell())
        assert next(answers) == {"source": "/dev/gps", "state": "absent"}
        chunks = [b"%07d\n" % number for number in range(40_000)]
        for chunk in chunks:
            heard(chunk)
        dropped = next(answers)["dropped_bytes"]
        assert 0 < dropped < 320_000
        left = chunks[dropped // 8 :]
        assert [next(answers)["raw"].encode("latin-1") for _ in left] == left
        heard(b"\xff later")
        assert next(answers) == {"raw": "\xff later"}
        answers.close()
        assert not recording._taps
