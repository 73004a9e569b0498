"""Several requests in flight on one connection: order, ends, and servers without support for it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pytest
from fakes import FakeClock
from misbehaving import Server as Misbehaving
from misbehaving import answer, says, tls_server_context, trusting
from standins import Asked, Recorder, Said, Server

from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.dialer import BrokenError
from telemetry_agent.upload.http.pipeline import Pipeline
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer

if TYPE_CHECKING:
    from telemetry_agent.upload.http.connection import Connection
    from telemetry_agent.upload.http.dialer import Dialer


def payloads(count: int, first: int = 0) -> list[Payload]:
    return [Payload(b"", {}, query=f"n={n}") for n in range(first, first + count)]


def series(
    transport: Transport,
    payloads: list[Payload],
    timeout_s: float,
    heard: Callable[[Answer], bool],
) -> tuple[NoAnswer | None, int]:
    return transport.series(payloads, timeout_s, heard, pipelined=True)


def number(asked: Asked) -> int:
    return int(dict(asked.query)["n"])


class Heard:
    """The answers, in order."""

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
    assert series(transport, payloads(500), 60, heard) == (None, 0)
    assert heard.bodies == seen == list(range(500))
    assert echo.connections == 1
    assert 32 < echo.most_under_way <= 128
    assert series(transport, payloads(20, 500), 60, heard) == (None, 0)
    assert echo.connections == 1
    transport.close()


def test_where_that_is_not_allowed_each_waits_for_the_answer_before(
    echo: Server, seen: list[int]
) -> None:
    transport, heard = Transport(echo.url), Heard(lambda answer: answer.body != b"29")
    assert transport.series(payloads(50), 60, heard, pipelined=False) == (None, 0)
    transport.close()
    assert heard.bodies == seen == list(range(30))
    assert (echo.connections, echo.most_under_way) == (1, 1)


def test_the_query_of_the_url_stays_and_the_body_is_sent() -> None:
    asked: list[Asked] = []

    def said(request: Asked) -> Said:
        asked.append(request)
        return Said()

    with Server(said) as server:
        transport = Transport(f"{server.url}/pub?u=jane")
        series(
            transport,
            [Payload(b"{}", {"X-Limit-D": "van"}), Payload(b"", {}, query="a=1")],
            60,
            Heard(),
        )
        transport.exchange(Payload(b"", {}, query="a=1"), 60)
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
        assert series(transport, payloads(20), 60, Heard()) == (None, 0)
        transport.close()
    assert seen == list(range(20))
    assert (server.connections, server.most_under_way) == (20, 1)


def test_what_came_behind_an_announced_end_is_sent_anew(
    seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def said(asked: Asked) -> Said:
        seen.append(number(asked))
        return Said(close=len(seen) % 50 == 0)

    with Server(said, latency_s=0.001) as server:
        transport = Transport(server.url)
        assert series(transport, payloads(180), 60, Heard()) == (None, 0)
        transport.close()
    assert seen == list(range(180))
    assert server.connections == 4
    assert not caplog.messages  # this is not a fault


def test_what_had_its_answer_is_told_before_the_connection_broke() -> None:
    def said(asked: Asked) -> Said | None:
        return None if number(asked) == 60 else Said()

    with Server(said, latency_s=0.002) as server:
        transport, heard = Transport(server.url), Heard()
        failure, unanswered = series(transport, payloads(200), 60, heard)
        transport.close()
    assert failure is not None
    # A server that closes before it has read everything sends a reset.
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
        assert series(transport, payloads(200), 60, heard) == (None, 0)
        transport.close()
    assert len(heard.answers) == len(seen) < 20  # requests in flight are read to their answers


def test_a_connection_that_was_closed_meanwhile_is_repeated_on_a_fresh_one(seen: list[int]) -> None:
    with Misbehaving(answer(200), answer(200)) as server:
        transport, heard = Transport(server.url), Heard()
        assert series(transport, payloads(2), 60, heard) == (None, 0)
        server.close_idle()
        assert series(transport, payloads(3), 60, heard) == (None, 0)
        transport.close()
        assert len(heard.answers) == 5
        assert server.connections == 2


class OneBody(Recorder):
    """Read as the Recorder does, and answer with the number of the request that was accepted."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __call__(self, asked: Asked) -> Said:
        self.taken.append(number(asked))
        return Said(200, str(number(asked)).encode())


def test_no_answer_is_taken_for_that_to_a_request_that_was_thrown_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    one_body, heard = OneBody(), Heard()
    with Server(one_body, latency_s=0.01) as server:
        transport = Transport(server.url)
        for _ in range(2):
            sent = payloads(20, len(heard.answers))
            failure, unanswered = series(transport, sent, 2, heard)
            assert failure == NoAnswer("no answer within 2 s")
            assert unanswered == 1
        assert series(transport, payloads(4, len(heard.answers)), 60, heard) == (None, 0)
        transport.close()
    assert heard.bodies == one_body.taken == list(range(8))
    assert caplog.text.count("sending one request at a time for 10 min") == 1


class Scripted:
    """Dialer and connection of a server that reads ``reads`` requests of each write."""

    aborted = False
    tls = None

    def __init__(self, reads: int = 1000, *, closes_after: int = 0) -> None:
        self.clock = FakeClock()
        self.reads = reads
        self.closes_after = closes_after
        self.rounds: list[int] = []
        """Number of requests in each write."""
        self.connections = 0
        self.may_repeat = True
        self._owed = self._answered = 0

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    def begin(self, timeout_s: float) -> None:
        pass

    def begin_request(self) -> None:
        self.may_repeat = True

    def connect(self) -> "Scripted":
        self.may_repeat = False
        self.connections += 1
        self._answered = 0
        return self

    def send(self, data: bytes) -> None:
        assert not self._owed, "more was sent before the round was answered"
        self.rounds.append(data.count(b"POST /"))
        self._owed = min(self.rounds[-1], self.reads)

    def recv(self, max_bytes: int) -> bytes:
        if not self._owed:
            raise BrokenError("the server closed the connection without an answer")
        self._owed -= 1
        self.may_repeat = False
        self._answered += 1
        ends = self._answered == self.closes_after
        close = b"Connection: close\r\n" if ends else b""
        self._owed *= not ends
        return b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % close

    def stale(self) -> bool:
        return False

    def no_answer(self, error: Exception) -> NoAnswer:
        return NoAnswer(str(error))

    def close(self) -> None:
        self._owed = 0


def scripted(server: Scripted) -> Callable[[int], tuple[int, int]]:
    """Return a function that sends ``count`` requests; it counts the answered and the others."""
    one = Pipeline(cast("Dialer", server), lambda: cast("Connection", server.connect()))
    request = b"POST / HTTP/1.1\r\n\r\n"

    def send(count: int) -> tuple[int, int]:
        heard = Heard()
        _, unanswered = one.series([request] * count, 30, heard)
        return len(heard.answers), unanswered

    return send


def test_a_round_is_twice_the_one_before_once_that_is_answered() -> None:
    server = Scripted()
    send = scripted(server)
    assert send(500) == (500, 0)
    assert server.rounds == [1, 2, 4, 8, 16, 32, 64, 128, 128, 117]
    assert send(130) == (130, 0)  # the connection is kept, and so is the round size
    assert server.rounds[10:] == [128, 2]
    assert server.connections == 1


def test_a_server_that_closes_after_so_many_gets_whole_rounds_up_to_there() -> None:
    server = Scripted(closes_after=100)
    send = scripted(server)
    assert send(400) == (400, 0)
    # 37 of the second round of 64 are answered, which shows where a connection ends.
    assert server.rounds == [1, 2, 4, 8, 16, 32, 64, 64, 36, 100, 100]
    assert server.connections == 4
    server.rounds.clear()
    server.closes_after = 0  # the server has no limit now
    assert send(500) == (500, 0)
    assert server.rounds == [100, 128, 128, 128, 16]
    assert server.connections == 5


def test_a_small_round_shows_nothing_about_a_large_one() -> None:
    server = Scripted()
    send = scripted(server)
    for _ in range(4):
        send(3)
    assert server.rounds == [1, 2, 3, 3, 3]
    assert send(12) == (12, 0)
    assert server.rounds[5:] == [4, 8]


@pytest.mark.parametrize("reads", [1, 3, 8, 100])
def test_after_two_broken_rounds_they_go_one_at_a_time_for_ten_minutes(reads: int) -> None:
    server = Scripted(reads)
    send = scripted(server)
    for _ in range(2):
        answered, unanswered = send(300)
        *whole, broken = server.rounds
        assert max(whole, default=1) <= reads < broken
        assert (answered, unanswered) == (sum(whole) + reads, broken - reads)
        assert send(1) == (1, 0)  # proves nothing
        server.rounds.clear()
    server.clock.advance(599)
    assert send(300) == (300, 0)
    assert set(server.rounds) == {1}
    server.clock.advance(1)
    assert send(300)[1] > 0


def test_one_broken_round_is_forgotten_after_a_whole_one_of_its_size() -> None:
    server = Scripted()
    send = scripted(server)
    for _ in range(3):
        server.reads = 1
        assert send(4)[1] > 0
        server.reads = 1000
        assert send(20) == (20, 0)
    assert max(server.rounds[-5:]) == 8


@pytest.mark.parametrize(
    ("bytes_", "reason"),
    [
        (b"SSH-2.0-dropbear\r\n\r\n", "what came back is not HTTP"),
        (b"HTTP/1.1 103 X\r\nLink: %s\r\n\r\n" % (b"a" * 9000) * 300, "the answer is too long"),
        (b"", "no answer within 2 s"),
    ],
)
def test_what_is_no_answer_is_said(bytes_: bytes, reason: str) -> None:
    with Server(lambda _: bytes_) as server:
        transport = Transport(server.url)
        failure, unanswered = series(transport, payloads(3), 2, Heard())
        transport.close()
    assert failure is not None
    assert failure.reason.startswith(reason)
    assert unanswered == 1


@pytest.mark.parametrize("first", [b"Content-Length: 3000000\r\n", b""])
def test_an_answer_that_is_too_long_is_one_without_its_end(first: bytes) -> None:
    """Also for a long web page, the user sees what answered."""
    said = b"HTTP/1.1 200 OK\r\n%s\r\n%s" % (first, b"x" * 3_000_000)
    with Server(lambda _: said) as server:
        transport, heard = Transport(server.url), Heard()
        assert series(transport, payloads(3), 60, heard) == (None, 0)
        transport.close()
    assert server.connections == 3
    assert {len(answer.body) for answer in heard.answers} == {1024 * 1024}
    assert all((answer.too_long_bytes or 0) > 1024 * 1024 for answer in heard.answers)


def test_each_answer_may_be_as_long_as_the_others() -> None:
    with Server(lambda _: Said(200, b"x" * 900_000)) as server:
        transport, heard = Transport(server.url), Heard()
        assert series(transport, payloads(4), 60, heard) == (None, 0)
        transport.close()
    assert [len(answer.body) for answer in heard.answers] == [900_000] * 4


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_status_that_accepts_nothing_is_heard_without_the_end_of_its_body(
    pipelined: bool,
) -> None:
    cut_off = says(b"HTTP/1.1 503 X\r\nContent-Length: 100\r\n\r\nla")
    with Misbehaving(cut_off, cut_off) as server:
        transport, heard = Transport(server.url), Heard(lambda _: False)
        assert transport.series(payloads(1), 60, heard, pipelined=pipelined) == (None, 0)
        transport.close()
    assert [answer.status for answer in heard.answers] == [503]


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with Server(lambda _: one + one) as server:
        transport, heard = Transport(server.url), Heard()
        series(transport, payloads(1), 60, heard)
        series(transport, payloads(1), 60, heard)
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
            failure, _ = series(transport, payloads(20), 60, Heard())
            assert failure == NoAnswer(
                "the server answers more often than it is asked", voids_earlier=True
            )
        # Sent one by one, each answer belongs to its own request.
        assert series(transport, payloads(20), 60, Heard()) == (None, 0)
        transport.close()


def test_chunks_and_interim_answers_are_understood() -> None:
    said = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"
    )
    with Server(lambda _: said) as server:
        transport, heard = Transport(server.url), Heard()
        assert series(transport, payloads(30), 60, heard) == (None, 0)
        transport.close()
    assert [answer.body for answer in heard.answers] == [b"[]"] * 30


def test_over_tls_the_answers_are_verified() -> None:
    with Misbehaving(tls=tls_server_context()) as server:
        transport, heard = Transport(server.url, credentials=trusting()), Heard()
        assert series(transport, payloads(50), 60, heard) == (None, 0)
        transport.close()
    assert all(answer.verified_tls for answer in heard.answers)
    assert server.connections == 1


def test_nobody_there_and_an_abort_are_no_answer(echo: Server) -> None:
    transport = Transport("http://127.0.0.1:9/")
    failure, unanswered = series(transport, payloads(3), 60, Heard())
    assert failure == NoAnswer("connection refused by 127.0.0.1:9")
    assert unanswered == 1
    transport = Transport(echo.url)
    transport.dialer.abort()
    assert series(transport, payloads(3), 60, Heard()) == (NoAnswer("stopped"), 1)
    transport.close()


def test_a_bug_in_the_listener_leaves_no_answer_for_the_next_series(echo: Server) -> None:
    def broken(_: Answer) -> bool:
        raise RuntimeError("a bug")

    transport, heard = Transport(echo.url), Heard()
    series(transport, payloads(40), 60, Heard())  # so that several are in flight
    with pytest.raises(RuntimeError):
        series(transport, payloads(40), 60, broken)
    series(transport, payloads(3, 100), 60, heard)
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
        assert series(transport, payloads(5), 60, heard) == (None, 0)
        transport.close()
    assert targets == [f"http://far.test:5055/?n={n}" for n in range(3)]
    assert len(heard.answers) == 3
