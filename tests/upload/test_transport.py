import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    answer,
    drips,
    endless,
    hang,
    hang_up,
    reset,
    says,
    swallowed_syn,
    tls_server_context,
    trusting,
    twice,
)
from ports import free_port

from telemetry_agent import addresses
from telemetry_agent.addresses import Address
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import BrokenError, Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

PAYLOAD = Payload(b'{"fixes":[]}', {"Content-Type": "application/json"})
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
DEADLINE_S = 1.5
SLACK_S = 10.0  # of a busy machine; the acts go on for longer


@contextmanager
def transport_to(url: str, **how: Any) -> Iterator[Transport]:
    transport = Transport(url, **how)
    try:
        yield transport
    finally:
        transport.close()


def answered(outcome: Answer | NoAnswer) -> Answer:
    assert isinstance(outcome, Answer), outcome
    return outcome


def unanswered(outcome: Answer | NoAnswer) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.reason


def test_a_name_that_only_looks_like_punycode_is_a_name_as_any_other() -> None:
    with transport_to("http://xn--a:1/") as transport:
        assert "xn--a" in unanswered(transport.exchange(PAYLOAD, 5))


def test_an_exchange_carries_body_and_headers_there_and_back() -> None:
    with (
        Server(answer(202, "fine", {"X-One": "1", "x-Two": "2"})) as server,
        transport_to(server.url + "?key=1", credentials=Credentials({"X-Mine": "me"})) as transport,
    ):
        got = answered(transport.exchange(PAYLOAD, 60))
        counted = transport.sent_bytes, transport.received_bytes
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


def test_a_header_that_cannot_be_sent_is_no_traceback() -> None:
    credentials = Credentials({"X-Token": "a\nb"})
    with Server() as server, transport_to(server.url, credentials=credentials) as transport:
        assert unanswered(transport.exchange(PAYLOAD, 60)).startswith("the request cannot be sent")


def test_one_connection_serves_many_exchanges() -> None:
    with Server() as server, transport_to(server.url) as transport:
        for _ in range(3):
            answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 1
        transport.drop_idle()
        answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 2


def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    with Server() as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        server.close_idle()
        answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 2


@pytest.mark.parametrize("fault", [reset(), reset(after_reading=True), hang_up()])
def test_a_reused_connection_that_fails_is_repeated_once_on_a_fresh_one(fault: Act) -> None:
    with Server(answer(), fault, answer(201)) as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        assert answered(transport.exchange(PAYLOAD, 60)).status == 201
        assert server.connections == 2


def test_a_fresh_connection_that_fails_is_not_repeated() -> None:
    with Server(hang_up(), answer()) as server, transport_to(server.url) as transport:
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "the server closed the connection without an answer"
        assert len(server.requests) == 1


def test_a_reused_connection_that_fails_twice_is_repeated_once() -> None:
    with (
        Server(answer(), hang_up(), hang_up(), answer()) as server,
        transport_to(server.url) as transport,
    ):
        answered(transport.exchange(PAYLOAD, 60))
        unanswered(transport.exchange(PAYLOAD, 60))
        assert len(server.requests) == 3


def test_a_reused_connection_that_is_silent_is_not_repeated_after_the_deadline() -> None:
    with Server(answer(), hang()) as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        reason = unanswered(transport.exchange(PAYLOAD, DEADLINE_S))
        assert reason == f"no answer within {DEADLINE_S:g} s"
        assert server.connections == 1


def test_nothing_is_repeated_once_an_answer_has_begun() -> None:
    broken = says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    with Server(answer(), broken, answer()) as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "the answer broke off: the connection closed"
        assert len(server.requests) == 2


def test_a_second_answer_is_never_taken_for_that_to_the_next_request() -> None:
    with Server(twice(200, "HH"), answer(503)) as server, transport_to(server.url) as transport:
        assert answered(transport.exchange(PAYLOAD, 60)).body == b"HH"
        assert answered(transport.exchange(PAYLOAD, 60)).status == 503
        assert server.connections == 2


def test_over_tls_a_second_answer_is_never_taken_for_that_to_the_next_request_either() -> None:
    def answer_twice(line: Line, request: Request) -> None:
        line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # two records, read at once
        line.reply(200)
        line.reply(200)
        line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    with (
        Server(Act(answer_twice), answer(503), tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        assert answered(transport.exchange(PAYLOAD, 60)).status == 200
        assert answered(transport.exchange(PAYLOAD, 60)).status == 503
        assert server.connections == 2


@pytest.mark.parametrize("rest", [b"\r\n", b"\0", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTT"])
def test_no_rest_of_an_answer_becomes_a_yes_to_the_next_request(rest: bytes) -> None:
    with (
        Server(says(OK + rest, then_hang=True), answer(503)) as server,
        transport_to(server.url) as transport,
    ):
        answered(transport.exchange(PAYLOAD, 2))
        outcome = transport.exchange(PAYLOAD, 0.5)
        assert isinstance(outcome, NoAnswer) or outcome.status == 503


@pytest.mark.parametrize(
    "parts",
    [
        [NO_CONTENT + b"no"],
        [NO_CONTENT, b"no"],
        [b"HTTP/1.1 204 No Content\r\n\r\nno"],
        [b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"],
    ],
)
def test_after_a_204_with_a_body_the_connection_is_not_used_again(parts: list[bytes]) -> None:
    """Its body would be the begin of the next answer."""
    for pipelined in (None, True, False):
        with (
            Server(says(*parts, then_hang=True), answer(503)) as server,
            transport_to(server.url) as transport,
        ):
            for status in (204, 503):
                heard: list[int] = []

                def note(said: Answer, heard: list[int] = heard) -> bool:
                    heard.append(said.status)
                    return True

                if pipelined is None:
                    note(answered(transport.exchange(PAYLOAD, 60)))
                else:
                    transport.series([PAYLOAD], 60, note, pipelined=pipelined)
                assert heard == [status]
            assert server.connections == 2


def test_interim_answers_are_passed_over() -> None:
    spam = b"HTTP/1.1 100 Continue\r\n\r\n" * 500
    with Server(says(spam + OK)) as server, transport_to(server.url) as transport:
        assert answered(transport.exchange(PAYLOAD, 60)).body == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nO\x48\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nOH",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOH",
    ],
)
def test_bodies_of_every_framing_are_read_to_their_end(body: bytes) -> None:
    with Server(says(body)) as server, transport_to(server.url) as transport:
        assert answered(transport.exchange(PAYLOAD, 60)).body == b"OH"


def test_the_body_is_raw_and_is_cut_and_the_rest_is_not_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    with Server(endless(head, b"\x1f" * 65536)) as server, transport_to(server.url) as transport:
        got = answered(transport.exchange(PAYLOAD, 60))
        assert got.body == b"\x1f" * 1024 * 1024
        assert transport.received_bytes < 1_200_000


@pytest.mark.parametrize(
    ("first", "chunk"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 100),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 4000 + b"\r\nH\r\n",
        ),
    ],
    ids=["interim answers", "headers", "chunk extensions"],
)
def test_an_endless_answer_ends(first: bytes, chunk: bytes) -> None:
    with Server(endless(first, chunk)) as server, transport_to(server.url) as transport:
        unanswered(transport.exchange(PAYLOAD, 20))
        assert transport.received_bytes < 2_500_000


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 abc\r\n\r\n"],
)
def test_what_is_not_http_is_no_answer(garbage: bytes) -> None:
    with Server(says(garbage)) as server, transport_to(server.url) as transport:
        why = unanswered(transport.exchange(PAYLOAD, 60))
        assert why.startswith("what came back is not HTTP")
        assert "bytearray" not in why


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


@pytest.mark.parametrize("status", [401, 413, 503])
def test_a_refusal_is_clear_even_if_its_body_breaks_off(status: int) -> None:
    head = f"HTTP/1.1 {status} No\r\nContent-Length: 99\r\n\r\nno".encode()
    with Server(says(head)) as server, transport_to(server.url) as transport:
        got = answered(transport.exchange(PAYLOAD, 60))
        assert (got.status, got.body) == (status, b"no")


def test_an_answer_given_before_the_request_was_read_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse_early(line: Line, request: Request) -> bool:
        line.reply(413, "too large")
        line.hang()
        return False

    send = Connection.send

    def breaks_at_the_body(self: Connection, data: bytes) -> None:
        send(self, data.removesuffix(PAYLOAD.body))
        raise BrokenError("connection reset by peer")

    monkeypatch.setattr(Connection, "send", breaks_at_the_body)
    with (
        Server(Act(refuse_early, at_once=True)) as server,
        transport_to(server.url) as transport,
    ):
        assert answered(transport.exchange(PAYLOAD, 60)).status == 413


def test_the_url_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Server() as server, transport_to(server.url + "?key=secret") as transport:
        answered(transport.exchange(PAYLOAD, 60))
    assert "secret" not in caplog.text


# Every wait ends by the deadline.


def never(host: str, port: int) -> list[Address]:
    del host, port
    threading.Event().wait()
    raise AssertionError


LATE_ACTS: list[tuple[str, Act]] = [
    ("a server that hangs before it reads", hang(after_reading=False)),
    ("a server that hangs after it has read", hang()),
    ("a dripped head", drips(b"HTTP/1.1 200 OK\r\n" + b"X-Drip: drip\r\n" * 100)),
    ("a dripped body", drips(b"x" * 500, first=b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")),
    ("a hanging body", says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", then_hang=True)),
    (
        "dripped chunks",
        drips(b"1\r\nx\r\n" * 100, first=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ),
    ("dripped interim answers", drips(b"HTTP/1.1 100 Continue\r\n\r\n" * 50)),
]


def assert_ends_in_time(transport: Transport, payload: Payload = PAYLOAD) -> str:
    began_s = time.monotonic()
    reason = unanswered(transport.exchange(payload, DEADLINE_S))
    assert DEADLINE_S - 0.05 <= time.monotonic() - began_s <= DEADLINE_S + SLACK_S
    return reason


@pytest.mark.parametrize("act", [act for _, act in LATE_ACTS], ids=[name for name, _ in LATE_ACTS])
def test_the_exchange_ends_by_its_deadline(act: Act) -> None:
    with Server(act) as server, transport_to(server.url) as transport:
        assert "no answer within 1.5 s" in assert_ends_in_time(transport)


def test_the_deadline_ends_a_request_that_nobody_reads() -> None:
    with Server(hang(after_reading=False)) as server, transport_to(server.url) as transport:
        reason = assert_ends_in_time(transport, Payload(b"x" * 20_000_000, {}))
        assert reason == "the request was not read within 1.5 s"


def test_the_deadline_ends_a_tls_handshake_that_hangs() -> None:
    with (
        Server(hang(after_reading=False), tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        assert "no TLS handshake with 127.0.0.1:" in assert_ends_in_time(transport)


def test_the_deadline_ends_a_tls_handshake_that_drips() -> None:
    # The head of a record of 16 KiB, and then its bytes.
    slow = drips(b"\x02" * 500, first=b"\x16\x03\x03\x40\x00", at_once=True)
    with (
        Server(slow, tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        assert "no TLS handshake with 127.0.0.1:" in assert_ends_in_time(transport)


def test_the_deadline_ends_connecting() -> None:
    with swallowed_syn() as port, transport_to(f"http://127.0.0.1:{port}/") as transport:
        assert assert_ends_in_time(transport) == "no connection to 127.0.0.1 within 1.5 s"


def test_the_deadline_ends_name_resolution_and_a_pending_look_up_is_joined() -> None:
    calls: list[str] = []

    def resolve(host: str, port: int) -> list[Address]:
        calls.append(host)
        return never(host, port)

    dialer = Dialer(Clock(), resolve)
    with transport_to("http://far.example/", dialer=dialer) as transport:
        for _ in range(2):
            reason = assert_ends_in_time(transport)
            assert reason == "no name server answered for far.example within 1.5 s"
    assert calls == ["far.example"]


def test_a_look_up_that_comes_late_serves_the_exchange_that_joined_it() -> None:
    known = threading.Event()
    with Server() as server:

        def resolve(host: str, port: int) -> list[Address]:
            known.wait(60)
            return addresses.resolve("127.0.0.1", server.port)

        dialer = Dialer(Clock(), resolve)
        with transport_to("http://far.example/", dialer=dialer) as transport:
            unanswered(transport.exchange(PAYLOAD, 0.05))
            threading.Timer(0.05, known.set).start()
            answered(transport.exchange(PAYLOAD, 60))


def test_where_the_name_server_has_no_answer_its_last_word_serves() -> None:
    words = [True, False]
    with Server() as server:

        def resolve(host: str, port: int) -> list[Address]:
            if words.pop(0):
                return addresses.resolve("127.0.0.1", server.port)
            raise socket.gaierror(socket.EAI_AGAIN, "later")

        dialer = Dialer(Clock(), resolve)
        with transport_to("http://far.example/", dialer=dialer) as transport:
            answered(transport.exchange(PAYLOAD, 60))
            transport.drop_idle()
            answered(transport.exchange(PAYLOAD, 60))
    assert words == []
    assert server.connections == 2


# An abort ends it at once.


def test_an_abort_ends_an_exchange_at_once_and_the_next_until_rearmed() -> None:
    def run(start: Callable[[], str]) -> None:
        with transport_to(start(), dialer=Dialer(Clock(), resolve)) as transport:
            outcomes: list[Answer | NoAnswer] = []
            thread = threading.Thread(
                target=lambda: outcomes.append(transport.exchange(PAYLOAD, 60))
            )
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            transport.abort()
            thread.join(SLACK_S)
            assert not thread.is_alive()
            assert unanswered(outcomes[0]) == "stopped"
            assert unanswered(transport.exchange(PAYLOAD, 60)) == "stopped"

    def resolve(host: str, port: int) -> list[Address]:
        if host == "far.example":
            return never(host, port)
        return addresses.resolve(host, port)

    with Server(hang()) as server:
        run(lambda: server.url)
    with Server(hang(after_reading=False), tls=tls_server_context()) as server:
        run(lambda: server.url)
    with swallowed_syn() as port:
        run(lambda: f"http://127.0.0.1:{port}/")
    run(lambda: "http://far.example/")


def test_after_an_abort_a_rearmed_transport_works() -> None:
    with Server() as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        transport.abort()
        unanswered(transport.exchange(PAYLOAD, 60))
        transport.rearm()
        answered(transport.exchange(PAYLOAD, 60))


# TLS


def test_tls_is_verified_and_says_so() -> None:
    with (
        Server(tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        big = Payload(b"x" * 1_000_000, {})
        assert answered(transport.exchange(big, 60)).verified_tls
        assert answered(transport.exchange(PAYLOAD, 60)).verified_tls
        assert server.connections == 1
        assert [len(request.body) for request in server.requests] == [1_000_000, 12]
        assert transport.sent_bytes > 1_000_000


def test_a_tls_server_that_hangs_up_is_noticed_at_once() -> None:
    with (
        Server(answer(), hang_up(), hang_up(), tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        answered(transport.exchange(PAYLOAD, 60))
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "the server closed the connection without an answer"


def test_a_certificate_that_nobody_trusts_is_the_network() -> None:
    with Server(tls=tls_server_context()) as server, transport_to(server.url) as transport:
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "certificate not trusted: self-signed certificate"
        assert server.requests == []


def test_an_expired_certificate_casts_doubt_on_the_clock() -> None:
    with (
        Server(tls=tls_server_context("past")) as server,
        transport_to(server.url, credentials=trusting("past")) as transport,
    ):
        reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == (
        "certificate not trusted: certificate has expired (or this machine's clock is wrong)"
    )


def test_a_certificate_for_another_name_is_not_trusted() -> None:
    dialer = Dialer(Clock(), lambda host, port: addresses.resolve("127.0.0.1", port))
    with Server(tls=tls_server_context()) as server:
        url = f"https://other.example:{server.port}/"
        credentials = trusting()
        with transport_to(url, credentials=credentials, dialer=dialer) as transport:
            reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason.startswith("certificate not trusted: Hostname mismatch")


def test_a_plain_server_behind_an_https_url_is_named() -> None:
    with Server(drips(b"", first=b"HTTP/1.1 400 Bad Request\r\n\r\n", at_once=True)) as server:
        url = server.url.replace("http:", "https:")
        with transport_to(url, credentials=trusting()) as transport:
            reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == f"TLS handshake with 127.0.0.1:{server.port} failed: wrong version number"


# Reaching the server


def test_a_refused_connection_is_named() -> None:
    port = free_port()
    with transport_to(f"http://127.0.0.1:{port}/") as transport:
        outcome = transport.exchange(PAYLOAD, 60)
    assert outcome == NoAnswer(f"connection refused by 127.0.0.1:{port}", "unreachable")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no"), "name far.example does not resolve"),
        (
            socket.gaierror(socket.EAI_AGAIN, "no"),
            "no name server answers for far.example",
        ),
        (UnicodeError("label too long"), "name far.example does not resolve"),
    ],
)
def test_a_name_that_does_not_resolve_is_named(error: Exception, reason: str) -> None:
    def resolve(host: str, port: int) -> list[Address]:
        raise error

    with transport_to("http://far.example/", dialer=Dialer(Clock(), resolve)) as transport:
        assert unanswered(transport.exchange(PAYLOAD, 60)) == reason


def test_a_dead_address_leaves_time_for_the_next() -> None:
    with Server() as server, swallowed_syn() as dead:

        def resolve(host: str, port: int) -> list[Address]:
            return [Address(socket.AF_INET, ("127.0.0.1", port)) for port in (dead, server.port)]

        with transport_to("http://far.example/", dialer=Dialer(Clock(), resolve)) as transport:
            answered(transport.exchange(PAYLOAD, 5))


def test_an_address_that_never_answers_is_given_up_after_5_s() -> None:
    with swallowed_syn() as dead, transport_to(f"http://127.0.0.1:{dead}/") as transport:
        reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == f"no connection to 127.0.0.1:{dead} within 5 s"


def test_no_route_is_a_state_of_its_own() -> None:
    # The kernel has no route to the broadcast address of no network.
    def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("255.255.255.255", 80))]

    with transport_to("http://far.example/", dialer=Dialer(Clock(), resolve)) as transport:
        outcome = transport.exchange(PAYLOAD, 60)
    assert outcome == NoAnswer("no route to 255.255.255.255:80", "no-route")


def test_head_and_body_leave_in_one_write() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        first: list[bytes] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                first.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Transport(f"http://127.0.0.1:{port}/")) as transport:
            transport.exchange(Payload(b"x" * 500, {}), 60)
        thread.join(60)
    assert first[0].endswith(b"x" * 500)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(
    "whole",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"received":3}',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: 1\r\n\r\n",
    ],
)
def test_an_answer_that_ends_at_any_byte_is_none(whole: bytes, pipelined: bool, tls: bool) -> None:
    acts = [says(whole[:length]) for length in range(len(whole) + 1)]
    context = tls_server_context() if tls else None
    with (
        Server(*acts, tls=context) as server,
        contextlib.closing(Transport(server.url, credentials=trusting() if tls else None)) as t,
    ):
        heard: list[Answer] = []
        reasons = []

        def on_answer(answer: Answer) -> bool:
            heard.append(answer)
            return True

        for _ in acts[:-1]:
            failure, _ = t.series([PAYLOAD], 60, on_answer, pipelined=pipelined)
            reasons.append(failure.reason if failure else "")
        assert heard == []
        assert reasons[0] == "the server closed the connection without an answer"
        ends = "the answer broke off: the connection closed"
        assert all(reason.endswith(ends) for reason in reasons[1:])
        t.series([PAYLOAD], 60, on_answer, pipelined=pipelined)
        assert [answer.status for answer in heard] == [200]
