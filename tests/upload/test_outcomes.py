"""Limits on the fixes that an endpoint asks for again."""

from telemetry_agent.model import Delivered, ResendRange
from telemetry_agent.upload.outcomes import Resending

STREAM = "9f0c2d6e11a7b354"


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
    assert resent[1:] == [(STREAM, seq, seq) for seq in range(1, 21)]


def test_it_is_ignored_where_it_is_not_allowed() -> None:
    Resending(None).asked(Delivered(resend=(ResendRange(STREAM, 1, 10),)), 0)
