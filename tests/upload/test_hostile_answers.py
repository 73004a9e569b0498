"""Answers that no server should send: they acknowledge nothing and break nothing."""

import contextlib
import gzip
import json
from pathlib import Path

import pytest
from misbehaving import (
    Server,
    answer,
    drips,
    says,
    tls_server_context,
    trusting,
)
from uploading import FIX, Uploading

from telemetry_agent.upload.interfaces import FormatName

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
BOMB = gzip.compress(bytes(20_000_000))
DIGITS = b"9" * 5000


def with_body(body: bytes, head: bytes = OK) -> bytes:
    return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def later(*headers: bytes) -> bytes:
    return with_body(b"", b"\r\n".join((b"HTTP/1.1 503 Later", *headers, b"")))


NO = {
    "50,000 times 100": b"HTTP/1.1 100 Continue\r\n\r\n" * 50_000 + later(),
    "100 without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000,
    "101": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n{}",
    "103 with large headers": b"HTTP/1.1 103 E\r\nLink: %s\r\n\r\n" % (b"a" * 90_000) + later(),
    "status 600": with_body(b"", b"HTTP/1.1 600 X\r\n"),
    "status 000": with_body(b"", b"HTTP/1.1 000 X\r\n"),
    "no head": b"ok",
    "no colon": with_body(b"{}", OK + b"Rubbish\r\n"),
    "space before the colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "3 MB of headers": with_body(b"{}", OK + b"X: %s\r\n" % (b"a" * 3_000_000)),
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "a length of 5,000 digits": OK + b"Content-Length: %s\r\n\r\n{}" % DIGITS,
    "a length of 5,000 digits of nothing": b"HTTP/1.1 304 X\r\nContent-Length: %s\r\n\r\n" % DIGITS,
    "a length that is not sent": OK + b"Content-Length: 100\r\n\r\n{}",
    "a negative chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n%s\r\n{}" % (b"f" * 20),
    "chunks that do not end": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "an unknown encoding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a bomb": with_body(BOMB, OK + JSON + b"Content-Encoding: gzip\r\n"),
    "arrays 100,000 deep": with_body(b"[" * 100_000 + b"]" * 100_000, OK + JSON),
    "objects 100,000 deep": with_body(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, OK + JSON),
    "an error behind a BOM": with_body(b'\xef\xbb\xbf{"error":"full"}', OK + JSON),
    "an error in UTF-16": with_body('{"error":"full"}'.encode("utf-16"), OK + JSON),
    "an undeclared error in UTF-16": with_body('{"error":"full"}'.encode("utf-16")),
    "a page in UTF-16": with_body("<html>".encode("utf-16")),
    "an error with a lone surrogate": with_body(b'{"error":"\\ud800"}', OK + JSON),
    "received as a whole float": with_body(b'{"received":0.0}', OK + JSON),
    "received twice": with_body(b'{"received":3,"received":0}', OK + JSON),
    "NaN": with_body(b"NaN", OK + JSON),
    "a number of 5,000 digits": with_body(b'{"received":%s}' % DIGITS, OK + JSON),
    "Retry-After of 5,000 digits": later(b"Retry-After: %s" % DIGITS),
    "Retry-After in superscript": later(b"Retry-After: \xb2"),
    "Retry-After in year 9999": later(
        b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", b"Date: Mon, 01 Jan 0001 00:00:00 +2359"
    ),
    "a zone of a year": later(b"Retry-After: Fri, 31 Dec 2026 23:59:59 -99999999", b"Date: x"),
    "a redirect to nonsense": with_body(
        b"", b"HTTP/1.1 302 X\r\nLocation: http://[::1\xff\x1b\r\n"
    ),
    "an exception code in superscript": with_body(
        b"Code: %s. DB" % DIGITS, b"HTTP/1.1 500 X\r\nX-ClickHouse-Exception-Code: \xb2\r\n"
    ),
    "an exception code of 5,000 digits": with_body(
        b"", b"HTTP/1.1 500 X\r\nX-ClickHouse-Exception-Code: %s\r\n" % DIGITS
    ),
    "control characters": with_body(b"\x1b[2J\0\xff\r\n" * 50, b"HTTP/1.1 500 X\r\n"),
}


@pytest.mark.parametrize("name", ["native", "osmand", "clickhouse"])
@pytest.mark.parametrize("what", NO)
def test_a_hostile_answer_acknowledges_nothing(tmp_path: Path, name: FormatName, what: str) -> None:
    with (
        Server(*[says(NO[what])] * 4) as server,
        contextlib.closing(Uploading(tmp_path, server.url, name, timeout_s=3)) as u,
    ):
        u.put(3)
        u.uploader.step(u.clock.monotonic_s())
        said = u.uploader.status().last_error or ""
        assert u.counts[2:] == (0, 0)
        assert said.isprintable()
        assert len(said) < 300
        for _ in range(10):
            u.clock.advance(u.work() or 0)
        assert u.counts == (0, 0, 3, 0)


@pytest.mark.parametrize("weight", [b"\xb2", b"1" * 400, b"nan", b".", "٣".encode()])
def test_an_odd_offer_of_gzip_breaks_nothing(tmp_path: Path, weight: bytes) -> None:
    odd = says(with_body(b"{}", OK + b"Accept-Encoding: gzip;q=%s\r\n" % weight))
    with (
        Server(odd, then=answer()) as server,
        contextlib.closing(Uploading(tmp_path, server.url, "native")) as u,
    ):
        u.put(3)
        assert u.work() is None
        assert u.counts == (0, 0, 3, 0)


def test_a_portal_that_offers_gzip_is_not_the_endpoint(tmp_path: Path) -> None:
    page = with_body(b"<html>", OK + b"Accept-Encoding: gzip\r\n")
    with (
        Server(says(page), then=answer()) as server,
        contextlib.closing(Uploading(tmp_path, server.url, "native")) as u,
    ):
        u.put(20)
        u.clock.advance(u.work() or 0)
        assert u.work() is None
        assert u.counts == (0, 0, 20, 0)
        assert not any("content-encoding" in request.headers for request in server.requests)


@pytest.mark.parametrize("name", ["native", "osmand"])
def test_a_refusal_that_was_cut_off_is_one(tmp_path: Path, name: FormatName) -> None:
    with (
        Server(then=says(b"HTTP/1.1 401 X\r\n\r\nwho?"), tls=tls_server_context()) as server,
        contextlib.closing(Uploading(tmp_path, server.url, name, trusting())) as u,
    ):
        u.put(3)
        u.uploader.step(u.clock.monotonic_s())
        assert u.uploader.status().last_error == "401: who?"


@pytest.mark.parametrize("body", [b"", b"ok"])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("name", ["native", "osmand"])
def test_the_end_of_the_connection_may_be_the_end_of_the_answer(
    tmp_path: Path, name: FormatName, tls: bool, body: bytes
) -> None:
    """Answer like a CGI script: no length, and no notice that the connection or TLS ends."""
    context, credentials = (tls_server_context(), trusting()) if tls else (None, None)
    with (
        Server(then=says(OK + b"\r\n" + body), tls=context) as server,
        contextlib.closing(Uploading(tmp_path, server.url, name, credentials)) as u,
    ):
        u.put(20)
        assert u.work() is None
        assert u.counts == (0, 0, 20, 0)


@pytest.mark.parametrize("status", [200, 401])
def test_a_yes_to_a_request_that_was_not_read_is_none(tmp_path: Path, status: int) -> None:
    """The answer comes and the connection ends while the agent still sends the request."""
    at_once = drips(b"", first=with_body(b"no", b"HTTP/1.1 %d X\r\n" % status), at_once=True)
    with (
        Server(at_once) as server,
        contextlib.closing(Uploading(tmp_path, server.url, "native")) as u,
    ):
        u.put(16, fix=FIX._replace(extra=json.dumps({"note": "x" * 400_000})))
        u.uploader.step(u.clock.monotonic_s())
        assert u.counts[2:] == (0, 0)
        said = str(u.uploader.status().last_error)
        assert said == ("401: no" if status == 401 else "200 before the request was sent")
