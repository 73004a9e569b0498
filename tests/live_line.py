"""A receiver on a live line, one second at a time."""

from collections.abc import Callable
from datetime import UTC, datetime

from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.model import Fix


def live(wall_clock: Callable[[], int | None] = lambda: None, baud: int | None = None) -> Decoder:
    """The decoder of a live source."""
    return Decoder(wall_clock=wall_clock, fix_rollover=True, baud=baud)


def second(decoder: Decoder, n: int, *sentences: bytes) -> list[Fix]:
    """One second on the line: sentences at its start, then silence, with ticks when due."""
    fixes = decoder.feed(b"".join(sentences), float(n))
    due_s = decoder.due_s()
    return fixes if due_s is None else fixes + decoder.tick(due_s)


def times(fixes: list[Fix]) -> list[str]:
    """The times of day of the fixes."""
    return [rfc3339(fix.time_ms)[11:-1] for fix in fixes]


def wall(text: str) -> int:
    """An instant in milliseconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
