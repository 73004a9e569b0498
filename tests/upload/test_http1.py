"""Several answers on one connection: the bytes of each answer, and its end."""

import contextlib
import socket

import pytest
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    answer,
    endless,
    says,
    tls_server_context,
    trusting,
    twice,
)
from upload.upload_parts import PAYLOAD, answered, transport_to, unanswered

from telemetry_agent.model import Answer
from telemetry_agent.upload.http.connection import Connection
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import BrokenError
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

NO_CONTENT = b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_a_header_that_cannot_be_sent_is_no_traceback() -> None:
    credentials = Credentials({"X-Token": "a\nb"})
    with Server() as server, transport_to(server.url, credentials=credentials) as transport:
        assert unanswered(transport.exchange(PAYLOAD, 60)).startswith("the request cannot be sent")


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
    """Its body would be read as the start of the next answer."""
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
        assert transport.dialer.received_bytes < 1_200_000


@pytest.mark.parametrize(
    ("first", "chunk", "said"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "the answer is too long"),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 100, "of more than 100 KiB"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 4000 + b"\r\nH\r\n",
            "the answer is too long",
        ),
    ],
    ids=["interim answers", "headers", "chunk extensions"],
)
def test_an_endless_answer_ends(first: bytes, chunk: bytes, said: str) -> None:
    with Server(endless(first, chunk)) as server, transport_to(server.url) as transport:
        why = unanswered(transport.exchange(PAYLOAD, 20))
        assert said in why
        assert transport.dialer.received_bytes < 2_500_000


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", ": SSH-2.0-OpenSSH_9.2"),
        (b"\x15\x03\x01\x00\x02\x02\x46", ": this port speaks TLS"),
        (b"HTTP/1.1 abc\r\n\r\n", ""),
    ],
)
@pytest.mark.parametrize("then_hang", [False, True])
def test_what_is_not_http_is_no_answer(garbage: bytes, said: str, then_hang: bool) -> None:
    act = says(garbage, then_hang=then_hang)
    with Server(act) as server, transport_to(server.url) as transport:
        why = unanswered(transport.exchange(PAYLOAD, 60))
        assert why.startswith(f"what came back is not HTTP{said}")
        assert "bytearray" not in why


def test_the_limit_of_an_answer_is_not_that_of_a_connection() -> None:
    long = answer(200, "{}" + " " * 900_000)
    with Server(long, long, long) as server, transport_to(server.url) as transport:
        assert [answered(transport.exchange(PAYLOAD, 60)).status for _ in range(3)] == [200] * 3
        assert server.connections == 1


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
