"""One attempt: compressed or plain, its size, and what a missing answer means."""

import logging
from pathlib import Path

import pytest
from misbehaving import Act, Line, Request, answer, at_most, hang, hang_up, no_gzip, refusing, says
from upload.upload_parts import BACKOFF_MAX_S, bench

from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import CompressionSetting, FormatName


def test_what_was_never_sent_is_not_unack(tmp_path: Path) -> None:
    """So a long offline backlog can be thinned: only fixes without an answer stay whole."""
    with bench(tmp_path) as b:
        b.transport.close()
        b.transport = Transport("http://127.0.0.1:1/")
        b.uploader._transport = b.uploader._sender._transport = b.transport
        b.put_backlog(2)
        assert b.work() == 1
        assert (b.state, b.counts) == ("unreachable", (2, 0, 0, 0))


def test_a_time_out_is_no_answer(tmp_path: Path) -> None:
    with bench(tmp_path, hang(), timeout_s=1.0) as b:
        b.put_backlog(2)
        assert b.work() == 1
        assert b.uploader.status().last_error == "no answer within 1 s"
        assert b.counts == (0, 2, 0, 0)


@pytest.mark.parametrize("returns", [False, True])
def test_a_batch_that_is_too_long_for_the_deadline_is_sent_in_parts(
    tmp_path: Path, returns: bool
) -> None:
    """Also if the network seems to go and return after each time-out."""
    with bench(tmp_path, timeout_s=2.0) as b:

        def run(line: Line, request: Request) -> None:
            b.clock.advance(0.3 * len(request.names))  # a slow link
            if len(request.names) > 6:
                line.hang()
                if returns:
                    b.uploader.network_returned(0)
            else:
                line.server.take(request)
                line.reply(200)

        b.server.then = Act(run)
        b.put_backlog(16)
        b.work_for(60)
        assert b.counts == (0, 0, 16, 0)
        sizes = [len(request.names) for request in b.server.requests]
        assert sizes[:3] == [16, 16, 4]
        assert max(sizes[3:]) == 4


def test_a_tls_error_is_no_answer(tmp_path: Path) -> None:
    with bench(tmp_path, tls=True) as b:
        b.transport.close()
        b.transport = Transport(b.server.url)  # trusts only the public authorities
        b.uploader._transport = b.uploader._sender._transport = b.transport
        b.put_backlog(2)
        assert b.work() == 1
        assert (b.state, b.counts) == ("unreachable", (0, 2, 0, 0))
        assert "certificate not trusted" in (b.uploader.status().last_error or "")


def test_too_large_is_halved_and_the_limit_remembered(tmp_path: Path) -> None:
    with bench(tmp_path, then=at_most(30), max_batch=100, compression="none") as b:
        b.put_backlog(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)
        assert sum(len(request.names) > 30 for request in b.server.requests) == 1


def test_answers_that_are_too_long_make_batches_smaller_and_their_size_is_remembered(
    tmp_path: Path,
) -> None:
    def talk(line: Line, request: Request) -> None:
        line.server.take(request)
        line.reply(200, b" " * (40_000 * len(request.names)))

    with bench(tmp_path, then=Act(talk), compression="none") as b:
        b.put_backlog(300)
        assert b.work() is None
        assert b.counts == (0, 0, 300, 0)
        assert sum(40_000 * len(request.names) > 1 << 20 for request in b.server.requests) == 1


@pytest.mark.parametrize(
    ("name", "setting", "packed"),
    [
        ("native", "auto", False),
        ("overland", "auto", False),
        ("owntracks", "auto", False),
        ("osmand", "auto", False),
        ("influx", "auto", True),
        ("clickhouse", "auto", True),
        ("native", "gzip", True),
        ("overland", "gzip", True),
        ("influx", "none", False),
        ("clickhouse", "none", False),
    ],
)
def test_what_is_compressed(
    tmp_path: Path, name: FormatName, setting: CompressionSetting, packed: bool
) -> None:
    with bench(
        tmp_path,
        then=says(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + b'{"result":"ok"}'),
        wire_format=choose(name, "http://x/"),
        compression=setting,
    ) as b:
        b.put_backlog(20)
        b.step()
        assert ("content-encoding" in b.server.requests[0].headers) == packed


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, "") for status in (400, 415, 422, 500)),
        (200, '{"received":0}'),
        (200, '{"error":"no JSON"}'),
    ],
)
def test_an_endpoint_without_gzip_is_served_plain(tmp_path: Path, status: int, body: str) -> None:
    with bench(tmp_path, then=no_gzip(status, body), max_batch=10, compression="gzip") as b:
        b.put_backlog(30)
        assert b.work() is None
        assert b.counts == (0, 0, 30, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [True, False, False, False]


@pytest.mark.parametrize("status", [None, 502, 503, 504])  # a proxy in front answers these
@pytest.mark.parametrize("outage", [0, 5])
def test_an_endpoint_that_gzip_crashes_is_served_plain(
    tmp_path: Path, status: int | None, outage: int
) -> None:
    def run(line: Line, request: Request) -> bool:
        if "content-encoding" in request.headers:
            if status is not None:
                line.reply(status)
            return False
        line.server.take(request)
        line.reply(200)
        return True

    down = [hang_up()] * outage
    with bench(tmp_path, *down, then=Act(run), max_batch=10, compression="gzip") as b:
        b.put_backlog(10)
        b.work_for(300 if outage else 10)
        assert b.counts == (0, 0, 10, 0)
        b.server.requests.clear()
        b.put(10)
        b.work_for(60)
        assert b.counts == (0, 0, 20, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert not any(packed)


def test_once_gzip_was_taken_nothing_is_repeated_plain(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), answer(415), max_batch=10, compression="gzip") as b:
        b.put_backlog(20)
        assert b.work() == BACKOFF_MAX_S
        assert len(b.server.requests) == 2
        assert all("content-encoding" in request.headers for request in b.server.requests)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, "") for status in (400, 415, 422, 500)),
        (200, '{"received":0}'),
        (200, '{"error":"no JSON"}'),
    ],
)
def test_an_endpoint_that_has_lost_gzip_is_served_plain(
    tmp_path: Path, status: int, body: str
) -> None:
    with bench(tmp_path, max_batch=10, compression="gzip") as b:
        b.put_backlog(20)
        assert b.work() is None
        b.server.requests.clear()
        b.server.then = no_gzip(status, body)
        b.put(20)
        b.work_for(2000)
        assert b.counts == (0, 0, 40, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed.count(True) <= 12
        b.server.requests.clear()
        b.put(20)
        b.work_for(100)
        assert b.counts == (0, 0, 60, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [False, False]


def test_gzip_stays_after_a_long_outage(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), then=hang_up(), max_batch=10, compression="gzip") as b:
        b.put_backlog(10)
        b.work()
        b.put_backlog(10)
        b.work_for(2000)
        b.server.then = answer()
        b.work_for(2000)
        assert b.counts == (0, 0, 20, 0)
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed[-1]
        assert 1 <= packed.count(False) < 10  # it may be another server, which crashes on gzip


@pytest.mark.parametrize("status", [502, 503, 504])
def test_the_wait_that_a_busy_server_asks_for_is_not_about_gzip(
    tmp_path: Path, status: int
) -> None:
    busy = answer(status, headers={"Retry-After": "10"})
    with bench(tmp_path, *[busy] * 8, max_batch=10, compression="gzip") as b:
        b.put_backlog(10)
        b.work_for(2000)
        assert 9 <= len(b.server.requests) <= 12  # after 502 and 504: in smaller batches
        assert all("content-encoding" in request.headers for request in b.server.requests)


def test_a_bad_fix_is_found_where_no_gzip_is_taken(tmp_path: Path) -> None:
    def run(line: Line, request: Request) -> None:
        bad = any(seq == 3 for _, seq in request.names)
        if bad or "content-encoding" in request.headers:
            line.reply(400)
        else:
            line.server.take(request)
            line.reply(200)

    with bench(tmp_path, then=Act(run), compression="gzip") as b:
        b.put_backlog(16)
        b.work_among_live(6)
        assert b.dead_seqs == {3}
        assert b.counts == (0, 0, 21, 1)


def test_a_search_does_not_send_each_part_packed_and_plain(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({3}), compression="gzip") as b:
        b.put_backlog(16)
        b.work()
        packed = ["content-encoding" in request.headers for request in b.server.requests]
        assert packed == [True] + [False] * 11
        b.work_among_live(10)
        assert b.dead_seqs == {3}
        assert "content-encoding" in b.server.requests[-1].headers


def test_an_hour_later_gzip_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with bench(tmp_path, then=no_gzip(415), max_batch=10, compression="gzip") as b:

        def packed() -> list[bool]:
            b.put_backlog(20)
            assert b.work() is None
            requests = b.server.requests.copy()
            b.server.requests.clear()
            return ["content-encoding" in request.headers for request in requests]

        assert packed() == [True, False, False]
        b.clock.advance(3599)
        assert packed() == [False, False]
        b.clock.advance(1)
        assert packed() == [True, False, False]
        b.server.then = answer()
        b.clock.advance(3600)
        assert packed() == [True, True]
        assert b.counts == (0, 0, 80, 0)
    assert caplog.messages == [
        "the endpoint does not accept gzip (415): uploads stay plain",
        "the endpoint accepts gzip now",
    ]
