"""Each wait for the endpoint ends: by its deadline, by an abort, or with an address."""

import socket
import threading
import time
from collections.abc import Callable

import pytest
from misbehaving import (
    Act,
    Server,
    answer,
    drips,
    hang,
    hang_up,
    reset,
    says,
    swallowed_syn,
    tls_server_context,
    trusting,
)
from ports import free_port
from upload.upload_parts import PAYLOAD, answered, transport_to, unanswered

from telemetry_agent import addresses
from telemetry_agent.addresses import Address
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

DEADLINE_S = 1.5
SLACK_S = 10.0  # for a busy machine; the acts take longer


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
    # The header of a TLS record of 16 KiB, then its bytes.
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
            transport.dialer.abort()
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
        transport.dialer.abort()
        unanswered(transport.exchange(PAYLOAD, 60))
        transport.dialer.rearm()
        answered(transport.exchange(PAYLOAD, 60))


def test_an_expired_certificate_casts_doubt_on_the_clock() -> None:
    with (
        Server(tls=tls_server_context("past")) as server,
        transport_to(server.url, credentials=trusting("past")) as transport,
    ):
        reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == (
        "certificate not trusted: certificate has expired (or this machine's clock is wrong)"
    )


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
    # The kernel has no route to this broadcast address.
    def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("255.255.255.255", 80))]

    with transport_to("http://far.example/", dialer=Dialer(Clock(), resolve)) as transport:
        outcome = transport.exchange(PAYLOAD, 60)
    assert outcome == NoAnswer("no route to 255.255.255.255:80", "no-route")
