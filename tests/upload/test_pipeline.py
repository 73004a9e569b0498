"""Several requests under way on one connection: order, ends, and servers that cannot do it."""

from collections.abc import Callable, Iterator

import pytest
from misbehaving import Server as Misbehaving
from misbehaving import answer, tls_server_context, trusting
from standins import Asked, Said, Server

from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer


def payloads(count: int, first: int = 0) -> list[Payload]:
    return [Payload(b"", {}, query=f"n={n}") for n in range(first, first + count)]


def number(asked: Asked) -> int:
    return int(dict(asked.query)["n"])


class Heard:
    """What was answered, in its order."""

    def __init__(self, go_on: Callable[[Answer], bool] = lambda _: True) -> None:
        self.answers: list[Answer] = []
        self._go_on = go_on

    def __call__(self, answer: Answer) -> bool:
        self.answers.append(answer)
        return self._go_on(answer)

    @property
    def bodies(self) -> list[int]:
        return [int(answer.body) for answer in self.answers]


@pytest.fixture
def seen() -> list[int]:
    return []


@pytest.fixture
def echo(seen: list[int]) -> Iterator[Server]:
    def said(asked: Asked) -> Said:
        seen.append(number(asked))
        return Said(200, str(number(asked)).encode())

    with Server(said, latency_s=0.002) as server:
        yield server


def test_each_request_has_its_own_answer_and_they_do_not_wait_for_each_other(
    echo: Server, seen: list[int]
) -> None:
    transport, heard = Transport(echo.url), Heard()
    assert transport.series(payloads(500), 10, heard) == (None, 0)
    assert heard.bodies == seen == list(range(500))
    assert echo.connections == 1
    assert 32 < echo.most_under_way <= 128
    assert transport.series(payloads(20, 500), 10, heard) == (None, 0)
    assert echo.connections == 1
    transport.close()


def test_the_query_of_the_url_stays_and_the_body_is_sent() -> None:
    asked: list[Asked] = []

    def said(request: Asked) -> Said:
        asked.append(request)
        return Said()

    with Server(said) as server:
        transport = Transport(f"{server.url}/pub?u=jane")
        transport.series(
            [Payload(b"{}", {"X-Limit-D": "van"}), Payload(b"", {}, query="a=1")], 5, Heard()
        )
        transport.exchange(Payload(b"", {}, query="a=1"), 5)
        transport.close()
    assert [request.target for request in asked] == ["/pub?u=jane", *["/pub?u=jane&a=1"] * 2]
    assert (asked[0].body, asked[0].headers["x-limit-d"]) == (b"{}", "van")
    assert all(request.headers["user-agent"].startswith("telemetry-agent/") for request in asked)


def test_a_server_that_closes_after_each_answer_gets_one_at_a_time(seen: list[int]) -> None:
    def said(asked: Asked) -> Said:
        seen.append(number(asked))
        return Said(close=True)

    with Server(said) as server:
        transport = Transport(server.url)
        assert transport.series(payloads(20), 10, Heard()) == (None, 0)
        transport.close()
    assert seen == list(range(20))
    assert (server.connections, server.most_under_way) == (20, 1)


def test_what_came_behind_an_announced_end_is_sent_anew(seen: list[int]) -> None:
    def said(asked: Asked) -> Said:
        seen.append(number(asked))
        return Said(close=len(seen) % 50 == 0)

    with Server(said, latency_s=0.001) as server:
        transport = Transport(server.url)
        assert transport.series(payloads(180), 10, Heard()) == (None, 0)
        transport.close()
    assert seen == list(range(180))
    assert server.connections == 4


def test_what_had_its_answer_is_told_before_the_connection_broke() -> None:
    def said(asked: Asked) -> Said | None:
        return None if number(asked) == 60 else Said()

    with Server(said, latency_s=0.002) as server:
        transport, heard = Transport(server.url), Heard()
        failure, unanswered = transport.series(payloads(200), 10, heard)
        transport.close()
    assert failure is not None
    # A server that has not read all of it closes by a reset.
    assert (
        failure.reason.startswith("the server closed the connection") or "reset" in failure.reason
    )
    assert len(heard.answers) == 60
    assert 1 < unanswered <= 128


def test_no_more_is_sent_once_an_answer_makes_it_pointless(seen: list[int]) -> None:
    def said(asked: Asked) -> Said:
        seen.append(number(asked))
        return Said(503 if number(asked) == 5 else 200)

    with Server(said, latency_s=0.005) as server:
        transport, heard = Transport(server.url), Heard(lambda answer: answer.status == 200)
        assert transport.series(payloads(200), 10, heard) == (None, 0)
        transport.close()
    assert len(heard.answers) == len(seen) < 20  # those under way are heard to their end


def test_a_connection_that_was_closed_meanwhile_is_repeated_on_a_fresh_one(seen: list[int]) -> None:
    with Misbehaving(answer(200), answer(200)) as server:
        transport, heard = Transport(server.url), Heard()
        assert transport.series(payloads(2), 5, heard) == (None, 0)
        server.close_idle()
        assert transport.series(payloads(3), 5, heard) == (None, 0)
        transport.close()
        assert len(heard.answers) == 5
        assert server.connections == 2


def test_a_server_that_looks_at_one_request_at_a_time_is_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It throws away what comes behind the request that it answers."""
    caplog.set_level("INFO")

    def said(asked: Asked) -> Said | bytes:
        fresh = asked.connection not in busy or not busy[asked.connection]
        busy[asked.connection] = True
        return Said() if fresh else b""

    busy: dict[int, bool] = {}

    class Forgetful(Server):
        def _take(self, buffer: bytes, number: int, owed: list[tuple[float, bytes, bool]]) -> bytes:
            busy[number] = False
            return super()._take(buffer, number, owed)

    with Forgetful(said, latency_s=0.05) as server:
        transport = Transport(server.url)
        for _ in range(2):
            failure, unanswered = transport.series(payloads(20), 0.5, Heard())
            assert failure == NoAnswer("no answer within 0.5 s")
            assert unanswered > 0
        assert transport.series(payloads(4), 2, Heard()) == (None, 0)
        transport.close()
    assert caplog.text.count("one request at a time") == 1


@pytest.mark.parametrize(
    ("bytes_", "reason"),
    [
        (b"SSH-2.0-dropbear\r\n\r\n", "what came back is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 700_000, "the server talks without end"),
        (b"", "no answer within 0.3 s"),
    ],
)
def test_what_is_no_answer_is_said(bytes_: bytes, reason: str) -> None:
    with Server(lambda _: bytes_) as server:
        transport = Transport(server.url)
        failure, unanswered = transport.series(payloads(3), 0.3, Heard())
        transport.close()
    assert failure is not None
    assert failure.reason.startswith(reason)
    assert unanswered == 1


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with Server(lambda _: one + one) as server:
        transport, heard = Transport(server.url), Heard()
        transport.series(payloads(1), 5, heard)
        transport.series(payloads(1), 5, heard)
        transport.close()
    assert (len(heard.answers), server.connections) == (2, 2)


def test_with_several_under_way_an_answer_too_many_counts_for_nothing() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    extra = {19}

    def said(asked: Asked) -> bytes:
        return one * (1 + (number(asked) in extra))

    with Server(said, latency_s=0.01) as server:
        transport = Transport(server.url)
        for _ in range(2):
            failure, _ = transport.series(payloads(20), 5, Heard())
            assert failure == NoAnswer(
                "the server answers more often than it is asked", taints=True
            )
        # One by one each answer is told from the next.
        assert transport.series(payloads(20), 5, Heard()) == (None, 0)
        transport.close()


def test_chunks_and_interim_answers_are_understood() -> None:
    said = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"
    )
    with Server(lambda _: said) as server:
        transport, heard = Transport(server.url), Heard()
        assert transport.series(payloads(30), 5, heard) == (None, 0)
        transport.close()
    assert [answer.body for answer in heard.answers] == [b"[]"] * 30


def test_over_tls_the_answers_are_verified() -> None:
    with Misbehaving(tls=tls_server_context()) as server:
        transport, heard = Transport(server.url, credentials=trusting()), Heard()
        assert transport.series(payloads(50), 5, heard) == (None, 0)
        transport.close()
    assert all(answer.verified_tls for answer in heard.answers)
    assert server.connections == 1


def test_nobody_there_and_an_abort_are_no_answer(echo: Server) -> None:
    transport = Transport("http://127.0.0.1:9/")
    failure, unanswered = transport.series(payloads(3), 5, Heard())
    assert failure == NoAnswer("connection refused by 127.0.0.1:9")
    assert unanswered == 1
    transport = Transport(echo.url)
    transport.abort()
    assert transport.series(payloads(3), 5, Heard()) == (NoAnswer("stopped"), 1)
    transport.close()


def test_a_bug_in_the_listener_leaves_no_answer_for_the_next_series(echo: Server) -> None:
    def broken(_: Answer) -> bool:
        raise RuntimeError("a bug")

    transport, heard = Transport(echo.url), Heard()
    transport.series(payloads(40), 5, Heard())  # so that several are under way
    with pytest.raises(RuntimeError):
        transport.series(payloads(40), 5, broken)
    transport.series(payloads(3, 100), 5, heard)
    assert heard.bodies == [100, 101, 102]
    transport.close()


def test_a_proxy_gets_them_one_by_one() -> None:
    targets: list[str] = []

    def said(asked: Asked) -> Said:
        targets.append(asked.target)
        return Said(503 if "n=2" in asked.target else 200)

    with Server(said) as proxy:
        transport, heard = Transport("http://far.test:5055/", proxy=proxy.url), Heard()
        heard._go_on = lambda answer: answer.status == 200
        assert transport.series(payloads(5), 5, heard) == (None, 0)
        transport.close()
    assert targets == [f"http://far.test:5055/?n={n}" for n in range(3)]
    assert len(heard.answers) == 3
