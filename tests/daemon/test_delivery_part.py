"""The delivery part alone: it needs a queue, but no page, receiver or control socket."""

from pathlib import Path

import pytest
from polling import wait_until

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import (
    GpsSettings,
    PageSettings,
    QueueSettings,
    Settings,
    UploadSettings,
)
from telemetry_agent.daemon.delivery import _policy_of, drain_at_rest
from telemetry_agent.daemon.supervisor import Supervised
from telemetry_agent.errors import AgentError
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.model import Fix
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.interfaces import UploadPolicy
from telemetry_agent.upload.uploader import Uploader


def recorded(folder: Path, url: str, **upload: object) -> Settings:
    """Settings for the delivery part only, and a queue with 20 pending fixes."""
    path = folder / "queue.db"
    with AckQueue(path) as queue:
        for second in range(20):
            queue.put(Fix(1_795_437_319_000 + 1000 * second, 0, 0), "van-07")
    return Settings(
        device="van-07",
        gps=GpsSettings(source="/dev/not-there"),
        queue=QueueSettings(path=path),
        upload=UploadSettings(url=url, **upload),  # type: ignore[arg-type]
        page=PageSettings(listen=("0.0.0.0", 80), token_file=folder / "not-there"),
    )


def test_a_drain_needs_neither_page_nor_receiver(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        *_, last = drain_at_rest(recorded(tmp_path, endpoint.url), Clock())
        assert (last["pending"], last["delivered"]) == (0, 20)
        assert endpoint.count() == 20


def test_a_drain_counts_what_is_delivered_before_it_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Supervised.start

    def start(uploader: Supervised[Uploader]) -> None:
        begin(uploader)
        wait_until(lambda: uploader.task.status().delivered == 20)

    monkeypatch.setattr(Supervised, "start", start)
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        first, *_, last = drain_at_rest(recorded(tmp_path, endpoint.url), Clock())
    assert (first["pending"], first["delivered"]) == (20, 0)
    assert (last["pending"], last["delivered"]) == (0, 20)


def test_a_secret_that_is_missing_holds_the_drain_and_names_the_file(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        settings = recorded(tmp_path, endpoint.url, token_file=tmp_path / "token")
        with pytest.raises(AgentError, match=r"uploads are held, 20 fixes wait: .*token"):
            list(drain_at_rest(settings, Clock()))
        assert endpoint.count() == 0


def test_the_defaults_of_the_config_are_those_of_the_uploader() -> None:
    assert _policy_of(UploadSettings(url="http://127.0.0.1:9/"), native.FORMAT) == UploadPolicy()
