"""The metrics, parsed as Prometheus parses them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from puppet import Puppet

from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.model import Fix, Satellite
from telemetry_agent.page.metrics import LOST, NOT_RECORDED, REJECTED, metrics
from telemetry_agent.snapshot import ConfigView, Snapshot, StorageView
from telemetry_agent.upload.upload_status import UploadStatus

SOURCE = Path(__file__).parents[2] / "telemetry_agent"
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
FIX = Fix(1_795_435_200_000, 48_117300000, 11_516667000, mode=3, sats=8, hdop_e2=90)
SATELLITES = (
    Satellite("GPS", 3, 40, 120, 44, used=True),
    Satellite("GPS", 17, 40, 120, 44, used=True),
    Satellite("GPS", 22, 3, 120, None, used=False),
    Satellite("Galileo", 3, 60, 12, 40, used=True),
)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """The state of an agent with events of every kind."""
    puppet = Puppet(tmp_path, 'van "07"\\')
    clock, queue = puppet.clock, puppet.queue
    puppet.receiver = ReceiverStatus("/dev/gps", "3d", clock.now_s, 12, {"checksum": 2}, "OPEN")
    puppet.upload = UploadStatus(
        state="unreachable",
        since_s=clock.now_s,
        requests=7,
        failed_requests=2,
        delivered=5,
        unknown_names=3,
        sent_bytes=1234,
        last_delivery_s=clock.now_s,
        last_error="refused",
        last_error_s=clock.now_s,
        next_attempt_s=clock.now_s + 9,
    )
    monkeypatch.setattr(puppet.agent.recording._reader.task, "satellites", lambda: SATELLITES)
    with queue:
        for second in range(10):
            puppet.fix_comes(FIX._replace(time_ms=FIX.time_ms + 1000 * second))
        puppet.agent.recording._sampler.dropped["parked"] = 3
        batch = queue.lease(5, live_first=False)
        assert batch is not None
        queue.ack(batch, rejected={1: "bad", 2: "400: lat of customer 4711", 3: "bad"})
        queue.discard([(batch.stream, 3)])
        clock.advance(2.5)
        return puppet.snapshot


def families(snapshot: Snapshot, clock_offset_s: float | None = -1.5) -> dict[str, Metric]:
    found = list(text_string_to_metric_families(metrics(snapshot, clock_offset_s).decode()))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def samples(
    snapshot: Snapshot, clock_offset_s: float | None = -1.5
) -> dict[tuple[str, str], float]:
    """The samples: (name, labels as text) -> value."""
    return {
        (
            sample.name.removeprefix("telemetry_agent_"),
            ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items())),
        ): sample.value
        for family in families(snapshot, clock_offset_s).values()
        for sample in family.samples
    }


def test_it_tells_what_the_snapshot_tells(snapshot: Snapshot) -> None:
    found = samples(snapshot)
    expected = {
        ("uptime_seconds", ""): 2.5,
        ("receiver_state", "state=3d"): 1,
        ("receiver_state", "state=no-fix"): 0,
        ("receiver_antenna_fault", ""): 1,
        ("receiver_fixes_total", ""): 12,
        ("receiver_rejected_total", "reason=checksum"): 2,
        ("fixes_not_recorded_total", "reason=parked"): 3,
        ("fix_age_seconds", ""): 2.5,
        ("fix_quality", "quality=gps"): 1,
        ("fix_quality", "quality=rtk"): 0,
        ("fix_satellites", ""): 8,
        ("queue_full", ""): 0,
        ("queue_carrying_over", ""): 0,
        ("fix_hdop", ""): 0.9,
        ("satellites", "constellation=GPS,used=true"): 2,
        ("satellites", "constellation=GPS,used=false"): 1,
        ("satellites", "constellation=Galileo,used=true"): 1,
        ("upload_state", "state=unreachable"): 1,
        ("upload_state", "state=ok"): 0,
        ("upload_requests_total", ""): 7,
        ("upload_failed_requests_total", ""): 2,
        ("upload_delivered_fixes_total", ""): 5,
        ("upload_unknown_names_total", ""): 3,
        ("upload_sent_bytes_total", ""): 1234,
        ("upload_last_delivery_age_seconds", ""): 2.5,
        ("queue_pending_fixes", ""): 5,
        ("queue_dead_letter_fixes", ""): 2,
        ("queue_delivered_fixes", ""): 2,
        ("queue_lost_fixes_total", "reason=discarded"): 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["queue_oldest_pending_age_seconds", ""] > 0
    assert found["storage_fault", ""] == found["config_fault", ""] == 0
    faulty = replace(snapshot, storage=StorageView("runtime"), config=ConfigView("wrong"))
    found = samples(faulty)
    assert found["storage_fault", ""] == found["config_fault", ""] == 1
    refused = replace(snapshot.queue, disk_error="I/O error")
    shorted = replace(snapshot.receiver, antenna="SHORT")
    found = samples(replace(snapshot, queue=refused, receiver=shorted))
    assert found["storage_fault", ""] == found["receiver_antenna_fault", ""] == 1
    info = families(snapshot)["telemetry_agent_info"].samples
    assert info[0].labels["version"] == snapshot.version
    assert [(sample.labels["device"], sample.value) for sample in info] == [('van "07"\\', 1)]


def test_what_is_unknown_is_absent(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    with puppet.queue:
        found = samples(puppet.snapshot, None)
    names = {name for name, _ in found}
    assert not names & {
        "fix_age_seconds",
        "fix_hdop",
        "fix_quality",
        "clock_offset_seconds",
        "upload_last_delivery_age_seconds",
        "queue_oldest_pending_age_seconds",
    }
    # Counters with a fixed set of labels start at 0, so that the first loss is an increase.
    assert {found["queue_lost_fixes_total", f"reason={reason}"] for reason in LOST} == {0}
    assert {found["fixes_not_recorded_total", f"reason={reason}"] for reason in NOT_RECORDED} == {0}
    assert {found["receiver_rejected_total", f"reason={reason}"] for reason in REJECTED} == {0}
    assert found["satellites", "constellation=GPS,used=true"] == 0
    assert found["receiver_antenna_fault", ""] == 0
    assert found["receiver_state", "state=absent"] == found["upload_state", "state=ok"] == 1


def test_names_are_as_promtool_wants_them(snapshot: Snapshot) -> None:
    for name, family in families(snapshot).items():
        assert family.documentation.endswith(".")
        assert re.fullmatch(r"telemetry_agent(_[a-z]+)*", name)
        assert family.type in {"gauge", "counter"}
        words = set(name.split("_"))
        # Base units with their full names; no abbreviations of units, no names of types.
        assert not words & {"s", "ms", "milliseconds", "minutes", "hours", "kb", "mb", "kilobytes"}
        assert not words & {"gauge", "counter", "count", "sum", "bucket", "total"}
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels)


def test_no_label_has_words_of_others(snapshot: Snapshot) -> None:
    assert b"4711" not in metrics(snapshot)
    assert len(metrics(snapshot).splitlines()) < 200


def test_the_documentation_names_each_metric_and_no_other(snapshot: Snapshot) -> None:
    section = DOCS.read_text().partition("## Metrics")[2]
    documented = set(re.findall(r"telemetry_agent_[a-z_]+", section))
    assert documented == {
        sample.name for family in families(snapshot).values() for sample in family.samples
    }


def test_alerts_and_dashboard_name_no_other_metric(snapshot: Snapshot) -> None:
    there = {sample.name for family in families(snapshot).values() for sample in family.samples}
    for file in ("alerts.yml", "alerts_test.yml", "dashboard.json", "README.md"):
        named = re.findall(r"telemetry_agent_\w+", (DOCS.parent / "monitoring" / file).read_text())
        assert set(named) <= there, file


def test_the_sets_of_words_are_those_of_the_code() -> None:
    """A new reason in the code must be added to the metrics."""
    gnss = "".join(file.read_text() for file in (SOURCE / "gnss").glob("*.py"))
    found = set(re.findall(r'(?:rejected|counts)\["([a-z-]+)"\]', gnss))
    written = set(re.findall(r'"([a-z-]+)"', gnss))
    assert found <= set(REJECTED) <= written, found - set(REJECTED)
    sampling = (SOURCE / "gnss/sampling.py").read_text()
    dropped = set(re.findall(r'dropped\["([a-z-]+)"\]', sampling))
    assert {"parked", "not-due"} <= dropped <= set(NOT_RECORDED) <= written
    stats = (
        (SOURCE / "ackqueue/stats.py")
        .read_text()
        .partition("lost: ")[2]
        .partition("oldest_pending_ms")[0]
    )
    assert set(re.findall(r"``([a-z]+)``", stats)) == set(LOST)
