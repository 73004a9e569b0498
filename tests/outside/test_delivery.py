"""Delivery by the real process: recipient, path, order and number of copies."""

import json
import random
import re
import resource
import signal
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from links import Link
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    answer,
    ca_file,
    hang_up,
    no_gzip,
    refusing,
    tls_server_context,
)
from ports import free_port
from processes import run_agent
from rig import record_backlog, simulated, started, stats, write_config
from schedules import fix_at, run_schedules
from standins import Server as Plain
from standins import Unlooking

from telemetry_agent.ackqueue.queue import AckQueue


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def only_with(token: str) -> Act:
    """Accept requests with this token; quote any other token."""

    def run(line: Line, request: Request) -> None:
        shown = request.headers.get("authorization", "")
        if shown == f"Bearer {token}":
            line.server.take(request)
            line.reply(200)
        else:
            line.reply(401, f"who is {shown}?")

    return Act(run)


def test_a_credential_is_sent_renewed_and_never_shown(tmp_path: Path, authority: Authority) -> None:
    record_backlog(tmp_path, 8)
    token = tmp_path / "token"
    token.write_text("old-t0ken\n")
    tls = authority.server_context(authority.sign("server"))
    with Server(then=only_with("new-t0ken"), tls=tls) as server:
        config = write_config(
            tmp_path,
            "/dev/none",
            server.url + "?api_key=url-t0ken",
            upload={"ca_file": str(authority.pair.cert), "backoff_max": "200ms"},
        )
        with started(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) as agent:
            agent.wait_for_line("uploads are held.* 401: who is Bearer \\*\\*\\*\\?")
            status = run_agent("status", "--json", "--config", str(config)).stdout
            assert "who is Bearer ***?" in json.loads(status)["upload"]["last_error"]
            token.write_text("new-t0ken\n")
            server.wait_for(lambda s: len(s.ledger) == 8)
            agent.wait_for_line("delivering again")
            assert agent.end() == 0
        shown = run_agent("config", "show", "--config", str(config)).stdout
    assert stats(tmp_path).acked == 8
    assert "t0ken" not in agent.text() + status + shown


@pytest.mark.parametrize("missing", ["token_file", "password_file", "ca_file", "client_cert"])
def test_without_a_secret_it_records_and_delivers_as_soon_as_that_is_there(
    tmp_path: Path, authority: Authority, missing: str
) -> None:
    upload = {missing: str(tmp_path / missing)}
    if missing == "password_file":
        upload["username"] = "van"
    pair = authority.sign("van")
    text = {
        "ca_file": authority.pair.cert.read_text(),
        "client_cert": pair.cert.read_text() + pair.key.read_text(),
    }.get(missing, "s3cret")
    with Server() as server, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), server.url, upload=upload)
        with started(config) as agent:
            why = f"upload.{missing}: .*{tmp_path}/{missing}"
            agent.wait_for_line(f"uploads are held.*{why}")
            while (told := status_of(config))["queue"]["pending"] < 20:
                pass
            assert told["upload"]["state"] == "held"
            assert re.match(why, told["upload"]["last_error"])
            assert not server.requests
            (tmp_path / missing).write_text(text)
            server.wait_for(lambda s: len(s.ledger) >= 20, 60)
            agent.wait_for_line("delivering again")
            assert agent.end() == 0
        assert agent.text().count("uploads are held") == 1


def status_of(config: Path) -> Any:
    return json.loads(run_agent("status", "--json", "--config", str(config)).stdout)


def test_without_its_token_the_page_waits_and_comes_by_itself(tmp_path: Path) -> None:
    token = tmp_path / "page-token"
    page = {"listen": f"127.0.0.1:{free_port()}", "token_file": str(token)}
    with Server() as server, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), server.url, page=page)
        with started(config) as agent:
            agent.wait_for_line("no page at .*: page.token_file: cannot read .*page-token")
            assert status_of(config)["page"]["state"] == "held"
            assert "page:      held: page.token_file: cannot read" in (
                run_agent("status", "--config", str(config)).stdout
            )
            server.wait_for(lambda s: len(s.ledger) >= 20)
            token.write_text("a-token-of-24-characters")
            agent.wait_for_line("the page is at", 60)
            assert status_of(config)["page"] == {"state": "ok"}
            assert agent.end() == 0


def test_a_reload_with_a_missing_token_holds_uploads_alone(tmp_path: Path) -> None:
    with Server() as server, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), server.url)
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) >= 5)
            upload = {"token_file": str(tmp_path / "gone")}
            write_config(tmp_path, str(simulator.device), server.url, upload=upload)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("uploads are held.*: upload.token_file: cannot read .*/gone")
            write_config(tmp_path, str(simulator.device), server.url)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("delivering again")
            assert agent.end() == 0


def test_a_credential_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    config = write_config(tmp_path, "/dev/none", "http://far.example/v1")
    assert run_agent("config", "check", "--config", str(config)).returncode == 0
    with started(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) as agent:
        agent.wait_for_line("held.*a secret would be sent to far.example unencrypted")
        assert agent.end() == 0


def test_behind_a_proxy_only_the_proxy_is_spoken_to(tmp_path: Path) -> None:
    """The device never resolves the endpoint's name, and the monitor probes the proxy."""
    record_backlog(tmp_path, 8)
    with Server(hang_up(), hang_up()) as proxy:
        config = write_config(
            tmp_path,
            "/dev/none",
            "http://far.example/v1/fixes",
            upload={"proxy": f"http://127.0.0.1:{proxy.port}"},
        )
        env = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "*"}
        with started(config, env) as agent:
            proxy.wait_for(lambda s: len(s.ledger) == 8)
            agent.wait_for_line("delivering again")
            assert agent.end() == 0
    assert {request.target for request in proxy.requests} == {"http://far.example/v1/fixes"}
    assert "resolve" not in agent.text()


def test_the_connection_outlives_flush_every(tmp_path: Path) -> None:
    with simulated(tmp_path, rate_hz=5) as simulator, Server() as server:
        config = write_config(
            tmp_path, str(simulator.device), server.url, upload={"flush_every": "1s"}
        )
        with started(config) as agent:
            server.wait_for(lambda s: len(s.requests) >= 4)
            connections = {request.connection for request in server.requests[:4]}
            assert agent.end() == 0  # after a last upload, on another connection
    assert len(connections) == 1


def test_a_wrong_clock_is_told_by_the_receivers_time(tmp_path: Path) -> None:
    with simulated(tmp_path) as simulator, Server(tls=tls_server_context("past")) as server:
        config = write_config(
            tmp_path,
            str(simulator.device),
            server.url,
            upload={"ca_file": str(ca_file("past"))},
        )
        with started(config) as agent:
            agent.wait_for_line(
                "certificate has expired: this machine's clock is wrong: it says .*Z, "
                r"GNSS says 2026-11-23T12:0\d:.*Z; set the clock"
            )
            assert agent.end() == 0


def test_whatever_breaks_each_fix_is_stored_once() -> None:
    """50 random schedules of faults and kills; benchmarks/fault_schedules.py runs more."""
    first = random.randrange(10**9)
    told = list(run_schedules(range(first, first + 50)))
    assert not {first + number: each.faults for number, each in enumerate(told) if each.faults}
    assert sum(each.repeats for each in told) > 50
    assert sum(each.kills for each in told) > 10


def put_backlog(folder: Path, fixes: int) -> str:
    """Put fixes of an earlier agent process; return its stream."""
    with AckQueue(folder / "queue.db", commit_every_s=3600) as queue:
        for second in range(fixes):
            queue.put(fix_at(second), "van-07")
        return queue.stream


def test_a_fresh_fix_passes_the_backlog_on_a_slow_link(tmp_path: Path) -> None:
    old = put_backlog(tmp_path, 20_000)
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:

        def order() -> list[str]:
            """Return, for each request, whose fixes it carried."""
            streams = [{stream for stream, _ in each.names} for each in list(server.requests)]
            return ["old" if old in each else "fresh" for each in streams if each]

        def both_came(_: Server) -> bool:
            backlog = sum(stream == old for stream, _ in server.ledger)
            return backlog > 1000 and order().count("fresh") >= 8

        with Link(server.port, 200_000) as link:
            config = write_config(
                tmp_path,
                str(simulator.device),
                f"http://127.0.0.1:{link.port}/",
                upload={"flush_every": "500ms", "timeout": "30s"},
            )
            with started(config) as agent:
                server.wait_for(both_came, 120)
                came = order()
                assert agent.end() == 0
    assert sum(stream == old for stream, _ in server.ledger) < 20_000, "all of it was through"
    # Delayed fresh fixes would come after the whole backlog. They came between its parts.
    assert sum(whose == "old" for whose, _ in groupby(came)) > 3, came
    assert set(server.ledger.values()) == {1}


@pytest.mark.parametrize("name", ["native", "overland"])
def test_by_default_an_endpoint_that_does_not_unpack_loses_nothing(
    tmp_path: Path, name: str
) -> None:
    record_backlog(tmp_path, 200)
    endpoint = Unlooking()
    with Plain(endpoint) as server:
        config = write_config(tmp_path, "/dev/none", server.url, upload={"format": name})
        with started(config) as agent:
            done = run_agent("drain", "--config", str(config))
            assert done.returncode == 0, done.stderr
            assert agent.end() == 0
    assert stats(tmp_path).acked == len(endpoint.stored) == 200
    assert not endpoint.packed


def test_drain_ends_where_only_a_refused_fix_is_left(tmp_path: Path) -> None:
    """No other fix can be accepted as a witness, so nobody knows whether this one is bad."""
    record_backlog(tmp_path, 100)
    with Server(then=refusing({100})) as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        done = run_agent("drain", "--config", str(config))
    assert done.returncode == 69
    assert "1 fix waits: 400: bad fix" in done.stderr
    left = stats(tmp_path)
    assert (left.ready, left.unack, left.acked, left.ack_failed) == (1, 0, 99, 0)


def test_oldest_first_keeps_the_order(tmp_path: Path) -> None:
    old = put_backlog(tmp_path, 3_000)
    with simulated(tmp_path, 40) as simulator, Server() as server:
        config = write_config(
            tmp_path, str(simulator.device), server.url, upload={"order": "oldest-first"}
        )
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) == 3040)
            assert agent.end() == 0
    came = [name for request in server.requests for name in request.names]
    assert came == sorted(came, key=lambda name: (name[0] != old, name[1]))
    assert len(came) == 3040


@pytest.mark.parametrize("act", [hang_up(), answer(401), answer(500)])
def test_oldest_first_keeps_the_order_after_an_outage(tmp_path: Path, act: Act) -> None:
    old = put_backlog(tmp_path, 100)
    with Server(*[act] * 12) as server:
        upload = {"order": "oldest-first", "max_batch": 4}
        config = write_config(tmp_path, "/dev/none", server.url, upload=upload)
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) == 100)
            assert agent.end() == 0
    came = [name for request in server.requests[12:] for name in request.names]
    assert came == [(old, seq) for seq in range(1, 101)]


def test_an_endpoint_that_loses_gzip_is_served_plain(tmp_path: Path) -> None:
    put_backlog(tmp_path, 100)
    with Server(answer(), then=no_gzip(415)) as server:
        upload = {"compression": "gzip", "max_batch": 20}
        config = write_config(tmp_path, "/dev/none", server.url, upload=upload)
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) == 100)
            agent.wait_for_line("the endpoint does not accept gzip \\(415\\): uploads stay plain")
            assert agent.end() == 0
    assert stats(tmp_path).acked == 100
    assert set(server.ledger.values()) == {1}


def test_a_disk_that_refuses_is_asked_once_a_second_and_costs_nothing(tmp_path: Path) -> None:
    with simulated(tmp_path) as simulator, Server() as server:
        config = write_config(tmp_path, str(simulator.device), server.url)
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) >= 10)
            pid = agent.process.pid
            writable = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, writable[1]))  # no file can grow
            agent.wait_for_line("cannot write the queue .* tried again each second")
            refused = simulator.sent
            while simulator.sent < refused + 60:  # 3 s
                simulator.done.wait(0.05)
            simulator.hush()
            resource.prlimit(pid, resource.RLIMIT_FSIZE, writable)
            told = agent.wait_for_line(r"can be written again after (\d+) s \(failures: (\d+)")
            seconds, refusals = map(int, told.groups())
            assert refusals <= seconds + 2
            server.wait_for(lambda s: len(s.ledger) == simulator.sent)
            assert agent.end() == 0
