"""The path of a fix with the real process: from a receiver's bytes to an endpoint."""

import random
import shutil
import signal
from contextlib import ExitStack
from itertools import count
from math import ceil, log2
from pathlib import Path

import pytest
from misbehaving import Act, Line, Request, Server, answer, hang
from polling import wait_until
from processes import agent
from rig import START_MS, committed, record_backlog, simulated, started, stats, write_config

from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint("127.0.0.1:0", tmp_path / "received.db")


def test_everything_a_receiver_says_arrives_once(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path, 60) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(60, 60), daemon.text()
            assert daemon.end() == 0
        received = endpoint.received()
    assert [seq for _, seq, _ in received] == list(range(1, 61))
    assert len({stream for stream, _, _ in received}) == 1
    assert len({time for _, _, time in received}) == 60
    assert stats(tmp_path).acked == 60
    assert {state for state, _ in committed(tmp_path / "queue.db").values()} == {5}


def test_an_outage_loses_nothing_and_live_fixes_resume(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(20, 60)
            endpoint.disconnect()
            daemon.wait_for_line("cannot deliver")
            away = endpoint.count()
            sent = simulator.sent
            while simulator.sent < sent + 40:
                simulator.done.wait(0.1)
            assert endpoint.count() == away
            endpoint.reconnect()
            daemon.wait_for_line("delivering again after")
            assert endpoint.wait_for(simulator.sent + 20, 60)
            simulator.hush()
            assert endpoint.wait_for(simulator.sent, 60)
            assert daemon.end() == 0
        received = endpoint.received()
        assert len({time for _, _, time in received}) == len(received) == simulator.sent
    assert stats(tmp_path).ready == stats(tmp_path).unack == 0


def test_a_device_that_vanishes_and_returns_on_another_node(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    drive, link = iter(Drive(START_MS, interval_ms=50)), tmp_path / "gps"
    replugged = Simulator(drive, rate_hz=20)
    with ExitStack() as plugged, endpoint:
        plugged.enter_context(Simulator(drive, rate_hz=20, link=link))
        config = write_config(tmp_path, str(link), endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(20, 60)
            plugged.close()
            daemon.wait_for_line("went away: check the cable")
            before = endpoint.count()
            link.symlink_to(replugged.device)
            with replugged:
                daemon.wait_for_line("works again after")
                assert endpoint.wait_for(before + 20, 60)
                assert daemon.end() == 0
        times = [time for _, _, time in endpoint.received()]
        assert len(set(times)) == len(times)


def test_kill_minus_nine_at_random_moments(tmp_path: Path, endpoint: Endpoint) -> None:
    """No committed fix is lost, and no name is used for two fixes."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    draw = random.Random(seed)
    named: dict[tuple[str, int], str] = {}
    with endpoint, simulated(tmp_path, rate_hz=40) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        for life in count():
            if life >= 20 and len(named) > 100:
                break
            if life % 4 == 1:
                endpoint.disconnect()
            elif life % 4 == 3:
                endpoint.reconnect()
            with started(config) as daemon:
                simulator.done.wait(draw.uniform(0.0, 0.8))
                daemon.kill()
            copy = tmp_path / f"life-{life}"
            copy.mkdir()
            for file in (tmp_path / "queue.db", tmp_path / "queue.db-wal"):
                if file.exists():
                    shutil.copy(file, copy)
            on_disk = committed(copy / "queue.db")
            for name, (_, time) in on_disk.items():
                assert named.setdefault(name, time) == time, f"{name} names two fixes"
        simulator.hush()
        endpoint.reconnect()
        with started(config) as daemon:
            received: dict[tuple[str, int], str] = {}
            while missing := named.keys() - received.keys():
                assert endpoint.wait_for(len(received) + 1, 60), f"{missing} never arrive"
                received = {(s, n): time for s, n, time in endpoint.received()}
            assert daemon.end() == 0
        received = {(s, n): time for s, n, time in endpoint.received()}
    for name, time in received.items():
        assert named.setdefault(name, time) == time, f"{name} names two fixes"


def test_sigterm_while_a_request_hangs(tmp_path: Path) -> None:
    with Server(then=hang(store=True)) as server, simulated(tmp_path) as simulator:
        config = write_config(
            tmp_path, str(simulator.device), server.url, upload={"timeout": "10min"}
        )
        with started(config) as daemon:
            server.wait_for(lambda s: bool(s.requests))
            assert daemon.end() == 0
            assert not any("Traceback" in line for line in daemon.err)
            sent = simulator.sent
    counts = stats(tmp_path)
    assert counts.acked == 0
    assert 0 < counts.ready + counts.unack <= sent


def test_sigterm_while_the_last_upload_hangs(tmp_path: Path) -> None:
    record_backlog(tmp_path, 10)
    answered = answer(headers={"Accept-Encoding": "gzip"})
    with Server(answered, then=hang(store=True)) as server, simulated(tmp_path) as simulator:
        # With this, only the backlog is sent before the end.
        config = write_config(
            tmp_path, str(simulator.device), server.url, upload={"flush_every": "1h"}
        )
        with started(config) as daemon:
            daemon.wait_for_line("unpacks gzip")
            wait_until(lambda: len(committed(tmp_path / "queue.db")) > 10)
            assert daemon.end() == 0
            assert not any("Traceback" in line or "crashed" in line for line in daemon.err)
    states = {name: state for name, (state, _) in committed(tmp_path / "queue.db").items()}
    acked, unack = (request.names for request in server.requests)
    assert {states[name] for name in acked} == {State.ACKED}
    assert {states[name] for name in unack} == {State.UNACK}


def test_sigint_is_as_good(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(10, 60)
            assert daemon.end(by=signal.SIGINT) == 0


def test_an_endpoint_that_refuses_everything_makes_no_dead_letters(tmp_path: Path) -> None:
    record_backlog(tmp_path, 100)
    with Server(then=answer(400, "no")) as server:
        config = write_config(tmp_path, "/dev/none", server.url, upload={"backoff_max": "1h"})
        with started(config) as daemon:
            daemon.wait_for_line("uploads are held")
            assert daemon.end() == 0
    assert len(server.requests) <= ceil(log2(100)) + 3
    counts = stats(tmp_path)
    assert (counts.ready, counts.ack_failed) == (100, 0)


def test_one_bad_fix_becomes_a_dead_letter_and_the_rest_arrives(tmp_path: Path) -> None:
    record_backlog(tmp_path, 100)
    ((old, _), *_) = committed(tmp_path / "queue.db")

    def refuse_one(line: Line, request: Request) -> bool | None:
        return (answer(400) if (old, 42) in request.names else answer()).run(line, request)

    # Each refusal needs an accepted fix as its witness, so the receiver goes on.
    with Server(then=Act(refuse_one)) as server, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), server.url)
        with started(config) as daemon:
            daemon.wait_for_line("a fix became a dead letter")
            server.wait_for(lambda s: sum(stream == old for stream, _ in s.ledger) == 99)
            simulator.hush()
            server.wait_for(lambda s: len(s.ledger) == 99 + simulator.sent)
            assert daemon.end() == 0
    assert set(server.ledger.values()) == {1}
    searched = [r for r in server.requests if any(stream == old for stream, _ in r.names)]
    # The search, and five refusals of the single fix; an accepted request may come between them.
    assert len(searched) <= 2 * ceil(log2(100)) + 2 * 5
    counts = stats(tmp_path)
    assert (counts.ready, counts.ack_failed) == (0, 1)


def test_a_second_daemon_ends_with_75_and_names_the_first(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    with endpoint:
        config = write_config(tmp_path, "/dev/none", endpoint.url)
        with started(config) as first, agent("run", "--config", str(config)) as second:
            assert second.wait() == 75
            assert len(second.err) == 1
            assert f"{tmp_path}/queue.db is in use by" in second.err[0]
            assert f"pid {first.process.pid}" in second.err[0]
