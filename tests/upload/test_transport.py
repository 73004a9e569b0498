"""A complete exchange with the endpoint: request and answer."""

import logging

import pytest
from misbehaving import Server, answer
from upload.upload_parts import PAYLOAD, answered, transport_to, unanswered

from telemetry_agent.upload.http.credentials import Credentials


def test_a_name_that_only_looks_like_punycode_is_a_name_as_any_other() -> None:
    with transport_to("http://xn--a:1/") as transport:
        assert "xn--a" in unanswered(transport.exchange(PAYLOAD, 5))


def test_an_exchange_carries_body_and_headers_there_and_back() -> None:
    with (
        Server(answer(202, "fine", {"X-One": "1", "x-Two": "2"})) as server,
        transport_to(server.url + "?key=1", credentials=Credentials({"X-Mine": "me"})) as transport,
    ):
        got = answered(transport.exchange(PAYLOAD, 60))
        counted = transport.dialer.sent_bytes, transport.dialer.received_bytes
    assert (got.status, got.body, got.verified_tls) == (202, b"fine", False)
    assert got.headers["x-one"] == "1"
    assert got.headers["x-two"] == "2"
    (request,) = server.requests
    assert request.method == "POST"
    assert request.target == "/v1/fixes?key=1"
    assert request.body == PAYLOAD.body
    assert set(request.headers) == {
        "host",
        "content-length",
        "content-type",
        "user-agent",
        "x-mine",
    }
    head = sum(len(k) + len(v) + 4 for k, v in request.headers.items())
    assert counted[0] == len("POST /v1/fixes?key=1 HTTP/1.1\r\n\r\n") + head + len(PAYLOAD.body)
    assert counted[1] == len(
        "HTTP/1.1 202 Whatever\r\nContent-Length: 4\r\nX-One: 1\r\nx-Two: 2\r\n\r\nfine"
    )


def test_a_header_of_the_user_may_hold_any_letters() -> None:
    credentials = Credentials({"X-Name": "Zürich"})
    with Server() as server, transport_to(server.url, credentials=credentials) as transport:
        answered(transport.exchange(PAYLOAD, 60))
    assert server.requests[0].headers["x-name"].encode("latin-1").decode() == "Zürich"


def test_one_connection_serves_many_exchanges() -> None:
    with Server() as server, transport_to(server.url) as transport:
        for _ in range(3):
            answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 1
        transport.drop_idle()
        answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 2


@pytest.mark.parametrize("location", ["http://[", "\x7f", "//", "http://x:99999/", "/else"])
def test_a_redirect_is_an_answer_wherever_it_points(location: str) -> None:
    with (
        Server(answer(302, headers={"Location": location})) as server,
        transport_to(server.url) as transport,
    ):
        got = answered(transport.exchange(PAYLOAD, 60))
        assert got.status == 302
        assert got.headers["location"] == location.strip()
        assert len(server.requests) == 1


def test_cookies_are_not_sent_back() -> None:
    with (
        Server(answer(headers={"Set-Cookie": "portal=1"})) as server,
        transport_to(server.url) as transport,
    ):
        answered(transport.exchange(PAYLOAD, 60))
        answered(transport.exchange(PAYLOAD, 60))
        assert "cookie" not in server.requests[1].headers


def test_the_url_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Server() as server, transport_to(server.url + "?key=secret") as transport:
        answered(transport.exchange(PAYLOAD, 60))
    assert "secret" not in caplog.text
