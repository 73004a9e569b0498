"""What an endpoint asks for again."""

import json

import pytest

from telemetry_agent.model import Answer, Batch, Delivered, ResendRange
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.outcomes import Resending

STREAM = "9f0c2d6e11a7b354"
NOTHING = Batch(0, STREAM, "van-07", (), live=True)


def asked(items: object) -> tuple[ResendRange, ...]:
    body = json.dumps({"received": 0, "resend": items}).encode()
    outcome = judge(Answer(200, {}, body, verified_tls=False), NOTHING)
    assert isinstance(outcome, Delivered)
    return outcome.resend


def test_an_answer_may_ask_for_fixes_again() -> None:
    ranges = [{"stream": STREAM, "from": 17, "to": 40}, {"stream": STREAM, "from": 50, "to": 50}]
    assert asked(ranges) == (ResendRange(STREAM, 17, 40), ResendRange(STREAM, 50, 50))


@pytest.mark.parametrize(
    "items",
    [
        None,
        {},
        "all",
        [17],
        [{"stream": STREAM}],
        [{"stream": STREAM, "from": 0, "to": 4}],
        [{"stream": STREAM, "from": 5, "to": 4}],
        [{"stream": STREAM, "from": True, "to": 4}],
        [{"stream": STREAM, "from": 1, "to": 1 << 70}],
        [{"stream": STREAM.upper(), "from": 1, "to": 4}],
        [{"stream": 17, "from": 1, "to": 4}],
    ],
)
def test_what_asks_for_nothing_that_can_be_is_ignored(items: object) -> None:
    assert asked(items) == ()


def test_it_is_honoured_once_a_minute_and_within_bounds() -> None:
    resent: list[tuple[str, int, int]] = []

    def resend(stream: str, first: int, last: int) -> int:
        resent.append((stream, first, last))
        return 1

    resending = Resending(resend)
    resending.asked(Delivered(), 0)
    resending.asked(Delivered(resend=(ResendRange(STREAM, 1, 10**9),)), 1)
    assert resent == [(STREAM, 1, 10_000)]
    resending.asked(Delivered(resend=(ResendRange(STREAM, 5, 6),)), 60)
    assert len(resent) == 1
    many = tuple(ResendRange(STREAM, seq, seq) for seq in range(1, 100))
    resending.asked(Delivered(resend=many), 61)
    assert len(resent) == 21


def test_it_is_ignored_where_it_is_not_allowed() -> None:
    Resending(None).asked(Delivered(resend=(ResendRange(STREAM, 1, 10),)), 0)
