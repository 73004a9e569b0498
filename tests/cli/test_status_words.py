"""The numbers and words of ``status``."""

import re
from typing import Any

import pytest

from telemetry_agent import __version__
from telemetry_agent.cli.status import lines, pace
from telemetry_agent.snapshot import (
    AtRest,
    ConfigView,
    PageView,
    QueueView,
    ReceiverView,
    Snapshot,
    StorageView,
    UploadView,
)


@pytest.mark.parametrize(
    ("rate_hz", "said"),
    [(1 / 60, "0.017"), (1, "1"), (9.94, "9.9"), (9.99, "10"), (99.6, "100"), (12_345.6, "12,346")],
)
def test_a_rate_is_never_told_in_powers_of_ten(rate_hz: float, said: str) -> None:
    assert pace(rate_hz) == f"{said} a second"


def test_what_is_wrong_with_the_receiver_has_a_line_of_its_own() -> None:
    """Without a terminal, ``status --watch`` joins all lines of an update into one."""
    receiver = ReceiverView(message="no data", remedy="check the cable", notice="antenna: OPEN")
    said = list(lines(Snapshot(receiver=receiver)))
    assert {"receiver:  no data: check the cable", "receiver:  antenna: OPEN"} < set(said)
    assert not any("\n" in line for line in said)


LINES: list[tuple[dict[str, Any], str]] = [
    (
        {"device": "van-07", "uptime_s": 7300.0},
        f"telemetry-agent {re.escape(__version__)}, van-07, running for 2 h 2 min",
    ),
    (
        {"version": "0.0.1"},
        f"note:      restart the service to run {re.escape(__version__)}, which is",
    ),
    ({"protocol": 99}, "note:      this command understands protocol 1, the agent speaks 99"),
    ({"config": ConfigView()}, "config:    the last good config is in effect: sudo shows why"),
    ({"config": ConfigView(last_error="no TOML")}, "config:    the last good .* effect: no TOML$"),
    ({"storage": StorageView("runtime")}, "storage:   the state directory fails; sudo shows why"),
    ({"storage": StorageView("forgets")}, "storage:   a power cut loses everything; sudo shows"),
    ({"storage": StorageView("covered")}, "storage:   the disk of the queue is not mounted any"),
    ({"storage": StorageView("covered", "gone", "mount it")}, "storage:   gone: mount it$"),
    ({"page": PageView("held", "in use")}, "page:      held: in use$"),
    ({"page": PageView("held")}, "page:      held: sudo shows why$"),
    (
        {"receiver": ReceiverView("/dev/x", state_s=120.0)},
        r"recording: no sentence yet for 2 min \(/dev/x\)$",
    ),
    (
        {"receiver": ReceiverView("/dev/x", state_s=120.0, message="x", remedy="y")},
        r"recording: absent for 2 min \(/dev/x\)$",
    ),
    (
        {"receiver": ReceiverView("x", "no-fix", 120.0, fix_age_s=240.0, antenna="OPEN")},
        r"recording: no-fix for 2 min, last fix 4 min ago; antenna OPEN \(x\)$",
    ),
    (
        {
            "receiver": ReceiverView(
                source="x",
                state="3d",
                rate_hz=1.0,
                rejected={"late": 2},
                not_recorded={"parked": 1000, "hdop": 1},
                antenna="OK",
                fix_age_s=240.0,
                quality="dgps",
                sats=1,
                hdop=0.9,
            )
        },
        (
            r"recording: 3d fix, 1 satellite, dgps, hdop 0\.9, 4 min ago; 1 a second; "
            r"dropped 2 late; not recorded 1,000 parked, 1 hdop \(x\)$"
        ),
    ),
    ({"receiver": ReceiverView("x", "2d")}, r"recording: 2d fix \(x\)$"),
    ({"receiver": ReceiverView("x", "2d", quality="gps")}, r"recording: 2d fix \(x\)$"),
    ({"upload": UploadView("host")}, r"uploading: not tried yet \(host\)$"),
    (
        {"upload": UploadView("host", state_s=120.0, requests=1)},
        r"uploading: ok for 2 min; 0 delivered; 0 B sent in 24 h \(host\)$",
    ),
    (
        {"upload": UploadView("host", "held", 120.0)},
        "uploading: held for 2 min: sudo shows why; 0 delivered;",
    ),
    (
        {
            "upload": UploadView(
                "host", "waiting", 120.0, last_error="503", next_attempt_s=240.0, backlog_error="4"
            )
        },
        r"uploading: waiting for 2 min: 503; next attempt in 4 min; 0 delivered; 0 B sent in 24",
    ),
    (
        {
            "upload": UploadView(
                host="host",
                state_s=120.0,
                requests=5,
                delivered=2000,
                unknown_names=1,
                rate_hz=0.5,
                sent_bytes_24h=1000,
                last_delivery_s=240.0,
                last_error="503",
                last_error_s=360.0,
            )
        },
        (
            r"uploading: ok for 2 min; 2,000 delivered, 0\.5 a second, last 4 min ago; answers "
            r"named 1 fix .*; last error 6 min ago: 503; 1 kB sent in 24 h \(host\)$"
        ),
    ),
    (
        {"upload": UploadView("host", requests=1, backlog_error="404", last_error="503")},
        r"uploading: .*; the backlog is refused: 404; 0 B sent in 24 h \(host\)$",
    ),
    (
        {"upload": UploadView(complete_until="2026-11-23T12:00:00Z")},
        "complete:  at the endpoint until 2026-11-23T12:00:00Z$",
    ),
    ({}, "queue:     0 pending; nothing lost; 0 B, 0 B free on its disk$"),
    (
        {"queue": QueueView(3, dead_letters={"400": 2}, lost={"full": 4}, oldest_pending="T")},
        "queue:     3 pending, oldest from T; 2 dead letters; 4 lost; 0 B",
    ),
    ({"queue": QueueView(dead_letters={"400": 2000})}, "refused:   2,000: 400$"),
    ({"queue": QueueView(lost={"full": 4})}, "lost:      4: full$"),
    (
        {"queue": QueueView(full=True, carrying_over=True)},
        "queue:     0 pending; nothing lost; full; more is carried over from a damaged file; 0",
    ),
    (
        {"queue": QueueView(disk_error="I/O error")},
        "storage:   I/O error; new fixes wait in memory$",
    ),
]
"""Known facts -> the beginning of a line, as a regular expression."""


@pytest.mark.parametrize(("known", "line"), LINES)
def test_each_fact_has_its_words(known: dict[str, Any], line: str) -> None:
    said = list(lines(Snapshot(**{"version": __version__, **known})))
    assert [one for one in said if re.match(line, one)], said


def test_what_is_unknown_has_no_line() -> None:
    said = list(lines(Snapshot(version=__version__, page=PageView())))
    assert [one.partition(" ")[0] for one in said] == [
        *("telemetry-agent", "recording:", "uploading:", "queue:")
    ]
    assert list(lines(AtRest())) == ["no agent runs"]
    assert list(lines(AtRest(busy=True, note="it starts"))) == ["no agent answers", "it starts"]
